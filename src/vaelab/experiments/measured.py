"""A finished run whose model is asked about images, one by one: those of its splits, and others that are brought into its protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaelab.batch import Batch
from vaelab.data.datamodule import ImageDataModule
from vaelab.data.datasets import Split as ImageSplit
from vaelab.data.images import Images, read
from vaelab.errors import RunFailed, SettingError
from vaelab.evidence.progress import Progress
from vaelab.evidence.streaming import ImageLimit, in_halves
from vaelab.experiments.assembly import build_trainer
from vaelab.experiments.diagnostic import on_device
from vaelab.experiments.stored import Stored, open_run
from vaelab.experiments.train import make_protocol
from vaelab.noise import ImageDraws, Noise, Split
from vaelab.runs.cards import printable
from vaelab.training.pictures import NO_IMAGES

#: (images, their noise) -> per-image values ``[B, ...]``, on any device
Values = Callable[[Batch, ImageDraws], dict[str, Tensor]]

SHOWN = 5  # files that cannot be read
SOME_UNREADABLE = 3  # exit status


@dataclass(frozen=True)
class Measured:
    """A run, opened to be asked about images.

    Attributes:
        stored: the run with its parts.
        data: the run's, with batches on the device of the model; further images are added to it.
        noise: of the run, or of what was typed as ``seed``.
        protocol: of the run, as on its cards.
        arithmetic: inside it the model computes in the precision of the run.
    """

    stored: Stored
    data: ImageDataModule
    noise: Noise
    protocol: Mapping[str, Any]
    arithmetic: Callable[[], AbstractContextManager[Any]]

    @property
    def model(self) -> Any:
        return self.stored.parts.module.evaluated

    @property
    def label(self) -> str:
        """What a bound of the model may be called."""
        return self.stored.parts.label

    def values(
        self, what: str, split: str, index: Tensor, at_once: int, of: Values, progress: Progress | None
    ) -> dict[str, np.ndarray]:
        """Per-image values of the images of a split, or of those that were added, at ``index [N]``; more than rounding does not depend on how many are measured at once.

        Args:
            what: is computed, for ``progress``.
            split, index: which images.
            at_once: how many images at most; fewer where memory runs out.
            of: the values.
            progress: is told the images.
        """
        limit, done = ImageLimit(at_once), 0
        source = Split[self.data.noise_split(split)]

        def measure(images: slice) -> dict[str, Tensor]:
            nonlocal done
            part = index[images]
            draws = ImageDraws(self.noise, source, self.data.noise_index(split, part))
            with self.arithmetic():
                found = of(self.data.evaluation_batch(split, part), draws)
            done += len(part)
            if progress is not None:
                progress(what, done, len(index))
            return {name: column.detach().cpu() for name, column in found.items()}

        return {name: column.numpy() for name, column in in_halves(measure, len(index), limit).items()}

    def bring(self, name: str, setting: str, where: object, data_dir: str) -> Images:
        """Add images that are not the run's under ``name``, stored as the run's are; what was done to them is said.

        Raises:
            SettingError: of ``setting``; see :func:`vaelab.data.images.read`.
        """
        data = self.data
        found = read(setting, where, data_dir, data.image_shape, data.protocol.stored_levels)
        self.data.add(name, ImageSplit(torch.from_numpy(found.x), torch.from_numpy(found.y)))
        if found.notes:
            print(f"{setting}={where}: {'; '.join(found.notes)}", flush=True)
        return found


def open_generative(options: dict[str, Any], is_written: bool = True) -> Stored:
    """:func:`vaelab.experiments.stored.open_run` of a run that has learned p(x)."""
    stored = open_run(options, None, is_written)
    stored.say()
    if not stored.parts.module.objective.learns_evidence:
        raise SettingError("run", options["run"], NO_IMAGES)
    return stored


def open_measured(options: dict[str, Any]) -> Measured:
    """The run that ``options`` name, on one device; see :func:`vaelab.experiments.stored.open_run`."""
    stored = open_generative(options)
    parts = stored.parts
    trainer = build_trainer(parts)
    if trainer.world_size > 1:
        rule = f"this takes one device, here are {trainer.world_size}; use trainer.devices=1 trainer.strategy=auto"
        raise SettingError("trainer.devices", parts.config["trainer"]["devices"], rule)
    arithmetic = on_device(parts.module.evaluated, parts.data, trainer)
    protocol = make_protocol(parts, stored.selected_by)
    return Measured(stored, parts.data, parts.module.noise, protocol, arithmetic)


def say_unreadable(found: Images, setting: str, where: object) -> None:
    """At the end: files that could not be read are named, and the exit status says that there were some.

    Raises:
        RunFailed: there were.
    """
    if not found.unreadable:
        return
    names = [printable(f"{name} ({reason})") for name, reason in found.unreadable.items()]
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    total = len(names) + len(found.x)
    message = (
        f"{setting}={where}: {len(names)} of {total} files cannot be decoded, the others are done: {shown}"
    )
    raise RunFailed(message, SOME_UNREADABLE)
