"""A finished run measured again, and drawn again."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from vaelab import figures
from vaelab.build import build
from vaelab.data.datamodule import Tested
from vaelab.data.protocol import BINARIZE
from vaelab.errors import RunFailed, SettingError, choice, integer
from vaelab.evidence import Estimator
from vaelab.experiments.assembly import OURS, Parts, assemble, build_trainer
from vaelab.experiments.cards import card, fallback_warning, selected_by
from vaelab.experiments.check import stored_config
from vaelab.experiments.diagnostic import Diagnostic, Findings, Subject, on_device
from vaelab.experiments.foreign import SELECTED_BY, Elsewhere, import_weights
from vaelab.experiments.recording import RUN_DIRECTORY, interruption, is_main_process
from vaelab.experiments.screen import quiet_lightning
from vaelab.experiments.train import (
    PER_IMAGE,
    draw_pictures,
    load_weights,
    make_cards,
    make_protocol,
    measure,
)
from vaelab.loading import give_weights, read_weights
from vaelab.noise import Noise
from vaelab.runs import (
    Card,
    RunDirectory,
    Status,
    read_cards,
    read_json,
    read_manifest,
    read_status,
    recorded_data,
    write_atomically,
    write_cards,
    write_json,
)
from vaelab.runs.cards import comparable, table
from vaelab.runs.environment import versions
from vaelab.runs.interruption import Interrupted, StopRequest
from vaelab.training import PerImageParts, TestProgress, Trainer, parts_progress
from vaelab.training.arithmetic import full_float32
from vaelab.training.checkpoints import file_digest
from vaelab.training.pictures import Artist

CHECKPOINTS = ("selected", "best", "last")
SPLITS = ("test", "val")
CARDS, MISSING = "cards.json", "missing.json"
THERE = "measured already; force=true measures anew"
#: raise it when any estimator or diagnostic says other numbers of the same weights: what was measured before is then measured again
NUMBERS = 1
#: settings of estimators that say what is computed at once, and move numbers by rounding only
ROUNDING = ("max_rows", "images_at_once")
#: settings of the run's Trainer that its evaluation takes over: what numbers depend on, and what the run's steps are counted by
OF_THE_TRAINER = (
    "_target_", "accelerator", "devices", "num_nodes", "strategy", "precision", "deterministic", "limit_test_batches", *OURS,
)  # fmt: skip
NOT_MEASURED = {"_target_": "vaelab.evidence.BoundEstimator"}  # where only pictures are asked for


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


def evaluate(options: dict[str, Any], elsewhere: Elsewhere | None = None) -> list[Card]:
    """Measure a run's weights and put the cards beside those that are there.

    What lies behind them is in ``evaluations/<estimator>_<split>_<digest>/``, the digest over all that it depends on: what is there is not made again, unless ``force`` asks
    for it. Of an estimator these are the values of single images, and an evaluation that was interrupted goes on where it stopped; of a diagnostic pictures and tables.

    Args:
        options: ``run``, ``checkpoint``, ``split``, ``num_images``, ``seed``, ``binarize``, ``force``, ``estimator``, ``trainer`` (None = the run's), ``paths``.
        elsewhere: what a run directory is made of first, in place of ``run``.

    Returns:
        the new cards. A card that another one can be compared with replaces it.

    Raises:
        SettingError: an option that no evaluation could follow; nothing was written.
        RunFailed: it was interrupted; what is done is kept.
    """
    check_evaluation(options)
    quiet_lightning()
    asked: Estimator | Diagnostic = build(options["estimator"], "estimator")
    if elsewhere is not None:
        options = {**options, "run": _imported(elsewhere, asked, options)}
    stored = _open(options, asked)
    ready = _ready(stored.parts, stored.selected_by, asked, options)
    if isinstance(asked, Diagnostic):
        new, files = _looked_at(asked, stored, ready, options)
    else:
        new, files = _measured(asked, stored, ready, options["force"])
    if not is_main_process():
        return []
    old = read_cards(stored.run.evaluation_file) if stored.run.evaluation_file.is_file() else []
    kept = [card for card in old if all(comparable(card, other) for other in new)]
    write_cards(stored.run.evaluation_file, [*kept, *new])
    Console().print(table(new))
    for path in (stored.run.evaluation_file, *files):
        print(path)
    return new


@dataclass(frozen=True)
class Ready:
    """What a measurement takes beside the parts; nothing of it will be refused.

    Attributes:
        protocol: for the cards.
        trainer: with the devices.
        subject: of a diagnostic; None with an estimator.
    """

    protocol: dict[str, Any]
    trainer: Trainer
    subject: Subject | None


def _ready(parts: Parts, selected_by: str, asked: Estimator | Diagnostic, options: dict[str, Any]) -> Ready:
    """The last refusals, before anything is written."""
    protocol, trainer = make_protocol(parts, selected_by), build_trainer(parts)
    if not isinstance(asked, Diagnostic):
        return Ready(protocol, trainer, None)
    if trainer.world_size > 1:
        rule = f"estimator={asked.name} takes one device, here are {trainer.world_size}; use trainer.devices=1 trainer.strategy=auto"
        raise SettingError("trainer.devices", parts.config["trainer"]["devices"], rule)
    tested = parts.data.tested
    subject = Subject(
        model=parts.module.evaluated,
        data=parts.data,
        noise=parts.module.noise,
        split=tested.split,
        index=torch.arange(parts.data.size(tested.split)) if tested.index is None else tested.index,
        protocol=protocol,
        arithmetic=on_device(parts.module.evaluated, parts.data, trainer),
    )
    with _settings_of(asked):
        asked.check(subject, options)
    return Ready(protocol, trainer, subject)


def _imported(elsewhere: Elsewhere, asked: Estimator | Diagnostic, options: dict[str, Any]) -> Path:
    """A run directory of weights from elsewhere, made once all of the evaluation has been found valid."""
    if not is_main_process():
        return Path(os.environ[RUN_DIRECTORY])
    if options["checkpoint"] != "selected":
        rule = "weights from elsewhere are one checkpoint; use checkpoint=selected"
        raise SettingError("checkpoint", options["checkpoint"], rule)
    parts = _parts(elsewhere.config, options, asked)
    elsewhere.load_into(parts.module.evaluated)
    _ready(parts, SELECTED_BY, asked, options)
    return import_weights(elsewhere).path


def _measured(asked: Estimator, stored: Stored, ready: Ready, force: bool) -> tuple[list[Card], list[Path]]:
    """The cards of an estimator, and the file of the per-image values."""
    parts = stored.parts
    if parts.module.estimator.name != asked.name:
        print(f"no estimate of log p(x): a number labelled {parts.label} is no log-likelihood", flush=True)
    name = parts.module.estimator.name
    folder = (
        stored.run.path
        / "evaluations"
        / _folder_name(name, stored, ready.protocol, parts.config["estimator"])
    )
    cards_file, per_image = folder / CARDS, folder / PER_IMAGE
    if force and is_main_process():  # the values stay where they are, until there are others
        cards_file.unlink(missing_ok=True)
        PerImageParts(per_image.with_suffix("")).discard()
    if cards_file.is_file():
        print(THERE)
        return read_cards(cards_file), [per_image]
    ready.trainer.callbacks.append(TestProgress())  # pyright: ignore[reportAttributeAccessIssue]
    with _one_of_several_processes(stored.run), _interruptible(per_image, force):
        seconds = measure(parts, ready.trainer, per_image)
        if not is_main_process():
            return [], []
    new = make_cards(parts, per_image, stored.checkpoint, ready.protocol, seconds, stored.warning)
    write_cards(cards_file, new)
    return new, [per_image]


def _looked_at(
    asked: Diagnostic, stored: Stored, ready: Ready, options: dict[str, Any]
) -> tuple[list[Card], list[Path]]:
    """The cards of a diagnostic, and the files behind them."""
    subject = ready.subject
    assert subject is not None
    with _settings_of(asked), full_float32(), parts_progress() as progress:
        instrument = asked.instrument(subject, progress)
        digest = None if instrument is None else instrument.digest
        name = _folder_name(asked.name, stored, ready.protocol, options["estimator"], instrument=digest)
        folder = stored.run.path / "evaluations" / name
        there = (folder / CARDS).is_file() and not options["force"]
        started = time.perf_counter()
        found = None if there else asked(subject, instrument, progress)
        seconds = time.perf_counter() - started
    if found is None:
        print(THERE)
        new = read_cards(folder / CARDS)
    else:
        if not found.numbers:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in found.missing.items())
            raise SettingError("estimator", asked.name, f"has no number for this model: {reasons}")
        shared, weights = asked.protocol(ready.protocol), file_digest(stored.checkpoint)
        made = (
            card(number, subject.split, shared, weights, seconds, stored.warning) for number in found.numbers
        )
        new = [replace(card, seed=subject.noise.seed) for card in made]
        if folder.is_dir():
            shutil.rmtree(folder)
        _write(found, folder)
        write_cards(folder / CARDS, new)  # last: what has cards is complete
    if (folder / MISSING).is_file():
        for name, reason in read_json(folder / MISSING).items():
            print(f"no {name}: {reason}", flush=True)
    return new, sorted(path for path in folder.iterdir() if path.name not in (CARDS, MISSING))


def _write(found: Findings, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in found.pictures.items():
        figures.save(figure, folder / f"{name}.png")
    for name, text in found.files.items():
        write_atomically(folder / name, text)
    if found.missing:
        write_json(folder / MISSING, dict(found.missing))


@contextmanager
def _settings_of(asked: Diagnostic) -> Iterator[None]:
    """A refusal of one of the fields of a diagnostic names it as it is typed."""
    try:
        yield
    except SettingError as error:
        if error.setting not in vars(asked):
            raise
        setting = f"estimator.{error.setting}"
        raise SettingError(setting, error.received, error.rule, nearest=error.nearest) from error


def sample(options: dict[str, Any]) -> list[Path]:
    """Draw a run's pictures, and write samples as numbers, into ``samples/<checkpoint>_seed<seed>/`` of the run directory.

    Args:
        options: ``run``, ``checkpoint``, ``seed`` (None = the run's), ``num_samples``, ``paths``.

    Returns:
        the files written.
    """
    check_evaluation(options)
    integer("num_samples", options["num_samples"], 1)
    quiet_lightning()
    stored = _open(options, None)
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
    if "split" in options:
        choice("split", options["split"], SPLITS)
    if options.get("num_images") is not None:
        integer("num_images", options["num_images"], 1)
    if not isinstance(options.get("force", False), bool):
        raise SettingError("force", options["force"], "must be true or false")


def _parts(config: dict[str, Any], options: dict[str, Any], asked: Estimator | Diagnostic | None) -> Parts:
    """The parts of a run as they are evaluated, with initial weights.

    Args:
        config: of the run.
        options: of :func:`evaluate` or :func:`sample`.
        asked: the estimator or the diagnostic that ``options`` name; None = neither.
    """
    config = copy.deepcopy(config)
    config["paths"] = {**config["paths"], "data_dir": options["paths"]["data_dir"]}
    config["callbacks"], config["logger"] = {}, {"name": "none"}
    changed = {key: value for key, value in options.get("trainer", {}).items() if value is not None}
    of_the_run = {key: value for key, value in config["trainer"].items() if key in OF_THE_TRAINER}
    config["trainer"] = {**of_the_run, **changed}
    config["estimator"] = options["estimator"] if isinstance(asked, Estimator) else NOT_MEASURED
    if options.get("binarize") is not None:
        config["data"]["binarize"] = options["binarize"]
    parts = assemble(config)
    if options["seed"] is not None:
        parts.module.noise = Noise(options["seed"])
    if asked is not None:
        split, data = options["split"], parts.data
        data.tested = Tested(split, _images(options["num_images"], data.size(split), split))
    return parts


def _open(options: dict[str, Any], asked: Estimator | Diagnostic | None) -> Stored:
    run = RunDirectory.open(options["run"])
    config, manifest, data = stored_config(run), read_manifest(run), recorded_data(run)
    checkpoint, how = _checkpoint(run, config, manifest, options["checkpoint"])
    parts = _parts(config, options, asked)
    if checkpoint == run.weights_file:
        give_weights(parts.module.evaluated, read_weights(run), checkpoint)
    else:
        load_weights(parts.module, checkpoint)
    parts.module.evaluated.eval()
    warnings = [fallback_warning(data["requested"], data["actual"])] if data.get("fallback_reason") else []
    if read_status(run.status_file).status is not Status.COMPLETED:
        warnings.append("of a run that is not complete, as it stands")
    return Stored(run, parts, checkpoint, how, "; ".join(warnings) or None)


def _checkpoint(
    run: RunDirectory, config: dict[str, Any], manifest: dict[str, Any], asked_for: str
) -> tuple[Path, str]:
    """The file of the weights, and how they were chosen.

    A finished run's record says which were selected, whatever is left of its checkpoints; ``model.safetensors`` has those. Without it, what is there says so.
    """
    best, last = run.best_checkpoint, run.last_checkpoint
    if asked_for == "selected" and "imported" in manifest:
        return run.weights_file, SELECTED_BY
    finished = "best_step" in manifest
    best_selected = manifest["best_step"] is not None if finished else best.is_file()
    is_best = best_selected if asked_for == "selected" else asked_for == "best"
    checkpoint = best if is_best else last
    if not checkpoint.is_file():
        if not finished or is_best != best_selected or not run.weights_file.is_file():
            raise SettingError("checkpoint", asked_for, f"{checkpoint} is not there")
        checkpoint = run.weights_file
    return checkpoint, selected_by(config, is_best)


def _images(num_images: int | None, size: int, split: str) -> Tensor | None:
    """The first so many images of a split; None = all."""
    if size == 0:
        raise SettingError("split", split, "the run has no validation images (data.val_size=0)")
    if num_images is None:
        return None
    if num_images > size:
        raise SettingError("num_images", num_images, f"must be at most {size}, the images of split={split}")
    return torch.arange(num_images)


def _folder_name(
    name: str, stored: Stored, protocol: dict[str, Any], estimator: dict[str, Any], **more: Any
) -> str:
    """A name that two evaluations share if and only if they have to give the same values."""
    parts = stored.parts
    settings = {key: value for key, value in estimator.items() if key not in ROUNDING}
    index = parts.data.tested.index
    depends_on = {
        "numbers": NUMBERS,
        "version": versions().get("vaelab"),  # None where it runs from its source alone
        "seed": parts.module.noise.seed,
        "weights": file_digest(stored.checkpoint),
        "protocol": protocol,
        "estimator": settings,
        "images": None if index is None else len(index),
        **more,
    }
    digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:8]
    return f"{name}_{parts.data.tested.split}_{digest}"


@contextmanager
def _one_of_several_processes(run: RunDirectory) -> Iterator[None]:
    """Inside, ranks that Lightning starts by running the command again know that they are not the first."""
    if not is_main_process():
        yield
        return
    os.environ[RUN_DIRECTORY] = str(run.path.resolve())
    try:
        yield
    finally:
        os.environ.pop(RUN_DIRECTORY)


@contextmanager
def _interruptible(per_image: Path, force: bool) -> Iterator[None]:
    stop = StopRequest()
    try:
        with stop.watching():
            yield
    except (Interrupted, KeyboardInterrupt, SystemExit) as error:
        found = interruption(error, stop)
        assert found is not None
        status, text = found
        command = "the same command without force=true" if force else "the same command"
        done = len(PerImageParts(per_image.with_suffix("")).read().get("index", ()))
        rule = f"{command} goes on from the {done} images that are done, in {per_image.parent}"
        raise RunFailed(f"interrupted by {text}; {rule}", status) from error
