"""Checkpoints: written whole or not at all, on optimizer-step boundaries; the last one, the one before it, and the best one."""

from __future__ import annotations

import math
import os
import pickle
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.callbacks import Checkpoint

from vaelab.errors import SettingError, choice
from vaelab.runs.files import file_digest, read_regular, write_atomically
from vaelab.runs.interruption import Interrupted
from vaelab.training.pruning import GivenUp, given_up

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes, renames, and leaves the SHA-256 of the bytes beside it; loads tensors and primitives only.

    What ``last.ckpt`` was goes on as ``previous.ckpt``. Whenever the process is killed, each of the files that are there is whole, and one of the digests beside it is its own.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".{target.name}.*.tmp"):  # by a process that was killed
            left.unlink(missing_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if target.name == LAST and target.is_file():
                _move(target, target.with_name(PREVIOUS), recorded_digests(target))
            _move(beside, target, (file_digest(beside),))
        finally:
            beside.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)


def _move(source: Path, target: Path, digests: Sequence[str]) -> None:
    """Rename ``source``, which has one of ``digests``, to ``target``, beside which both digests stand as long as either file may."""
    write_atomically(digest_file(target), _lines([*digests, *recorded_digests(target)], target))
    os.replace(source, target)
    write_atomically(digest_file(target), _lines(digests, target))  # flushes the directory, too


def _lines(digests: Sequence[str], target: Path) -> str:
    return "".join(f"{digest}  {target.name}\n" for digest in dict.fromkeys(digests))


def read_checkpoint(path: Path, map_location: Any | None = "cpu") -> dict[str, Any]:
    """The content of a checkpoint, tensors and primitives only.

    Raises:
        SettingError: it is missing, unreadable, or not what was written.
    """
    if not path.is_file():
        raise SettingError("checkpoint", path, "no such file")
    recorded = recorded_digests(path)
    if not recorded:
        raise SettingError("checkpoint", path, f"its SHA-256 is not on record in {digest_file(path).name}")
    if file_digest(path) not in recorded:
        raise SettingError("checkpoint", path, "is damaged: its SHA-256 is not the recorded one")
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [m.filename for m in archive.infolist() if m.compress_type != zipfile.ZIP_STORED]
        if packed:  # torch packs nothing; a few bytes could be made to unpack to any number
            raise ValueError(f"{packed[0]!r} in it is compressed")
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError:  # torch's message says how it can be made to run
        rule = (
            "cannot be read: it holds more than tensors and plain values, and loading that could run anything"
        )
        raise SettingError("checkpoint", path, rule) from None
    except Exception as error:  # torch raises many kinds; whatever it is, the file cannot be used
        reason = " ".join(str(error).split())
        raise SettingError(
            "checkpoint", path, f"cannot be read ({type(error).__name__}: {reason})"
        ) from error


def digest_file(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".sha256")


def recorded_digests(checkpoint: Path) -> tuple[str, ...]:
    """The SHA-256 on record for a checkpoint; two while it is being replaced, none where there is no record."""
    try:
        lines = read_regular(digest_file(checkpoint), 1 << 16).decode().splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return ()
    return tuple(line.split()[0] for line in lines if line.strip())


@dataclass(frozen=True)
class Found:
    """A checkpoint that a run can go on from.

    Attributes:
        path: of the file.
        step: optimizer steps done.
        finished: whether the training ended with it.
    """

    path: Path
    step: int
    finished: bool


def newest(folder: Path) -> tuple[Found | None, list[str]]:
    """The checkpoint with the most steps that is whole, and what was found wrong with others, in words.

    One whose best checkpoint so far is damaged is passed over, too, as the run would end with those weights: what comes before it makes them again.
    Those of single steps (``checkpoints.keep=all``) are looked at where no other will do, the last one first.
    """
    wrong: list[str] = []
    usual = [folder / name for name in (LAST, PREVIOUS, BEST)]
    whole = {path: found for path in usual if (found := _whole(path, wrong)) is not None}
    # of two with one step the last one: it was written after the best one, and knows more
    for path in sorted(whole, key=lambda path: (whole[path]["global_step"], path.name == LAST), reverse=True):
        if _leads_to_its_best(path, whole[path], folder / BEST in whole, wrong):
            return _found(path, whole[path]), wrong
    for path in sorted(folder.glob("step_*.ckpt"), key=_step_number, reverse=True):
        checkpoint = _whole(path, wrong)
        if checkpoint is not None and _leads_to_its_best(path, checkpoint, folder / BEST in whole, wrong):
            return _found(path, checkpoint), wrong
    return None, wrong


def _whole(path: Path, wrong: list[str]) -> dict[str, Any] | None:
    """The content of a checkpoint that is there and whole."""
    if not os.path.lexists(path):
        return None
    try:
        checkpoint = read_checkpoint(path)
    except SettingError as error:
        wrong.append(f"{path}: {error.rule}")
        return None
    if not _is_of_a_run(checkpoint):
        wrong.append(f"{path}: is no checkpoint of a run")
        return None
    return checkpoint


