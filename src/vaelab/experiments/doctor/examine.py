"""Everything that ``vae-doctor`` looks at, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from vaelab.errors import RunFailed, SettingError
from vaelab.experiments.assembly import Parts, assemble, build_trainer, check_takes
from vaelab.experiments.doctor.code import code_findings
from vaelab.experiments.doctor.data import find_data, splits
from vaelab.experiments.doctor.devices import device_findings
from vaelab.experiments.doctor.disk import disk_findings
from vaelab.experiments.doctor.finding import Finding, note, wrong
from vaelab.experiments.doctor.repeatability import STEPS, Attempt, changes, in_child, repeatability
from vaelab.experiments.doctor.tracker import tracker_finding
from vaelab.experiments.parent import Parent
from vaelab.experiments.train import prepare_process
from vaelab.training import Trainer

Config = dict[str, Any]
#: settings that a machine may not have got; what else the Trainer refuses is wrong anywhere
OF_THE_MACHINE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes")


def examine(
    config: Config,
    typed: Sequence[str],
    *,
    engine: tuple[str, Mapping[str, Any]],
    fallback: Callable[[], tuple[Config, str]] | None,
    quick: bool,
    progress: Callable[[str], None],
) -> Iterator[tuple[str, list[Finding]]]:
    """Groups of findings, one after the other.

    Args:
        config: of the training that is meant, resolved, primitives only.
        typed: the overrides, and what the file of an experiment chose.
        engine: the usual entry of the group, by name, and its settings.
        fallback: see :func:`vaelab.experiments.doctor.data.find_data`.
        quick: no training, and nothing is fetched.
        progress: is told what is being done.

    Raises:
        SettingError: what ``vae-train`` refuses on any machine; before the first group.
    """
    prepare_process()
    check_takes(config, typed)
    parent = None if config["init_from"] is None else Parent.open(config["init_from"])
    progress("looking for the data")
    usable, data = find_data(config, fallback, fetch=not quick)
    parts = None if usable is None else assemble(usable, parent)
    trainer = None if parts is None else _trainer(parts)

    yield "code and versions", code_findings()
    yield "data", [data, *([] if parts is None else splits(parts.data))]
    progress("writing a checkpoint")
    yield "disk", disk_findings(config, parts)
    yield "devices", device_findings(config, trainer)
    progress("asking the tracker")
    yield "tracker", [tracker_finding(config)]
    yield "repeatability", [_repeatability(parts, trainer, engine, quick, progress)]


def _trainer(parts: Parts) -> Trainer | SettingError:
    try:
        return build_trainer(parts)
    except SettingError as error:
        if error.setting not in OF_THE_MACHINE:
            raise
        return error


def _repeatability(
    parts: Parts | None,
    trainer: Trainer | SettingError | None,
    engine: tuple[str, Mapping[str, Any]],
    quick: bool,
    progress: Callable[[str], None],
) -> Finding:
    name = "repeatability"
    if quick:
        return note(name, f"left out (--quick): {STEPS} steps twice would show whether they are the same")
    if parts is None or not isinstance(trainer, Trainer):
        return note(name, f"left out: without {'data' if parts is None else 'a device'} there is no training")
    steps = min(STEPS, parts.plan.num_steps)
    suspects = changes(parts.config, torch.get_num_threads(), engine)
    with TemporaryDirectory(prefix="vae-doctor-") as folder:
        try:
            return repeatability(
                Attempt(parts.config),
                suspects,
                in_child(steps, Path(folder)),
                lambda text: progress(f"{steps} steps, {text}"),
            )
        except RunFailed as error:
            return wrong(name, f"{steps} steps cannot be trained: {error}", "the same happens to vae-train")
