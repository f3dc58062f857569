"""Pictures while a model is trained: for trackers, and frames for the animation of the samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
import torch

from vaelab.runs.frames import Frames, between
from vaelab.training.loggers import log_picture, shows_pictures
from vaelab.training.pictures import COLUMNS, Artist

SIDE = 512  # image pixels of a frame across and down, at most
TRAVERSED = 10  # dimensions in a tracker's picture
CODES = 500  # images whose codes say which


class TrackerPictures(L.Callback):
    """Pictures at fixed noise and of fixed images, under keys that stay the same, for the loggers that show pictures; and the samples as a frame of the run's animation.

    The longer a run, the farther apart (:func:`vaelab.runs.frames.between`), and in any case at its end.

    Args:
        every_n_epochs: how often at first.

    Attributes:
        frames: of the run; None = none are kept.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        self.every_n_epochs = every_n_epochs
        self.frames: Frames | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """What a model samples that has learned nothing; or the frame that was due where a run that is gone on with begins."""
        step = trainer.global_step
        if not trainer.is_global_zero or self.frames is None or step % between(step, self._every(pl_module)):
            return
        if pl_module.objective.learns_evidence and step not in self.frames.steps():
            with _evaluation(pl_module) as artist:
                self._keep(artist.samples(artist.num_samples), step, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        step, every = trainer.global_step, self._every(pl_module)
        if step % between(step, every) == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        step, every = trainer.global_step, self._every(pl_module)
        if step and step % between(step, every):
            self._draw(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        loggers = [logger for logger in trainer.loggers if shows_pictures(logger)]
        if (not loggers and self.frames is None) or not pl_module.objective.learns_evidence:
            return  # nobody looks, or there is nothing to be drawn of a classifier
        step = trainer.global_step
        with _evaluation(pl_module) as artist:
            samples = artist.samples(artist.num_samples)
            self._keep(samples, step, pl_module)
            if not loggers:
                return
            pictures = {
                "samples": tile(samples.reshape(-1, COLUMNS, *samples.shape[1:])),
                **_pictures(artist),
            }
        for key, picture in pictures.items():
            log_picture(loggers, key, picture, step)

    def _every(self, pl_module: Any) -> int:
        """Optimizer steps between two moments."""
        return pl_module.plan.steps_per_epoch * self.every_n_epochs

    def _keep(self, samples: np.ndarray, step: int, pl_module: Any) -> None:
        if self.frames is not None:
            self.frames.add(step, frame(samples), self._every(pl_module))


@contextmanager
def _evaluation(pl_module: Any) -> Iterator[Artist]:
    """Who draws the weights that are measured, as they are measured."""
    model = pl_module.evaluated
    was_training = model.training
    model.eval()
    try:
        yield Artist(model, pl_module.data, pl_module.noise)
    finally:
        model.train(was_training)


def _pictures(artist: Artist) -> dict[str, np.ndarray]:
    """What a tracker is shown beside the samples: reconstructions under their images, traversals, interpolations, codes."""
    x, x_hat = artist.reconstructions()
    columns = min(COLUMNS, len(x))
    shape = (len(x) // columns, columns, *x.shape[1:])
    pairs = np.stack([images[: shape[0] * columns].reshape(shape) for images in (x, x_hat)], axis=1)
    codes = artist.codes_of(min(CODES, artist.data.size("test")))
    shown = {
        "reconstructions": tile(pairs.reshape(-1, *shape[1:])),
        "traversal": tile(artist.traversed(codes, codes.by_use[:TRAVERSED].tolist())),
    }
    if "interpolation" not in artist.undrawable():
        shown["interpolation"] = tile(artist.between(artist.pairs(), torch.lerp))
        shown["latents"] = artist.latents_sketch(codes)
    return shown


def tile(images: np.ndarray) -> np.ndarray:
    """Images ``[rows, columns, C, H, W]`` in [0, 1] as one picture ``[rows * H, columns * W, 3]``, uint8."""
    sheet = _sheet(images)
    return np.broadcast_to(sheet, (*sheet.shape[:2], 3)).copy()


def frame(samples: np.ndarray) -> np.ndarray:
    """As many rows of the samples ``[n, C, H, W]`` as a small picture takes, ``[H, W, C]``, uint8."""
    grid = samples.reshape(-1, COLUMNS, *samples.shape[1:])
    rows, columns = (max(1, SIDE // size) for size in samples.shape[2:])
    return _sheet(grid[:rows, :columns])


def _sheet(images: np.ndarray) -> np.ndarray:
    rows, columns, channels, height, width = images.shape
    sheet = images.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    finite = np.nan_to_num(sheet, posinf=1.0, neginf=0.0)  # of a run that diverges; it has to say so itself
    return (finite.clip(0, 1) * 255).round().astype(np.uint8)
