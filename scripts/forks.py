"""Runs in processes of their own, forked from one that has paid for the imports and has never trained."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

#: three epochs of ten steps, with a validation each; everything that has a state: binarisation, importance weights, schedules, averages, accumulation
SETTINGS = (
    "data=digits", "data.batch_size=60", "data.binarize=dynamic", "latent_dim=2", "trainer=cpu", "encoder.hidden=[16]", "decoder.hidden=[16]", "logger=none",
    "trainer.enable_progress_bar=false", "trainer.max_epochs=3", "trainer.log_every_n_steps=7", "estimator.num_samples=10", "estimator.repetitions=2",
    "objective=iwae", "objective.num_samples=3", "optimizer.ema_decay=0.9", "optimizer.accumulate=2", "optimizer.schedule=cosine",
    "schedule=linear", "schedule.warmup_epochs=2", "checkpoints.every_n_steps=4", "callbacks=early_stopping",
)  # fmt: skip


def config(logs: Path, *overrides: str, settings: Sequence[str] = SETTINGS) -> dict[str, Any]:
    """The resolved configuration of a small run into ``logs``."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from vaelab.commands.entry import config_directory

    with initialize_config_dir(str(config_directory("train")), version_base="1.3"):
        cfg = compose("train", overrides=[*settings, f"paths.log_dir={logs}", *overrides])
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
    """The exit status of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def directory_of(logs: Path) -> Path | None:
    """The run directory, once its manifest is there."""
    return next((path.parent for path in logs.glob("*/*/manifest.json")), None)


def begun(logs: Path, pid: int) -> Path:
    """Wait for the manifest of a run."""
    while (run := directory_of(logs)) is None:
        if os.waitpid(pid, os.WNOHANG)[0]:
            raise RuntimeError(f"the run did not begin: {(logs / 'log').read_text()}")
        time.sleep(0.001)
    return run


def resumed(run: Path) -> str | None:
    """Resume to the end. Returns what went wrong; a run that was complete already is refused, and that is right."""
    from vaelab.runs import Status, read_status

    if read_status(run / "status.json").status is Status.COMPLETED:
        return None

    def task() -> None:
        from vaelab.experiments.resume import resume

        resume(run)

    log = run.parent / "resume.log"
    status = waited(forked(task, log))
    return None if status == 0 else f"vae-resume: {status}: {log.read_text()[-500:]}"


def compared(whole: Path, run: Path) -> str | None:
    """What differs."""
    from vaelab.runs import RunDirectory, Status, read_status
    from vaelab.runs.equality import differences

    if read_status(run / "status.json").status is not Status.COMPLETED:
        return f"status {read_status(run / 'status.json').status}"
    found = differences(RunDirectory(whole), RunDirectory(run))
    return f"{len(found)} differences, first {found[0]}" if found else None
