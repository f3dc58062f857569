"""Whether a run's files can be written, and whether there is room for them."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from vaelab.errors import SettingError
from vaelab.experiments.assembly import Parts
from vaelab.experiments.doctor.finding import Finding, note, ok, size, wrong
from vaelab.runs import check_writable
from vaelab.runs.directory import nearest_existing
from vaelab.training import AtomicCheckpointIO
from vaelab.training.checkpoints import LAST, read_checkpoint

OTHER_FILES = 20_000_000  #: bytes: pictures, per-image values, what a tracker keeps
STAND_IN = 16_000_000  #: bytes of a checkpoint where no model can be built


def disk_findings(config: dict[str, Any], parts: Parts | None) -> list[Finding]:
    """Args:
    config: of the run.
    parts: of it; None where they could not be made, and the checkpoint is a stand-in.
    """
    log_dir = config["paths"]["log_dir"]
    elsewhere = "set paths.log_dir to a folder that can be written to"
    try:
        check_writable(log_dir)
    except SettingError as error:
        return [wrong("log_dir", f"paths.log_dir={log_dir}: {error.rule}", elsewhere), temporary_files()]
    folder = nearest_existing(log_dir)
    free = shutil.disk_usage(folder).free
    try:
        num_bytes, seconds = write_checkpoint(folder, _checkpoint(parts))
    except (OSError, RuntimeError, SettingError) as error:  # RuntimeError: torch's writer on a full disk
        reason = " ".join(str(error).split())
        failed = wrong(
            "log_dir",
            f"a checkpoint cannot be written below {folder} ({size(free)} free): {reason}",
            elsewhere,
        )
        return [failed, temporary_files()]
    speed = f"{seconds:.2f} s ({size(num_bytes / seconds)}/s)"
    written = ok(
        "log_dir", f"{log_dir}: a checkpoint of {size(num_bytes)} was written in {speed}, and read back"
    )
    return [written, _room(config, parts, free, num_bytes), temporary_files()]


def write_checkpoint(folder: Path, checkpoint: dict[str, Any]) -> tuple[int, float]:
    """Write a checkpoint as a run does, read it back, and remove it. Returns its bytes, and the seconds that writing took.

    Raises:
        OSError, RuntimeError: it cannot be written.
        SettingError: what is read is not what was written.
    """
    with tempfile.TemporaryDirectory(prefix=".vae-doctor-", dir=folder) as trial:
        path = Path(trial) / LAST
        started = time.perf_counter()
        AtomicCheckpointIO().save_checkpoint(checkpoint, path)
        seconds = time.perf_counter() - started
        read_checkpoint(path)
        return path.stat().st_size, seconds


def _checkpoint(parts: Parts | None) -> dict[str, Any]:
    """As large as those of the run: its weights, and two moments of each that is trained."""
    if parts is None:
        return {"state_dict": {"stand_in": torch.zeros(STAND_IN // 4)}}
    trained = [p for p in parts.module.model.parameters() if p.requires_grad]
    return {
        "state_dict": parts.module.state_dict(),
        "optimizer_states": [[torch.zeros_like(p), torch.zeros_like(p)] for p in trained],
    }


def _room(config: dict[str, Any], parts: Parts | None, free: int, num_bytes: int) -> Finding:
    if parts is None:
        return ok("room", f"{size(free)} free")
    count = 4 + saved_steps(config, parts)  # last, previous, best, and the one that is being written
    needed = count * num_bytes + OTHER_FILES
    words = f"{size(free)} free; a run takes up to about {size(needed)} ({count} checkpoints)"
    if free >= needed:
        return ok("room", words)
    keep = ", checkpoints.keep=best_and_last" if count > 4 else ""
    return wrong(
        "room",
        words,
        f"vae-runs --prune removes checkpoints of completed runs; or another paths.log_dir{keep}",
    )


def saved_steps(config: dict[str, Any], parts: Parts) -> int:
    """Checkpoints of single steps that a run keeps (``checkpoints.keep=all``)."""
    if config["checkpoints"].get("keep") != "all":
        return 0
    plan, every = parts.plan, config["checkpoints"]["every_n_steps"]
    of_epochs = math.ceil(plan.num_steps / plan.steps_per_epoch)
    return of_epochs + (0 if every is None else plan.num_steps // every)


def temporary_files() -> Finding:
    asked = os.environ.get("TMPDIR")
    try:
        found = tempfile.gettempdir()
    except FileNotFoundError:
        rule = "no folder for temporary files can be written to"
        return wrong("TMPDIR", rule, "set TMPDIR to one that can")
    if asked and Path(asked).absolute() != Path(found):
        return note("TMPDIR", f"TMPDIR={asked} cannot be written to: {found} is used")
    return ok("TMPDIR", f"{found}, {size(shutil.disk_usage(found).free)} free")
