"""Checkpoints that were cut off or altered, a disk that is full, a directory that cannot be written to, temporary files elsewhere: is it noticed, and is nothing lost?"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from forks import SETTINGS, begun, compared, config, forked, resumed, waited

TITLE = "Damaged checkpoints and disks"


def torture(trials: int, seed: int) -> tuple[list[str], int]:
    """``trials`` of each kind of damage, a fifth as many of what concerns the disk. Returns lines of Markdown, and how many did not end as they should have."""
    generator = np.random.default_rng(seed)
    lines: list[str] = []
    failures = 0
    with tempfile.TemporaryDirectory(prefix="vaelab-torture-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        whole = trained(root / "whole")
        for name, damage in (
            ("cut off at a place drawn uniformly", cut_off),
            ("with one bit, drawn uniformly, flipped", flipped),
        ):
            problems = [damaged(whole, root / "copies" / str(i), damage, generator) for i in range(trials)]
            lines += said(
                f"`last.ckpt` {name}: noticed by name, the run went on from `previous.ckpt` or `best.ckpt` to the same end",
                problems,
            )
            failures += sum(problem is not None for problem in problems)
        few = max(1, trials // 5)
        mounts = can_mount(root / "mount")
        if mounts:
            sizes = np.linspace(0.05, 0.95, few)
            needed = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file())
            disks = [
                full_disk(whole, root / "full" / str(i), int(size * needed)) for i, size in enumerate(sizes)
            ]
            problems = [problem for _, problem in disks]
            began = sum(has_begun for has_begun, _ in disks)
            lines += said(
                f"disk full, from 5 % to 95 % of what the run needs: did not take itself for complete; the {began} for whose record there was room were, with more room, resumed to the same end",
                problems,
            )
            failures += sum(problem is not None for problem in problems)
        else:
            lines.append("- disk full: not tried, no small one can be mounted here")
        if mounts or os.geteuid() != 0:
            longer = trained(root / "longer", (*SETTINGS, "trainer.max_epochs=60"))
            problems = [read_only(longer, root / "read-only" / str(i), generator) for i in range(few)]
            lines += said(
                "`checkpoints/` made read-only at some moment: the run failed (exit 1), and made writable again it was resumed to the same end",
                problems,
            )
            failures += sum(problem is not None for problem in problems)
        else:
            lines.append("- read-only: not tried, root writes anyway and nothing can be mounted here")
        problems = [elsewhere(whole, root / "elsewhere")]
        lines += said("`TMPDIR` on another file system, and one that is not there: the same run", problems)
        failures += sum(problem is not None for problem in problems)
    return lines, failures


def said(what: str, problems: list[str | None]) -> list[str]:
    good = sum(problem is None for problem in problems)
    return [
        f"- {good} of {len(problems)}: {what}",
        *(f"  - {problem}" for problem in problems if problem is not None),
    ]


def trained(logs: Path, settings: Sequence[str] = SETTINGS) -> Path:
    """A whole run."""
    chosen = config(logs, settings=settings)

    def task() -> None:
        from vaelab.experiments.train import train

        train(chosen)

    pid = forked(task, logs / "log")
    run = begun(logs, pid)
    status = waited(pid)
    assert status == 0, (logs / "log").read_text()
    return run


def cut_off(content: bytes, generator: np.random.Generator) -> bytes:
    return content[: int(generator.integers(0, len(content)))]


def flipped(content: bytes, generator: np.random.Generator) -> bytes:
    place = int(generator.integers(0, 8 * len(content)))
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def damaged(
    whole: Path,
    copy: Path,
    damage: Callable[[bytes, np.random.Generator], bytes],
    generator: np.random.Generator,
) -> str | None:
    """A finished run that takes itself for interrupted and whose last checkpoint is damaged. Returns what went wrong."""
    from vaelab.runs import RunDirectory, Status, write_status

    shutil.copytree(whole, copy)
    run = RunDirectory(copy)
    write_status(run.status_file, Status.INTERRUPTED, exit_status=75)
    run.last_checkpoint.write_bytes(damage(run.last_checkpoint.read_bytes(), generator))
    problem = resumed(copy) or compared(whole, copy)
    if problem is None and "last.ckpt: is damaged" not in (copy.parent / "resume.log").read_text():
        problem = "the damage was not said"
    shutil.rmtree(copy)
    (copy.parent / "resume.log").unlink(missing_ok=True)
    return problem


def can_mount(folder: Path) -> bool:
    """Whether this process may: as root, and not in every container."""
    if os.geteuid() != 0:
        return False
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4096", "tmpfs", str(folder)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={num_bytes // 4096 * 4096}", "tmpfs", str(folder)], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_disk(whole: Path, folder: Path, num_bytes: int) -> tuple[bool, str | None]:
    """A run on a disk that is too small; then a copy of it on one that is not. Returns whether it began, and what went wrong."""
    from vaelab.runs import Status, read_status

    disk, logs = folder / "disk", folder / "disk" / "logs"
    with small_disk(disk, num_bytes):
        settings = config(logs)

        def task() -> None:
            from vaelab.experiments.train import train

            train(settings)

        status = waited(forked(task, folder / "log"))
        if status == 0:
            return True, f"{num_bytes} bytes: took itself for complete"
        found = next(iter(logs.glob("*/*/manifest.json")), None)
        if found is None:  # not even the record fitted: nothing to go on with
            return False, None
        run = folder / "copy"
        shutil.copytree(found.parent, run)
    # where there was no room for the last word it still says running
    if read_status(run / "status.json").status is Status.COMPLETED:
        return True, f"{num_bytes} bytes: completed, it says"
    problem = resumed(run) or compared(whole, run)
    return True, None if problem is None else f"{num_bytes} bytes: {problem}"


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """A folder to which nobody can write: root needs more than permission bits."""
    if os.geteuid() != 0:
        mode = stat.S_IMODE(folder.stat().st_mode)
        folder.chmod(0o555)
        yield
        folder.chmod(mode)
        return
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        remount = ["mount", "-o", "remount,bind,ro", str(folder)]
        while subprocess.run(remount, stderr=subprocess.DEVNULL, check=False).returncode:
            time.sleep(0.001)  # refused while a file in it is being written
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def read_only(whole: Path, logs: Path, generator: np.random.Generator) -> str | None:
    """Returns what went wrong."""
    settings = config(logs, "trainer.max_epochs=60")

    def task() -> None:
        from vaelab.experiments.train import train

        train(settings)

    pid = forked(task, logs / "log")
    run = begun(logs, pid)
    time.sleep(float(generator.uniform(0, 1.0)))
    with unwritable(run / "checkpoints"):
        status = waited(pid)
    if status != 1:
        return f"exit status {status}: {(logs / 'log').read_text()[-300:]}"
    return resumed(run) or compared(whole, run)


def elsewhere(whole: Path, root: Path) -> str | None:
    """Returns what went wrong."""
    before = os.environ.get("TMPDIR")
    try:
        for name, folder in (("other", "/dev/shm"), ("none", "/nowhere")):
            os.environ["TMPDIR"] = folder
            problem = compared(whole, trained(root / name))
            if problem is not None:
                return f"TMPDIR={folder}: {problem}"
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
    return None
