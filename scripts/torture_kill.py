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

TITLE = "Killed and resumed"
#: three epochs of ten steps, with a validation each; everything that has a state: binarisation, importance weights, schedules, averages, accumulation
SETTINGS = (
    "data=digits", "data.batch_size=60", "data.binarize=dynamic", "latent_dim=2", "trainer=cpu", "encoder.hidden=[16]", "decoder.hidden=[16]", "logger=none",
    "trainer.enable_progress_bar=false", "trainer.max_epochs=3", "trainer.log_every_n_steps=7", "estimator.num_samples=10", "estimator.repetitions=2",
    "objective=iwae", "objective.num_samples=3", "optimizer.ema_decay=0.9", "optimizer.accumulate=2", "optimizer.schedule=cosine",
    "schedule=linear", "schedule.warmup_epochs=2", "checkpoints.every_n_steps=4", "callbacks=early_stopping",
)  # fmt: skip


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


def config(logs: Path) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from vaelab.commands.entry import config_directory

    with initialize_config_dir(str(config_directory("train")), version_base="1.3"):
        cfg = compose("train", overrides=[*SETTINGS, f"paths.log_dir={logs}"])
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    return resolved


def forked(task: Callable[[], None], log: Path) -> int:
    """Start ``task`` in a process of its own, its output into ``log``. Returns the process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        task()
        status = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        status = getattr(error, "exit_status", 2)
    finally:
        os._exit(status)


def waited(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def directory_of(logs: Path) -> Path | None:
    """The run directory, once its manifest is there."""
    return next((path.parent for path in (logs / "vae").glob("*/manifest.json")), None)


def undisturbed(logs: Path) -> tuple[Path, float, int]:
    """A whole run: its directory, the seconds from its manifest to its end, and the moments of its checkpoint writes."""
    settings = config(logs)

    def task() -> None:
        from vaelab.experiments.train import train

        with counted_writes(None) as moments:
            train(settings)
        (logs / "moments").write_text(str(moments()))

    pid = forked(task, logs / "log")
    while directory_of(logs) is None:
        time.sleep(0.001)
    began = time.monotonic()
    status = waited(pid)
    seconds = time.monotonic() - began
    run = directory_of(logs)
    assert status == 0, (logs / "log").read_text()
    assert run is not None
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
        while directory_of(logs) is None:
            time.sleep(0.001)
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    status = waited(pid)
    run = directory_of(logs)
    assert run is not None, (logs / "log").read_text()
    assert moment is None or status == -signal.SIGKILL, f"was to be killed, and ended with {status}"
    return run


def resumed(run: Path) -> str | None:
    """Resume to the end. Returns what went wrong; a run that was complete already is refused, and that is right."""
    from vaelab.runs import Status, read_status

    if read_status(run / "status.json").status is Status.COMPLETED:
        return None

    def task() -> None:
        from vaelab.experiments.resume import resume

        resume(run)

    status = waited(forked(task, run.parents[1] / "log"))
    return None if status == 0 else f"vae-resume: {status}: {(run.parents[1] / 'log').read_text()[-500:]}"


def compared(whole: Path, run: Path) -> str | None:
    """What differs."""
    from vaelab.runs import RunDirectory, Status, read_status
    from vaelab.runs.equality import differences

    if read_status(run / "status.json").status is not Status.COMPLETED:
        return f"status {read_status(run / 'status.json').status}"
    found = differences(RunDirectory(whole), RunDirectory(run))
    return f"{len(found)} differences, first {found[0]}" if found else None


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
