"""How a run stands: ``status.json``."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from vaelab.errors import SettingError
from vaelab.runs.files import read_json, write_json

SCHEMA = 1


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
    """

    status: Status
    pid: int
    started: str
    updated: str
    exit_status: int | None = None
    error: str | None = None


def write_status(
    path: Path, status: Status, *, exit_status: int | None = None, error: str | None = None
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
    record = StatusRecord(Status(status), os.getpid(), started, now, exit_status, line)
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
        return StatusRecord(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise SettingError("run", path, f"is not a status record ({error})") from None


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
