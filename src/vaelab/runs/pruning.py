"""Space that finished runs take and no longer need: their checkpoints, beside the weights and the record."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from vaelab.errors import SettingError
from vaelab.runs.cards import printable
from vaelab.runs.directory import RunDirectory, find_runs, is_run
from vaelab.runs.files import file_digest, write_json
from vaelab.runs.manifest import read_manifest
from vaelab.runs.status import Status, is_live, read_status, utc_now
from vaelab.runs.table import DEAD

CHECKPOINT, DIGEST = ".ckpt", ".ckpt.sha256"


@dataclass(frozen=True)
class Prunable:
    """What would be removed of a run.

    Attributes:
        run: its directory.
        status: how it ended.
        files: checkpoints, and what stands beside them; regular files, no links.
        size: of them all, in bytes.
    """

    run: RunDirectory
    status: Status
    files: tuple[Path, ...]
    size: int


@dataclass(frozen=True)
class Left:
    """A run that keeps its checkpoints.

    Attributes:
        run: its directory.
        reason: why.
        named: a person has asked for this very one, not for the folder that it is in.
    """

    run: RunDirectory
    reason: str
    named: bool


def survey(directories: Iterable[Path], yes: bool) -> tuple[list[Prunable], list[Left]]:
    """What could be removed below ``directories``, and the runs with checkpoints that keep them.

    Completed runs can lose theirs, since ``model.safetensors`` has the selected weights. One that was interrupted, killed, failed or was given up has nothing else: it has
    to be one of ``directories`` itself, and ``yes`` be given. One that is running keeps what it has.
    """
    named = {path.resolve() for path in directories if is_run(path)}
    found = {run.path.resolve(): run for root in directories for run in find_runs(root)}
    prunable, left = [], []
    for place, run in found.items():
        try:
            one = _prunable(run, agreed=yes and place in named)
        except SettingError as error:
            left.append(Left(run, error.rule, place in named))
            continue
        except OSError as error:
            left.append(Left(run, f"cannot be read ({error})", place in named))
            continue
        if one.files:
            prunable.append(one)
    return prunable, left


def prune(one: Prunable) -> None:
    """Remove the files, and note in the manifest which, with their digests and the time.

    The note comes first, so that whatever ends this process nothing is gone that is not on record.

    Raises:
        SettingError: the run is not what it was when it was looked at, or a file cannot be removed; the note then names those that are gone.
    """
    now = _prunable(one.run, agreed=True)
    if (now.status, now.files, now.size) != (one.status, one.files, one.size):
        raise SettingError(
            "run", one.run.path, "has changed since it was looked at; nothing of it is removed"
        )
    manifest = read_manifest(one.run)
    earlier = manifest.get("pruned", [])
    removed = [
        {"file": path.name, "bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in one.files
        if path.name.endswith(CHECKPOINT)
    ]
    note = {"at": utc_now(), "removed": removed}
    write_json(one.run.manifest_file, {**manifest, "pruned": [*earlier, note]})
    try:
        for path in one.files:  # a checkpoint before its digest
            path.unlink()
    except OSError as error:
        gone = [each for each in removed if not os.path.lexists(one.run.checkpoints / str(each["file"]))]
        notes = [*earlier, {**note, "removed": gone}] if gone else earlier
        write_json(one.run.manifest_file, {**manifest, "pruned": notes})
        raise SettingError("run", one.run.path, f"not all of it could be removed ({error})") from None


def render(found: Sequence[Prunable]) -> Table:
    """What would be removed, run by run."""
    table = Table(box=None, pad_edge=False, title=None, show_footer=len(found) > 1)
    table.add_column("run", overflow="fold", footer="in all")
    table.add_column("status")
    table.add_column("files", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True, footer=size_text(sum(one.size for one in found)))
    for one in found:
        names = ", ".join(path.name for path in one.files if path.name.endswith(CHECKPOINT))
        row = (str(one.run.path), _ended(one.status), names or "digests", size_text(one.size))
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def size_text(num_bytes: int) -> str:
    """In the largest decimal unit that fits.

    >>> size_text(999), size_text(1500), size_text(12_345_678)
    ('999 B', '1.5 kB', '12.3 MB')
    """
    for size, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} B"


def _prunable(run: RunDirectory, agreed: bool) -> Prunable:
    """Raises SettingError if the run keeps its checkpoints; ``agreed``: it may be one that did not complete."""
    run = RunDirectory.open(run.path)
    files, size = _files(run)
    if not files:  # whatever else is wrong with it
        return Prunable(run, Status.COMPLETED, (), 0)
    try:
        record = read_status(run.status_file)
    except SettingError as error:
        raise _keeps(run, f"its {run.status_file.name}: {error.rule}") from None
    status = record.status
    if is_live(record):
        raise _keeps(run, "is running")
    if status is not Status.COMPLETED:
        if not agreed:
            raise _keeps(
                run, f"{_ended(status)}; without its checkpoints it begins again: name it and give --yes"
            )
        return Prunable(run, status, files, size)
    manifest = read_manifest(run)
    if not run.weights_file.is_file() or file_digest(run.weights_file) != manifest.get("weights"):
        raise _keeps(
            run, "its model.safetensors is not the one on record, and its checkpoints have the weights"
        )
    if "best_step" not in manifest:
        raise _keeps(run, "its manifest does not say whether the best or the last weights were selected")
    return Prunable(run, status, files, size)


def _ended(status: Status) -> str:
    """A run that says it is running, and is not, is dead."""
    return DEAD if status is Status.RUNNING else status.value


def _keeps(run: RunDirectory, reason: str) -> SettingError:
    return SettingError("run", run.path, reason)


def _files(run: RunDirectory) -> tuple[tuple[Path, ...], int]:
    """Checkpoints and their digests, each checkpoint before its own, and their size. Links are not followed, and stay."""
    if run.checkpoints.is_symlink():
        raise _keeps(run, "its checkpoints/ is a link")
    files, total = [], 0
    if run.checkpoints.is_dir():
        for path in sorted(run.checkpoints.iterdir()):
            found = path.lstat()
            if path.name.endswith((CHECKPOINT, DIGEST)) and stat.S_ISREG(found.st_mode):
                files.append(path)
                total += found.st_size
    return tuple(files), total