def _is_of_a_run(checkpoint: Any) -> bool:
    """Whether it holds what a run goes on from: whoever made the file may have made its digest, too."""
    try:
        best = checkpoint["callbacks"][Checkpoints.__qualname__]["best_step"]
        step, finished = checkpoint["global_step"], checkpoint["progress"]["finished"]
        return (
            isinstance(step, int)
            and isinstance(finished, bool)
            and isinstance(best, int | None)
            and "state_dict" in checkpoint
        )
    except (TypeError, KeyError, IndexError):
        return False


def _leads_to_its_best(path: Path, checkpoint: dict[str, Any], best_is_whole: bool, wrong: list[str]) -> bool:
    best = checkpoint["callbacks"][Checkpoints.__qualname__]["best_step"]
    if best is not None and not best_is_whole:
        wrong.append(f"{path}: the best checkpoint until then, of step {best}, cannot be used")
        return False
    return True


def _found(path: Path, checkpoint: dict[str, Any]) -> Found:
    return Found(path, checkpoint["global_step"], checkpoint["progress"]["finished"])


def reinstate(found: Found) -> Found:
    """Make ``last.ckpt`` of the checkpoint that a run goes on from, in the place of one that is damaged or missing."""
    last = found.path.with_name(LAST)
    if found.path != last:
        beside = last.with_name(f".{LAST}.{os.getpid()}.tmp")
        shutil.copyfile(found.path, beside)
        _move(beside, last, recorded_digests(found.path))
    return replace(found, path=last)


def _step_number(path: Path) -> int:
    number = path.stem.removeprefix("step_")
    return int(number) if number.isdecimal() else -1


class Checkpoints(Checkpoint):
    """Saves ``last.ckpt`` every ``every_n_steps`` optimizer steps, or else at the end of each epoch, when the run is interrupted and at the end; ``best.ckpt`` when the score improves.

    A checkpoint lies between two optimizer steps, and after the validation that was due there. Without validation nothing is better than the last: ``best.ckpt`` is
    not written, :attr:`selected` is ``last.ckpt``.

    Args:
        folder: where they go.
        score: the metric that chooses the best, of validation.
        mode: ``max`` or ``min``.
        every_n_steps: optimizer steps; None = those of an epoch.
        keep: ``all`` keeps every last one as ``step_<number>.ckpt`` too; ``best_and_last``; ``weights_only_best`` leaves nothing of a completed run but its weights in ``model.safetensors``.

    Attributes:
        given_up: where the training was given up, known by :meth:`read_back`; None where it was not.
    """

    KEEP = ("all", "best_and_last", "weights_only_best")

    def __init__(
        self,
        folder: Path,
        score: str = "val/elbo",
        mode: str = "max",
        every_n_steps: int | None = None,
        keep: str = "best_and_last",
    ) -> None:
        self.folder = folder
        self.score = score
        self.mode = mode
        self.every_n_steps = every_n_steps
        self.keep = choice("checkpoints.keep", keep, self.KEEP)
        self.best_score: float | None = None
        self.best_step: int | None = None
        self.given_up: GivenUp | None = None
        self._saved_step = -1

    @property
    def last(self) -> Path:
        return self.folder / LAST

    @property
    def best(self) -> Path:
        return self.folder / BEST

    @property
    def selected(self) -> Path:
        """The checkpoint whose number is reported."""
        return self.last if self.best_score is None else self.best

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_step = trainer.global_step  # what a resumed run begins with is there already

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """What was due at the end of the steps before, after their validation."""
        step = trainer.global_step
        if self.every_n_steps is not None and step % self.every_n_steps == 0 and step != self._saved_step:
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
        if self.every_n_steps is None:
            self._save_last(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step != self._saved_step:
            self._save_last(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save where an interrupted training stands: all ranks come here together, between two steps."""
        if isinstance(exception, Interrupted) and trainer.state.fn == "fit" and trainer.global_step > 0:
            self._save_last(trainer)

    def _save_last(self, trainer: L.Trainer) -> None:
        self._saved_step = trainer.global_step
        trainer.save_checkpoint(self.last)
        if self.keep == "all" and trainer.is_global_zero:
            kept = self.folder / f"step_{trainer.global_step}.ckpt"
            beside = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
            shutil.copyfile(self.last, beside)
            _move(beside, kept, recorded_digests(self.last))

    def discard(self) -> None:
        """Remove what ``keep`` does not want of a completed run."""
        if self.keep == "weights_only_best":
            for path in self.folder.glob("*.ckpt*"):
                path.unlink()

    def read_back(self) -> int:
        """Take the scores from ``last.ckpt``, where the run went on in another process. Returns its optimizer step."""
        checkpoint = read_checkpoint(self.last)
        self.load_state_dict(checkpoint["callbacks"][self.state_key])
        self.given_up = given_up(checkpoint)
        return checkpoint["global_step"]

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
