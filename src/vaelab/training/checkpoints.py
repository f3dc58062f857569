"""Checkpoints: written whole or not at all, on optimizer-step boundaries; the last one and the best one."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.callbacks import Checkpoint

from vaelab.errors import SettingError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes, renames, and leaves the SHA-256 of the bytes beside it; loads tensors and primitives only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            digest = file_digest(beside)
            digest_file(target).unlink(
                missing_ok=True
            )  # from here to the end no digest vouches for the target
            os.replace(beside, target)
            digest_file(target).write_text(f"{digest}  {target.name}\n", encoding="utf-8")
            _flush(target.parent)
        finally:
            beside.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any | None = "cpu") -> dict[str, Any]:
    """The content of a checkpoint, tensors and primitives only.

    Raises:
        SettingError: it is missing, unreadable, or not what was written.
    """
    if not path.is_file():
        raise SettingError("checkpoint", path, "no such file")
    recorded = digest_file(path)
    if recorded.is_file() and recorded.read_text(encoding="utf-8").split()[:1] != [file_digest(path)]:
        raise SettingError("checkpoint", path, "is damaged: its SHA-256 is not the recorded one")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises many kinds; whatever it is, the file cannot be used
        raise SettingError("checkpoint", path, f"cannot be read ({type(error).__name__}: {error})") from error


def digest_file(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".sha256")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Checkpoints(Checkpoint):
    """Saves ``last.ckpt`` at the end of each epoch, every ``every_n_steps`` optimizer steps and at the end; ``best.ckpt`` when the score improves.

    Without validation nothing is better than the last: ``best.ckpt`` is not written, :attr:`selected` is ``last.ckpt``.

    Args:
        folder: where they go.
        score: the metric that chooses the best, of validation.
        mode: ``max`` or ``min``.
        every_n_steps: optimizer steps, or None.
    """

    def __init__(
        self, folder: Path, score: str = "val/elbo", mode: str = "max", every_n_steps: int | None = None
    ) -> None:
        self.folder = folder
        self.score = score
        self.mode = mode
        self.every_n_steps = every_n_steps
        self.best_score: float | None = None
        self.best_step: int | None = None
        self._saved_step = -1

    @property
    def last(self) -> Path:
        return self.folder / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.folder / "best.ckpt"

    @property
    def selected(self) -> Path:
        """The checkpoint whose number is reported."""
        return self.last if self.best_score is None else self.best

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            self._save_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.score not in trainer.callback_metrics:
            known = ", ".join(sorted(k for k in trainer.callback_metrics if k.startswith("val/")))
            raise SettingError("score.name", self.score, f"this run does not log it; it logs {known}")
        score = float(trainer.callback_metrics[self.score])
        if math.isnan(score):
            return
        if self.best_score is None or (
            score > self.best_score if self.mode == "max" else score < self.best_score
        ):
            self.best_score, self.best_step = score, trainer.global_step
            trainer.save_checkpoint(self.best)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save_last(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step != self._saved_step:
            self._save_last(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        # With several ranks the others may not come to save with this one.
        if (
            isinstance(exception, KeyboardInterrupt | SystemExit)
            and trainer.world_size == 1
            and trainer.global_step > 0
        ):
            self._save_last(trainer)

    def _save_last(self, trainer: L.Trainer) -> None:
        self._saved_step = trainer.global_step
        trainer.save_checkpoint(self.last)

    def read_back(self) -> int:
        """Take the scores from ``last.ckpt``, where the run went on in another process. Returns its optimizer step."""
        checkpoint = read_checkpoint(self.last)
        self.load_state_dict(checkpoint["callbacks"][self.state_key])
        return checkpoint["global_step"]

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
