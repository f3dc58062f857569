"""A job that Slurm puts back into its queue, and starts again with the same command, goes on with the same run. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaelab.errors import SettingError
from vaelab.experiments.request import Request
from vaelab.runs import RunDirectory, Status, read_cards, read_manifest, read_status

if TYPE_CHECKING:
    from vaelab.experiments.train import Result

#: folder in ``paths.log_dir``; hidden, so that it is not searched for runs
FOLDER = ".slurm"


def carry_on(
    config: dict[str, Any], request: Request, report: Callable[[float, int], bool] | None = None
) -> Result:
    """Train; or, in a job that Slurm has started again, resume what this very command began in it.

    Arguments as of :func:`vaelab.experiments.train.train`.

    Raises:
        SettingError: as :func:`vaelab.experiments.train.train` and :func:`vaelab.experiments.resume.resume` do.
        RunFailed: the run did not complete.
    """
    from vaelab.experiments.train import Result, train

    note = job_note(config["paths"]["log_dir"], request, os.environ)
    run = None if note is None or os.environ.get("SLURM_RESTART_COUNT", "0") == "0" else begun(note)
    if run is None:
        return train(config, replace(request, note=note), report=report)
    status = read_status(run.status_file).status
    if status is Status.PRUNED:
        print(f"{run.path} was given up already")
        return Result(run.path, [], float(read_manifest(run)["given_up"]["score"]))
    if status is Status.COMPLETED:
        print(f"{run.path} is complete already")
        return Result(run.path, read_cards(run.evaluation_file), read_manifest(run)["best_score"])
    from vaelab.experiments.resume import resume

    print(f"started again by Slurm: on with {run.path}", flush=True)
    return resume(run.path, report=report)


def job_note(log_dir: str, request: Request, environment: Mapping[str, str]) -> Path | None:
    """Where a Slurm job notes which run it has begun by this command; None outside of a job.

    >>> job_note("logs", Request(overrides=("seed=1",)), {"SLURM_JOB_ID": "17"}).as_posix()
    'logs/.slurm/17_59ed1b1d'
    """
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}-{task}" if array and task else environment.get("SLURM_JOB_ID")
    if not job:
        return None
    command = hashlib.sha256(json.dumps(list(request.overrides)).encode()).hexdigest()[:8]
    return Path(log_dir) / FOLDER / f"{job}_{command}"


def begun(note: Path) -> RunDirectory | None:
    """The run that a note names; None where there is none, or none that could be gone on with."""
    if not note.is_file():
        return None
    try:
        run = RunDirectory.open(note.read_text(encoding="utf-8"))
    except SettingError as error:
        print(f"the run that this job began before is gone ({error}): a new one")
        return None
    return run
