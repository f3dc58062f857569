"""How a run stands: ``status.json``."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from vaelab.errors import SettingError
from vaelab.runs.files import read_json, write_json

SCHEMA = 1
#: seconds between two beats of a run, and of a silence after which it counts as dead
BEAT, SILENCE = 10.0, 60.0


class Status(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    PRUNED = "pruned"


@dataclass(frozen=True)
class StatusRecord:
    """The content of ``status.json``; times are UTC in ISO format, ``error`` is one line, ``exit_status``
    None while running.

    ``process`` tells the process ``pid`` from a later one of that number, on this machine since it was started, without naming either; None where
    that cannot be had. ``progress`` is ``[step, num_steps]``.
    """

    status: Status
    pid: int
    started: str
    updated: str
    exit_status: int | None = None
    error: str | None = None
    process: str | None = None
    progress: list[int] | None = None


def write_status(
    path: Path,
    status: Status,
    *,
    exit_status: int | None = None,
    error: str | None = None,
    progress: tuple[int, int] | None = None,
) -> StatusRecord:
    """Write how the run stands. ``started`` is kept from a record that is there; ``error`` is cut to one
    line.

    A record that is there but damaged is replaced: the status must be writable whatever happened.
    """
    now = utc_now()
    try:
        started = read_status(path).started
    except SettingError:
        started = now
    line = " ".join(error.split())[:500] if error is not None else None
    record = StatusRecord(
        Status(status), os.getpid(), started, now, exit_status, line,
        process_identity(os.getpid()), None if progress is None else list(progress),
    )  # fmt: skip
    write_json(path, {"schema": SCHEMA, **asdict(record), "status": record.status.value})
    return record


def read_status(path: Path) -> StatusRecord:
    """The record in ``status.json``. Raises SettingError("run") if it is missing, damaged or of another
    schema.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise SettingError("run", path, f"is not a status record of schema {SCHEMA}")
    fields = {key: value for key, value in content.items() if key != "schema"}
    try:
        fields["status"] = Status(fields["status"])
        record = StatusRecord(**fields)
        _check(record)
        return record
    except (KeyError, TypeError, ValueError) as error:
        raise SettingError("run", path, f"is not a status record ({error})") from None


def _check(record: StatusRecord) -> None:
    """Raise ValueError for what no run writes, and whoever asks for signs of life would stumble over."""
    if type(record.pid) is not int or not isinstance(record.process, str | None):
        raise ValueError("pid or process is not that of a process")
    for name in ("started", "updated"):
        if datetime.fromisoformat(getattr(record, name)).tzinfo is None:
            raise ValueError(f"{name} is a time of no zone")
    if record.progress is not None:
        step, num_steps = record.progress
        if type(step) is not int or type(num_steps) is not int or step < 0 or num_steps < 1:
            raise ValueError("progress is not a step of a number of steps")


class Heartbeat:
    """Within, ``status.json`` says every few seconds that the run is going on, and how far it is.

    Args:
        path: of the file.
        seconds: between two beats.

    Attributes:
        progress: step and number of steps, told by whoever knows.
    """

    def __init__(self, path: Path, seconds: float = BEAT) -> None:
        self.progress: tuple[int, int] | None = None
        self._path, self._seconds = path, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(self._seconds):
            # a full disk is no reason to end a training; how the run ends is written by another one, who does not pass over it
            with contextlib.suppress(OSError):
                write_status(self._path, Status.RUNNING, progress=self.progress)


def is_live(record: StatusRecord) -> bool:
    """Whether a run that says that it is running still is: on this machine its process is looked for, of another one the last beat has to be recent."""
    if record.status is not Status.RUNNING:
        return False
    here = process_identity(record.pid)
    machine = None if record.process is None else record.process.partition(":")[0]
    if machine is not None and machine == _machine():
        return record.process == here
    return seconds_since(record.updated) < SILENCE


def seconds_since(time: str) -> float:
    """Since a time as :func:`utc_now` writes it."""
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()


def process_identity(pid: int) -> str | None:
    """A name of a process that no other one ever has: a hash of this machine's last start, and when the process began; None where there is none, or no Linux."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, *fields = content.rpartition(")")[2].split()
    machine = _machine()
    return None if machine is None or state == "Z" else f"{machine}:{fields[18]}"


def _machine() -> str | None:
    """A hash of what the kernel calls this start of the machine, and of the set of processes that are seen from here: containers share the one and not the other."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        processes = os.readlink("/proc/self/ns/pid").encode()
    except OSError:
        return None
    return hashlib.sha256(started + processes).hexdigest()[:12]


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
