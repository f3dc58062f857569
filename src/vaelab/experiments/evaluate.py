"""A run measured again."""

from __future__ import annotations

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

import torch
from rich.console import Console

from vaelab import figures
from vaelab.build import build
from vaelab.data.protocol import BINARIZE
from vaelab.errors import RunFailed, SettingError, choice
from vaelab.evidence import Estimator
from vaelab.experiments.assembly import Parts, build_trainer
from vaelab.experiments.cards import add_cards, card
from vaelab.experiments.check import check_evaluation
from vaelab.experiments.diagnostic import Diagnostic, Findings, Subject, on_device
from vaelab.experiments.foreign import SELECTED_BY, Elsewhere, import_weights
from vaelab.experiments.ranks import RUN_DIRECTORY, is_main_process, refuse_tasks
from vaelab.experiments.recording import interruptible
from vaelab.experiments.screen import quiet_lightning
from vaelab.experiments.stored import Stored, open_run, parts_of
from vaelab.experiments.train import (
    PER_IMAGE,
    make_cards,
    make_protocol,
    measure,
)
from vaelab.report import NAME, try_to_report
from vaelab.runs import (
    Card,
    RunDirectory,
    read_cards,
    read_json,
    write_atomically,
    write_cards,
    write_json,
)
from vaelab.runs.cards import table
from vaelab.runs.environment import versions
from vaelab.runs.lock import held
from vaelab.training import PerImageParts, TestProgress, Trainer, parts_progress
from vaelab.training.arithmetic import full_float32
from vaelab.training.pictures import NO_IMAGES

CARDS, MISSING = "cards.json", "missing.json"
THERE = "measured already; force=true measures anew"
#: raise it when any estimator or diagnostic says other numbers of the same weights: what was measured before is then measured again
NUMBERS = 1
#: settings of estimators that say what is computed at once, and move numbers by rounding only
ROUNDING = ("max_rows", "images_at_once")


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
        vaelab.errors.RunFailed: it was interrupted, and what is done is kept; or a number of an image is not finite.
    """
    refuse_tasks("vae-evaluate")
    check_evaluation(options)
    if options["binarize"] is not None:
        choice("binarize", options["binarize"], BINARIZE)
    quiet_lightning()
    asked: Estimator | Diagnostic = build(options["estimator"], "estimator")
    if elsewhere is not None:
        options = {**options, "run": _imported(elsewhere, asked, options)}
    stored = open_run(options, asked)
    ready = _ready(stored.parts, stored.selected_by, asked, options)
    command = (
        "the same command"
        if elsewhere is None
        else f"vae-evaluate run={stored.run.path}, with the other settings as typed,"
    )
    try:
        if isinstance(asked, Diagnostic):
            new, files = _looked_at(asked, stored, ready, options, command)
        else:
            new, files = _measured(asked, stored, ready, options["force"], command)
    except FloatingPointError as error:  # of a run that diverged
        raise RunFailed(f"{stored.run.path}: {error}") from None
    if not is_main_process():
        return []
    add_cards(stored.run, new)
    Console().print(table(new))
    for path in (stored.run.evaluation_file, *files):
        print(path)
    if (stored.run.path / NAME).is_file():  # it shows the new cards, too
        try_to_report(stored.run.path)
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
    if not parts.module.objective.learns_evidence:
        raise SettingError("estimator", asked.name, NO_IMAGES)
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
    parts = parts_of(elsewhere.config, options, asked)
    elsewhere.load_into(parts.module.evaluated)
    _ready(parts, SELECTED_BY, asked, options)
    return import_weights(elsewhere).path


def _measured(
    asked: Estimator, stored: Stored, ready: Ready, force: bool, command: str
) -> tuple[list[Card], list[Path]]:
    """The cards of an estimator, and the file of the per-image values."""
    parts = stored.parts
    if parts.module.estimator.name != asked.name:
        learned = parts.module.objective.learns_evidence
        why = (
            f"a number labelled {parts.label} is no log-likelihood"
            if learned
            else "the run has trained its classifier alone"
        )
        print(f"no estimate of log p(x): {why}", flush=True)
    name = parts.module.estimator.name
    folder = stored.run.evaluations / _folder_name(name, stored, ready.protocol, parts.config["estimator"])
    cards_file, per_image = folder / CARDS, folder / PER_IMAGE
    with _of_one_command(folder):
        if force and is_main_process():  # the values stay where they are, until there are others
            cards_file.unlink(missing_ok=True)
            PerImageParts(per_image.with_suffix("")).discard()
        if cards_file.is_file():
            print(THERE)
            return read_cards(cards_file), [per_image]
        ready.trainer.callbacks.append(TestProgress())  # pyright: ignore[reportAttributeAccessIssue]
        command += " without force=true" if force else ""

        def goes_on() -> str:
            done = PerImageParts(per_image.with_suffix("")).read().get("index", ())
            if len(done) == 0:
                smaller = (
                    "; smaller parts: estimator.images_at_once"
                    if "images_at_once" in parts.config["estimator"]
                    else ""
                )
                return f"nothing is done yet, and {command} begins again{smaller}"
            return f"{command} goes on from the {len(done)} images that are done, in {folder}"

        with _one_of_several_processes(stored.run), interruptible(goes_on):
            seconds = measure(parts, ready.trainer, per_image)
            if not is_main_process():
                return [], []
        new = make_cards(parts, per_image, ready.protocol, seconds, stored.warning)
        write_cards(cards_file, new)
        return new, [per_image]


@contextmanager
def _of_one_command(folder: Path) -> Iterator[None]:
    """Two that measured the same would take each other's values for their own."""
    if not is_main_process():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder, "measured"):
        yield


def _looked_at(
    asked: Diagnostic, stored: Stored, ready: Ready, options: dict[str, Any], command: str
) -> tuple[list[Card], list[Path]]:
    """The cards of a diagnostic, and the files behind them."""
    subject = ready.subject
    assert subject is not None
    with (
        interruptible(lambda: f"{command} begins again, nothing of {asked.name} is kept before its end"),
        _settings_of(asked),
        full_float32(),
        parts_progress() as progress,
    ):
        instrument = asked.instrument(subject, progress)
        digest = None if instrument is None else instrument.digest
        name = _folder_name(asked.name, stored, ready.protocol, options["estimator"], instrument=digest)
        folder = stored.run.evaluations / name
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
        shared = asked.protocol(ready.protocol)
        made = (
            card(number, subject.split, shared, stored.weights, seconds, stored.warning)
            for number in found.numbers
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
        "weights": stored.weights,
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
