"""Killed at any moment, resumed to the end: is the run the same as one that nobody disturbed?

Every trial is a process of its own, forked from one that has paid for the imports and has never trained. Half the kills that are asked for, at most, come at a moment drawn uniformly over the
time from when the manifest is there to the end; the others inside the write of a checkpoint: at one of the moments before and after each flush and each rename, and in the middle of
the bytes, drawn uniformly over all checkpoints of the run.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from forks import begun, compared, config, directory_of, forked, resumed, waited

TITLE = "Killed and resumed"


def torture(trials: int, seed: int) -> tuple[list[str], int]:
    """Kill ``trials`` runs, a half of them (at least 50 of 200) inside the write of a checkpoint, and resume each. Returns lines of Markdown, and how many did not end as they should have."""
    generator = np.random.default_rng(seed)
    found: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="vaelab-torture-") as folder:
        root = Path(folder)
        whole, seconds, moments = undisturbed(root / "undisturbed")
        in_writes = trials // 2
        for trial in range(trials):
            logs = root / str(trial)
            if trial < in_writes:
                at = int(generator.integers(1, moments + 1))
                run = killed(logs, moment=at)
                where = "inside a write"
            else:
                after = float(generator.uniform(0, seconds))
                run = killed(logs, after=after)
                where = f"{after:.2f} s in"
            found["checkpoint" if any(run.glob("checkpoints/*.ckpt")) else "first step"] += 1
            found["write" if trial < in_writes else "time"] += 1
            problem = resumed(run) or compared(whole, run)
            if problem:
                failures.append(f"- trial {trial}, killed {where}: {problem}")
                shutil.copytree(run, Path(tempfile.mkdtemp(prefix="vaelab-failed-")) / run.name)
            shutil.rmtree(logs)
    good = trials - len(failures)
    lines = [
        f"{good} of {trials} runs that were killed (SIGKILL) and resumed once ended with the weights, the losses of single steps, every metric outside `time/` and the cards of the undisturbed run, bit for bit.",
        f"{found['write']} were killed inside the write of a checkpoint ({moments} moments of a run), {found['time']} at a time drawn uniformly from the {seconds:.1f} s after the manifest was there;",
        f"{found['first step']} had no checkpoint yet and began again at their first step in the same directory.",
        *failures,
    ]
    return lines, len(failures)


def undisturbed(logs: Path) -> tuple[Path, float, int]:
    """A whole run: its directory, the seconds from its manifest to its end, and the moments of its checkpoint writes."""
    settings = config(logs)

    def task() -> None:
        from vaelab.experiments.train import train

        with counted_writes(None) as moments:
            train(settings)
        (logs / "moments").write_text(str(moments()))

    pid = forked(task, logs / "log")
    run = begun(logs, pid)
    began = time.monotonic()
    status = waited(pid)
    seconds = time.monotonic() - began
    assert status == 0, (logs / "log").read_text()
    return run, seconds, int((logs / "moments").read_text())


def killed(logs: Path, *, moment: int | None = None, after: float | None = None) -> Path:
    """A run that is killed at a moment of its checkpoint writes, or so many seconds after its manifest was there. Returns its directory."""
    settings = config(logs)

    def task() -> None:
        from vaelab.experiments.train import train

        with counted_writes(moment):
            train(settings)

    pid = forked(task, logs / "log")
    if after is not None:
        begun(logs, pid)
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    status = waited(pid)
    run = directory_of(logs)
    assert run is not None, (logs / "log").read_text()
    assert moment is None or status == -signal.SIGKILL, f"was to be killed, and ended with {status}"
    return run


@contextmanager
def counted_writes(deadly: int | None) -> Iterator[Callable[[], int]]:
    """Count the moments of checkpoint writes; at the ``deadly``-th the process is killed. What is written is not changed."""
    import torch

    from vaelab.training.checkpoints import AtomicCheckpointIO

    count, inside = 0, False
    save_checkpoint, save, fsync, replace = (
        AtomicCheckpointIO.save_checkpoint,
        torch.save,
        os.fsync,
        os.replace,
    )

    def moment() -> None:
        nonlocal count
        if inside:
            count += 1
            if count == deadly:
                os.kill(os.getpid(), signal.SIGKILL)

    def writing(self: Any, *arguments: Any, **named: Any) -> None:
        nonlocal inside
        inside = True
        try:
            save_checkpoint(self, *arguments, **named)
        finally:
            inside = False

    def in_halves(content: Any, file: Any) -> None:
        moment()
        buffer = io.BytesIO()
        save(content, buffer)
        data = buffer.getvalue()
        file.write(data[: len(data) // 2])
        file.flush()
        moment()
        file.write(data[len(data) // 2 :])
        moment()

    def around(function: Callable[..., None]) -> Callable[..., None]:
        def called(*arguments: Any) -> None:
            moment()
            function(*arguments)
            moment()

        return called

    AtomicCheckpointIO.save_checkpoint = writing  # pyright: ignore[reportAttributeAccessIssue]
    torch.save, os.fsync, os.replace = in_halves, around(fsync), around(replace)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield lambda: count
    finally:
        AtomicCheckpointIO.save_checkpoint = save_checkpoint  # pyright: ignore[reportAttributeAccessIssue]
        torch.save, os.fsync, os.replace = save, fsync, replace  # pyright: ignore[reportAttributeAccessIssue]
