"""A job that Slurm puts back into its queue, and starts again with the same command, goes on with the same run. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaelab.errors import SettingError
from vaelab.experiments.ranks import RUN_DIRECTORY, meeting
from vaelab.experiments.request import Request
from vaelab.runs import RunDirectory, Status, StatusRecord, read_cards, read_manifest, read_status
from vaelab.runs.status import SILENCE, is_live

if TYPE_CHECKING:
    from vaelab.experiments.train import Result

#: told a validation's score and its number, it says whether to give the run up
Report = Callable[[float, int], bool]

#: folder in ``paths.log_dir``; hidden, so that it is not searched for runs
FOLDER = ".slurm"


def carry_on(config: dict[str, Any], request: Request, report: Report | None = None) -> Result:
    """Train; or, in a job that Slurm has started again, resume what this very command began in it. Of several processes of one ``srun`` each does its part.

    Arguments as of :func:`vaelab.experiments.train.train`.

    Raises:
        SettingError: as :func:`vaelab.experiments.train.train` and :func:`vaelab.experiments.resume.resume` do.
        RunFailed: the run did not complete.
    """
    from vaelab.experiments.train import train

    folder = Path(config["paths"]["log_dir"]) / FOLDER
    with meeting(folder) as resumed:
        if resumed is not None:  # another process has made the run directory
            return _resume(Path(os.environ[RUN_DIRECTORY])) if resumed else train(config, request)
        note = None if request.directory is not None else job_note(folder, request, os.environ)
        run = begun(note, request) if started_again() else None
        if run is None:
            return train(config, replace(request, note=note), report=report)
        return _go_on(run, None, report)


def go_on(directory: Path | str, data_dir: str | None = None, report: Report | None = None) -> Result:
    """Resume a run, of which an earlier start of the same job may have been on the way; see :func:`vaelab.experiments.resume.resume`."""
    run = RunDirectory.open(directory)
    with meeting(run.path) as resumed:
        if resumed is None and started_again():
            return _go_on(run, data_dir, report)
        return _resume(run.path, data_dir, report)


def started_again() -> bool:
    """Whether this is a job of Slurm's that was put back into the queue, by whomever, and has left it again."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _go_on(run: RunDirectory, data_dir: str | None, report: Report | None) -> Result:
    """What is left of a run that this job began before."""
    from vaelab.experiments.train import Result

    record = _silent(run)
    if record is not None and record.status is Status.PRUNED:
        print(f"{run.path} was given up already")
        return Result(run.path, [], float(read_manifest(run)["given_up"]["score"]))
    if record is not None and record.status is Status.COMPLETED:
        print(f"{run.path} is complete already")
        return Result(run.path, read_cards(run.evaluation_file), read_manifest(run)["best_score"])
    print(f"started again by Slurm: on with {run.path}", flush=True)
    return _resume(run.path, data_dir, report)


def _silent(run: RunDirectory) -> StatusRecord | None:
    """How the run stands once nothing is heard of the start before: on another node that was killed, or fell silent, it cannot be asked."""
    deadline = time.monotonic() + 2 * SILENCE
    while True:
        try:
            record = read_status(run.status_file)
        except SettingError:  # as a node that failed may leave it; what resumes the run knows what to do
            return None
        if not is_live(record) or time.monotonic() > deadline:
            return record
        time.sleep(1.0)


def _resume(directory: Path, data_dir: str | None = None, report: Report | None = None) -> Result:
    from vaelab.experiments.resume import resume  # seconds to import

    return resume(directory, data_dir, report)


def job_note(folder: Path, request: Request, environment: Mapping[str, str]) -> Path | None:
    """Where a Slurm job notes which run it has begun by this command; None outside of a job.

    >>> job_note(Path("logs/.slurm"), Request(overrides=("seed=1",)), {"SLURM_JOB_ID": "17"}).as_posix()
    'logs/.slurm/17_59ed1b1d'
    """
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}-{task}" if array and task else environment.get("SLURM_JOB_ID")
    if not job:
        return None
    command = hashlib.sha256(json.dumps(list(request.overrides)).encode()).hexdigest()[:8]
    return folder / f"{job}_{command}"


def begun(note: Path | None, request: Request) -> RunDirectory | None:
    """The run that a note names, or that has the place which a sweep has given to this job; None where there is none, or none that could be gone on with."""
    if request.directory is not None:
        assert request.parent is not None
        place = request.parent / request.directory
        if not place.is_dir():
            return None
        if not RunDirectory(place).manifest_file.is_file():  # it had not begun a step
            shutil.rmtree(place)
            return None
        return RunDirectory.open(place)
    if note is None or not note.is_file():
        return None
    try:
        run = RunDirectory.open(note.read_text(encoding="utf-8"))
    except SettingError as error:
        print(f"the run that this job began before is gone ({error}): a new one")
        return None
    return run
