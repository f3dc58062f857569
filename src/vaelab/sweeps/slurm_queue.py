"""What Slurm is asked, and told, by its commands."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from vaelab.errors import SettingError

LONGEST = 60.0  # seconds that an answer may take: a controller at work on a large queue needs some
NEEDED = ("sbatch", "srun", "squeue", "scancel", "scontrol")
#: states in which something is still to come of a job
ACTIVE = (
    "PENDING",
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESIZING",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
)


class SlurmError(RuntimeError):
    """A command of Slurm's has failed, or did not answer; the message is what it said.

    Attributes:
        silent: whether it said nothing.
    """

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


@dataclass(frozen=True)
class Listed:
    """A job as ``squeue`` shows it: ``reason`` is why it waits."""

    id: str
    state: str
    reason: str
    name: str


def require() -> None:
    """Refuse a machine without Slurm."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        rule = f"there is no {', '.join(missing)} here: start the sweep where Slurm's commands are, as on a login node of the cluster"
        raise SettingError("hydra/launcher", "submitit_slurm", rule)


def listed() -> dict[str, Listed]:
    """This user's jobs by id: those in the queue, those that run, and those that have ended not long ago.

    Raises:
        SlurmError
    """
    form = "%i|%T|%r|%j"  # the name comes last: it may hold anything
    return parse(_answer("squeue", f"--user={os.getuid()}", "--states=all", "--noheader", f"--format={form}"))


def parse(lines: str) -> dict[str, Listed]:
    """
    >>> parse("17|PENDING|Resources|a=1|2\\n")
    {'17': Listed(id='17', state='PENDING', reason='Resources', name='a=1|2')}
    """
    found = (Listed(*line.strip().split("|", 3)) for line in lines.splitlines() if line.count("|") >= 3)
    return {job.id: job for job in found}


def state_of_ended(job: str) -> str | None:
    """How a job ended that ``squeue`` shows no more; None where the cluster keeps no accounts, or not of it."""
    try:
        states = _answer("sacct", "-n", "-P", "-X", "-j", job, "-o", "State").split("\n")
    except SlurmError:
        return None
    return states[0].strip().partition(" ")[0] or None  # "CANCELLED by 1000"


def restarts(job: str) -> int | None:
    """How often a job has been started again; None where Slurm has forgotten it."""
    try:
        found = re.search(r"\bRestarts=(\d+)", _answer("scontrol", "show", "job", "--oneliner", job))
    except SlurmError:
        return None
    return None if found is None else int(found[1])


def requeue(job: str) -> bool:
    """Put a job back into the queue; False where the cluster does not."""
    try:
        _answer("scontrol", "requeue", job)
    except SlurmError:
        return False
    return True


def stop(jobs: Iterable[str], state: str, signum: signal.Signals | None = None) -> None:
    """Cancel those of the jobs that are in a state; with ``signum``, send their processes that signal instead.

    Raises:
        SlurmError
    """
    send = [] if signum is None else [f"--signal={signum.name.removeprefix('SIG')}"]
    _cancel([f"--state={state}", *send], jobs)


def cancel(jobs: Iterable[str]) -> None:
    """Cancel the jobs, whatever they do: SIGTERM, and SIGKILL half a minute later.

    Raises:
        SlurmError
    """
    _cancel([], jobs)


def _cancel(how: Sequence[str], jobs: Iterable[str]) -> None:
    if ids := [*jobs]:
        try:
            _answer("scancel", "--quiet", *how, *ids)
        except SlurmError as error:
            if not error.silent:  # else some of them have ended meanwhile
                raise


def check(script: str) -> None:
    """Have Slurm look at a batch script without taking it.

    Raises:
        SlurmError: it would be refused.
    """
    _answer(*without_own_job(("sbatch", "--test-only")), text=script)


def without_own_job(command: Sequence[str]) -> list[str]:
    """``command``, run without what Slurm has told this process, where it is part of a job: another job would take it for its own."""
    told = [name for name in os.environ if name.startswith("SLURM_") and name not in OF_THE_CLUSTER]
    return ["env", *(f"--unset={name}" for name in sorted(told)), *command]


#: variables that say where the cluster is, and nothing of a job
OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_TIME_FORMAT")


@contextmanager
def unsignalled() -> Iterator[None]:
    """Within, signals wait, also for processes that are started: a Ctrl-C between the submission of a job and the word of its number would leave a job that nobody
    knows of.
    """
    waiting = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _answer(*command: str, text: str = "") -> str:
    try:
        with unsignalled():
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=LONGEST, check=False
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(str(error)) from error
    if done.returncode != 0:
        said = "; ".join(line.strip() for line in (done.stderr or done.stdout).strip().splitlines())
        raise SlurmError(said or f"{command[0]}: exit status {done.returncode}", silent=not said)
    return done.stdout
