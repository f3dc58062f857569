"""Pictures while a model is trained: what trackers are shown, and what is kept for the animation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from vaelab.experiments.assembly import assemble
from vaelab.noise import Noise
from vaelab.runs.frames import Frames
from vaelab.training import TrackerPictures
from vaelab.training.moments import frame

Compose = Callable[..., dict[str, Any]]


def made(compose: Compose, *overrides: str) -> Any:
    """As much of the module as the callback looks at."""
    parts = assemble(compose("data=digits", "trainer=cpu", "latent_dim=3", "encoder.hidden=[8]", "decoder.hidden=[8]", *overrides))  # fmt: skip
    return SimpleNamespace(
        evaluated=parts.module.model.train(),
        data=parts.data,
        noise=Noise(5),
        plan=parts.plan,
        objective=parts.module.objective,
    )


def at(step: int, epoch: int, *loggers: Any) -> Any:
    return SimpleNamespace(is_global_zero=True, global_step=step, current_epoch=epoch, loggers=list(loggers))


def test_trackers_are_shown_the_same_pictures_at_every_moment(compose: Compose, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    module, board = made(compose), TensorBoardLogger(tmp_path, name="tensorboard", version="")
    callback, epoch = TrackerPictures(every_n_epochs=2), module.plan.steps_per_epoch
    for number in range(4):
        callback.on_train_epoch_end(at((number + 1) * epoch, number, board), module)
    board.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    keys = events.Tags()["images"]
    assert set(keys) == {"samples", "reconstructions", "traversal", "interpolation", "latents"}
    for key in keys:
        shown = events.Images(key)
        assert [event.step for event in shown] == [2 * epoch, 4 * epoch]
        # the weights have not moved, nor have noise and images
        assert shown[0].encoded_image_string == shown[1].encoded_image_string
    assert module.evaluated.training, "the model is as it was"


def test_frames_are_kept_with_any_logger_or_none_and_made_again_where_one_is_missing(
    compose: Compose, tmp_path: Path
) -> None:
    module, callback = made(compose), TrackerPictures()
    every = module.plan.steps_per_epoch
    callback.on_train_start(at(0, 0), module)  # of a run that keeps none
    callback.frames = Frames(tmp_path / "frames")
    callback.on_train_start(at(0, 0), module)
    callback.on_train_epoch_end(at(every, 0), module)
    assert callback.frames.steps() == [0, every]
    first, second = callback.frames.read()
    np.testing.assert_array_equal(first.picture, second.picture)
    assert first.picture.shape == (64, 64, 3)
    callback.frames.cut_back(0)
    callback.on_train_start(at(every, 1), module)  # killed after the checkpoint and before the frame
    np.testing.assert_array_equal(callback.frames.read()[1].picture, second.picture)
    with torch.no_grad():
        for weight in module.evaluated.parameters():
            weight.add_(1.0)
    callback.on_train_start(at(every, 1), module)  # it is there
    np.testing.assert_array_equal(callback.frames.read()[1].picture, second.picture)
    callback.on_train_start(at(every + 1, 1), module)  # nothing is due here
    assert callback.frames.steps() == [0, every]


def test_the_moments_of_a_long_run_are_farther_apart_and_its_end_is_one(
    compose: Compose, tmp_path: Path
) -> None:
    """An epoch of one step costs less than a picture."""
    module, callback = made(compose, "data.train_size=50", "data.batch_size=50"), TrackerPictures()
    assert module.plan.steps_per_epoch == 1
    callback.frames = Frames(tmp_path / "frames")
    drawn = []
    for step in range(1, 132):
        callback.on_train_epoch_end(at(step, step - 1), module)
        if step in callback.frames.steps():
            drawn.append(step)
    assert drawn == [*range(1, 60), *range(60, 120, 2), 120, 124, 128]
    callback.on_train_end(at(131, 130), module)
    assert callback.frames.steps() == [*range(4, 129, 4), 131]


def test_a_frame_is_small_however_large_the_images_are() -> None:
    assert frame(np.ones((64, 1, 28, 28), np.float32)).shape == (224, 224, 1)
    assert frame(np.ones((80, 3, 8, 8), np.float32)).shape == (80, 64, 3)
    assert frame(np.ones((64, 3, 300, 200), np.float32)).shape == (300, 400, 3)
    assert frame(np.ones((64, 1, 600, 600), np.float32)).shape == (600, 600, 1)
    assert frame(np.full((64, 1, 8, 8), 0.5, np.float32)).max() == 128


def test_a_classifier_has_no_pictures(compose: Compose, tmp_path: Path) -> None:
    module, callback = made(compose), TrackerPictures()
    module.objective = SimpleNamespace(learns_evidence=False)
    callback.frames = Frames(tmp_path / "frames")
    callback.on_train_start(at(0, 0), module)
    callback.on_train_epoch_end(at(module.plan.steps_per_epoch, 0), module)
    assert callback.frames.steps() == []
