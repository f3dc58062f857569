"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    OK = "ok"
    NOTE = "note"  # worth knowing; nothing has to be done
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        status: of what was looked at.
        name: of it.
        found: in words, with figures.
        advice: what to do about it, or None.
        is_difference: whether one training, carried out twice, did not give the same: then the exit status is 3.
    """

    status: Status
    name: str
    found: str
    advice: str | None = None
    is_difference: bool = False


def ok(name: str, found: str) -> Finding:
    return Finding(Status.OK, name, found)


def note(name: str, found: str, advice: str | None = None) -> Finding:
    return Finding(Status.NOTE, name, found, advice)


def wrong(name: str, found: str, advice: str) -> Finding:
    return Finding(Status.WRONG, name, found, advice)


def size(num_bytes: float) -> str:
    """
    >>> size(14_300_000), size(2.5e9), size(800)
    ('14 MB', '2.5 GB', '1 kB')
    """
    for unit, number in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= number or unit == "kB":
            value = max(num_bytes / number, 1.0)
            return f"{value:.1f} {unit}" if value < 10 and unit == "GB" else f"{value:,.0f} {unit}"
    raise AssertionError
