"""The part of a Slurm job of a sweep that runs on the cluster's nodes, and the files by which the two sides know of each other."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RESUME_ME = 75  # exit status of a run that was asked to save and stop


@dataclass(frozen=True)
class JobFiles:
    """The files of a job, in a folder that all nodes see.

    ``status`` holds the exit status once the job has ended by itself, ``started`` which process it is, and ``stop`` is there when the job is not to be put back into
    the queue.
    """

    folder: Path
    job: str

    @property
    def status(self) -> Path:
        return self.folder / f"{self.job}.status"

    @property
    def started(self) -> Path:
        return self.folder / f"{self.job}.started"

    @property
    def stop(self) -> Path:
        return self.folder / f"{self.job}.stop"

    @property
    def log(self) -> Path:
        """What was printed outside of the command."""
        return self.folder / f"{self.job}_0_log.out"

    def exit_status(self) -> int | None:
        """None until the job has ended by itself."""
        text = self.status.read_text().strip() if self.status.is_file() else ""
        return int(text) if text.isdecimal() else None

    def process(self) -> tuple[int, float] | None:
        """The pid that the command has on its node, and when it began; None before that."""
        try:
            content = json.loads(self.started.read_text())
            return int(content["pid"]), float(content["at"])
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not whole yet
            return None

    def remove(self, *, with_log: bool) -> None:
        """Whatever there is of the job: its command line is no longer needed, and may hold what no record may."""
        for path in (*self.folder.glob(f"{self.job}_*"), *self.folder.glob(f"{self.job}.*")):
            if with_log or path != self.log:
                path.unlink(missing_ok=True)
        for link in self.folder.glob(".submission_file_*"):
            if not link.exists():  # it led to one of those
                link.unlink(missing_ok=True)


@dataclass(frozen=True)
class Command:
    """A command line with variables; called in a process that Slurm has started, which becomes the command: signals reach it, and its exit status is the job's.

    Attributes:
        argv: the command line.
        environment: variables beside those of the job.
        output: the file that takes what the first process prints.
        folder: of the :class:`JobFiles`.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    output: str
    folder: str

    def __call__(self) -> None:
        files = JobFiles(Path(self.folder), os.environ["SLURM_JOB_ID"])
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # the end of the time may be announced before the command is ready for it, and would end it as a failure
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if files.stop.exists():  # from here on a signal is felt
            sys.exit(RESUME_ME)
        if os.environ.get("SLURM_PROCID", "0") == "0":
            files.status.unlink(missing_ok=True)  # of an earlier start
            here = {"pid": os.getpid(), "host": socket.gethostname(), "at": time.time()}
            files.started.write_text(json.dumps(here))
            self._take_output()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SUBMITIT_")}
        os.execvpe(self.argv[0], self.argv, {**kept, **self.environment})

    def _take_output(self) -> None:
        again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if again else os.O_TRUNC)
        sys.stdout.flush()
        sys.stderr.flush()
        descriptor = os.open(self.output, flags, 0o666)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        os.close(descriptor)


def after(files: Path, again: int) -> list[str]:
    """Lines of the batch script behind the command: what was asked to save and stop, though nobody wants it to stop, goes back into the queue.

    Args:
        files: folder of the :class:`JobFiles`.
        again: how often a job may be put back.
    """
    return [
        "status=$?",
        f"files={_quoted(files)}/$SLURM_JOB_ID",
        f'if [ $status = {RESUME_ME} ] && [ ! -e "$files.stop" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {again} ]; then',
        "    scontrol requeue $SLURM_JOB_ID && exit $status",
        "fi",
        'rm -f "${files}_submitted.pkl"',  # the command line, which may hold what no record may
        'echo $status > "$files.status"',
        "exit $status",
    ]


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"
