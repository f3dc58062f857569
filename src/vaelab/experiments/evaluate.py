"""A finished run measured again, and drawn again."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from vaelab.errors import SettingError, choice
from vaelab.experiments.assembly import Parts, assemble, build_trainer
from vaelab.experiments.screen import quiet_lightning
from vaelab.experiments.train import draw_pictures, load_weights, make_cards, test
from vaelab.noise import Noise
from vaelab.runs import Card, RunDirectory, read_cards, read_manifest, read_yaml, write_cards
from vaelab.runs.cards import comparable, table
from vaelab.training.pictures import Artist

CHECKPOINTS = ("selected", "best", "last")


@dataclass(frozen=True)
class Stored:
    """A finished run, built again with its weights."""

    run: RunDirectory
    parts: Parts
    checkpoint: Path
    selected_by: str


def evaluate(options: dict[str, Any]) -> list[Card]:
    """Measure the test set with a run's weights and put the cards beside those that are there.

    Args:
        options: ``run``, ``checkpoint``, ``seed`` and ``binarize`` (None = the run's), ``estimator``, ``trainer``, ``paths``.

    Returns:
        the new cards. A card that another one can be compared with replaces it.
    """
    stored = _open(options)
    trainer = build_trainer(stored.parts)
    seconds = test(stored.parts, trainer, stored.run)
    new = make_cards(stored.parts, stored.run, stored.checkpoint, stored.selected_by, seconds)
    changes = _changes(options, stored)
    new = [replace(card, protocol={**card.protocol, **changes}) for card in new]
    old = read_cards(stored.run.evaluation_file) if stored.run.evaluation_file.is_file() else []
    kept = [card for card in old if all(comparable(card, other) for other in new)]
    write_cards(stored.run.evaluation_file, [*kept, *new])
    Console().print(table(new))
    print(stored.run.evaluation_file)
    return new


def sample(options: dict[str, Any]) -> list[Path]:
    """Draw a run's pictures again, and write samples as numbers.

    Args:
        options: ``run``, ``checkpoint``, ``seed`` (None = the run's), ``num_samples``, ``paths``.

    Returns:
        the files written.
    """
    stored = _open(options)
    torch.set_grad_enabled(False)
    best_step = read_manifest(stored.run).get("best_step")
    paths = draw_pictures(stored.parts, stored.run, best_step, [], 0)
    artist = Artist(stored.parts.module.model, stored.parts.data, stored.parts.module.noise)
    images = artist.samples(options["num_samples"])
    path = stored.run.path / "samples.npz"
    np.savez_compressed(path, allow_pickle=False, images=images)
    for written in [*paths, path]:
        print(written)
    return [*paths, path]


def _open(options: dict[str, Any]) -> Stored:
    quiet_lightning()
    run = RunDirectory.open(options["run"])
    config = copy.deepcopy(read_yaml(run.config_file))
    manifest = read_manifest(run)
    config["paths"] = {**config["paths"], "data_dir": options["paths"]["data_dir"]}
    config["callbacks"] = {}
    for group in ("estimator", "trainer"):
        if group in options:
            config[group] = {**config[group], **options[group]}
    if options.get("binarize") is not None:
        config["data"]["binarize"] = options["binarize"]
    choice("checkpoint", options["checkpoint"], CHECKPOINTS)
    parts = assemble(config)
    if options["seed"] is not None:
        parts.module.noise = Noise(options["seed"])
    by_score = manifest.get("best_score") is not None
    which = options["checkpoint"] if options["checkpoint"] != "selected" else "best" if by_score else "last"
    checkpoint = run.best_checkpoint if which == "best" else run.last_checkpoint
    if not checkpoint.is_file():
        raise SettingError("checkpoint", options["checkpoint"], f"{checkpoint} is not there")
    load_weights(parts.module, checkpoint)
    score = config["score"]
    selected_by = f"{score['name']} ({score['mode']})" if which == "best" else "last"
    parts.module.model.eval()
    return Stored(run, parts, checkpoint, selected_by)


def _changes(options: dict[str, Any], stored: Stored) -> dict[str, Any]:
    """What differs from the run's own settings and is not in the protocol already."""
    seed = options["seed"]
    return {} if seed is None or seed == stored.parts.config["seed"] else {"evaluation_seed": seed}
