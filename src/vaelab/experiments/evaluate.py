"""A finished run measured again, and drawn again."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vaelab.data.protocol import BINARIZE
from vaelab.errors import SettingError, choice, integer
from vaelab.experiments.assembly import Parts, assemble, build_trainer
from vaelab.experiments.cards import fallback_warning, selected_by
from vaelab.experiments.screen import quiet_lightning
from vaelab.experiments.train import draw_pictures, load_weights, make_cards, test
from vaelab.noise import Noise
from vaelab.runs import Card, RunDirectory, read_cards, read_manifest, read_yaml, write_cards
from vaelab.runs.cards import comparable, table
from vaelab.training.pictures import Artist

CHECKPOINTS = ("selected", "best", "last")


@dataclass(frozen=True)
class Stored:
    """A finished run, built again with its weights.

    Attributes:
        run: its directory.
        parts: its parts, with the weights of the checkpoint.
        checkpoint: which.
        selected_by: how that was chosen, for the card.
        warning: what stands on every card of this run.
    """

    run: RunDirectory
    parts: Parts
    checkpoint: Path
    selected_by: str
    warning: str | None


def evaluate(options: dict[str, Any]) -> list[Card]:
    """Measure the test set with a run's weights and put the cards beside those that are there.

    Args:
        options: ``run``, ``checkpoint``, ``seed``, ``binarize``, ``estimator``, ``trainer`` (None = the run's), ``paths``.

    Returns:
        the new cards. A card that another one can be compared with replaces it; per-image values go to a folder of their own.
    """
    check_evaluation(options)
    stored = _open(options)
    if stored.parts.module.test_settings.num_samples == 0:
        print(f"no importance-weighted estimate: a number labelled {stored.parts.label} is no log-likelihood")
    folder = _fresh_folder(stored.run.path / "evaluations")
    trainer = build_trainer(stored.parts)
    seconds = test(stored.parts, trainer, folder / "per_image.npz")
    new = make_cards(
        stored.parts, folder / "per_image.npz", stored.checkpoint, stored.selected_by, seconds, stored.warning
    )
    changes = _changes(options, stored)
    new = [replace(card, protocol={**card.protocol, **changes}) for card in new]
    old = read_cards(stored.run.evaluation_file) if stored.run.evaluation_file.is_file() else []
    kept = [card for card in old if all(comparable(card, other) for other in new)]
    write_cards(stored.run.evaluation_file, [*kept, *new])
    Console().print(table(new))
    print(f"{stored.run.evaluation_file}\n{folder / 'per_image.npz'}")
    return new


def sample(options: dict[str, Any]) -> list[Path]:
    """Draw a run's pictures, and write samples as numbers, into ``samples/<checkpoint>_seed<seed>/`` of the run directory.

    Args:
        options: ``run``, ``checkpoint``, ``seed`` (None = the run's), ``num_samples``, ``paths``.

    Returns:
        the files written.
    """
    check_evaluation(options)
    integer("num_samples", options["num_samples"], 1)
    stored = _open(options)
    artist = Artist(stored.parts.module.evaluated, stored.parts.data, stored.parts.module.noise)
    folder = stored.run.path / "samples" / f"{options['checkpoint']}_seed{artist.noise.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    best_step = read_manifest(stored.run).get("best_step")
    paths = draw_pictures(artist, stored.run, folder, best_step)
    path = folder / "samples.npz"
    labels = artist.labels(options["num_samples"])
    of_classes = {} if labels is None else {"labels": labels.numpy()}
    images = artist.samples(options["num_samples"])
    np.savez_compressed(path, allow_pickle=False, images=images, **of_classes)
    for written in [*paths, path]:
        print(written)
    return [*paths, path]


def check_evaluation(options: dict[str, Any]) -> None:
    """Refuse options that no evaluation could follow, before anything is read."""
    choice("checkpoint", options["checkpoint"], CHECKPOINTS)
    if options["seed"] is not None:
        integer("seed", options["seed"], 0)
    if options.get("binarize") is not None:
        choice("binarize", options["binarize"], BINARIZE)
    for key, least in (("num_samples", 0), ("repetitions", 1), ("max_rows", 1)):
        value = options.get("estimator", {}).get(key)
        if value is not None:
            integer(f"estimator.{key}", value, least)


def _open(options: dict[str, Any]) -> Stored:
    quiet_lightning()
    run = RunDirectory.open(options["run"])
    config = copy.deepcopy(read_yaml(run.config_file))
    manifest = read_manifest(run)
    config["paths"] = {**config["paths"], "data_dir": options["paths"]["data_dir"]}
    config["callbacks"] = {}
    for group in ("estimator", "trainer"):
        changed = {key: value for key, value in options.get(group, {}).items() if value is not None}
        config[group] = {**config[group], **changed}
    if options.get("binarize") is not None:
        config["data"]["binarize"] = options["binarize"]
    by_score = run.best_checkpoint.is_file()
    which = options["checkpoint"] if options["checkpoint"] != "selected" else "best" if by_score else "last"
    checkpoint = run.best_checkpoint if which == "best" else run.last_checkpoint
    if not checkpoint.is_file():
        raise SettingError("checkpoint", options["checkpoint"], f"{checkpoint} is not there")
    parts = assemble(config)
    if options["seed"] is not None:
        parts.module.noise = Noise(options["seed"])
    load_weights(parts.module, checkpoint)
    parts.module.evaluated.eval()
    data = manifest["data"]
    warning = fallback_warning(data["requested"], data["actual"]) if data["fallback_reason"] else None
    return Stored(run, parts, checkpoint, selected_by(config, which == "best"), warning)


def _changes(options: dict[str, Any], stored: Stored) -> dict[str, Any]:
    """What differs from the run's own settings and is not in the protocol already."""
    seed = options["seed"]
    return {} if seed is None or seed == stored.parts.config["seed"] else {"evaluation_seed": seed}


def _fresh_folder(parent: Path) -> Path:
    folder = parent / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    folder.mkdir(parents=True)
    return folder
