"""``sweep.json``: what a sweep has been asked for and how its jobs stand. A convenience: the runs say it all themselves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vaelab.errors import SettingError
from vaelab.runs import Secrets, read_json, write_json
from vaelab.runs.status import utc_now

SCHEMA = 1
FILE = "sweep.json"
SECONDS_BETWEEN = 1.0  # two writings: hundreds of jobs that are done already would each cost one


@dataclass
class Entry:
    """A job in the record.

    ``id`` is its identity, ``run`` the name of its directory, ``error`` one line, ``tries`` how often it has been begun anew, ``seconds`` what the last process took.
    """

    id: str
    name: str
    overrides: list[str]
    swept: dict[str, Any]
    run: str
    status: str = "waiting"
    error: str | None = None
    tries: int = 0
    seconds: float | None = None


class Record:
    """The entries of a sweep's jobs, on disk.

    Another process may work on the same sweep: its entries stay, and those of ``mine`` are this one's.

    Args:
        folder: of the sweep.
        argv, overrides: of this start.
    """

    def __init__(self, folder: Path, argv: Sequence[str], overrides: Sequence[str]) -> None:
        self.path = folder / FILE
        self.mine: dict[str, Entry] = {}
        self._secrets = Secrets.of(os.environ)
        self._start = {
            "at": utc_now(),
            "argv": self._secrets.words(argv),
            "overrides": self._secrets.words(overrides),
        }
        self._written = 0.0
        self._noted = False  # whether the file has this start

    def earlier(self) -> dict[str, Entry]:
        """The entries on disk by identity; none where there is no record that can be read."""
        return {entry.id: entry for entry in self._read()[1]}

    def write(self, *, now: bool = True) -> None:
        """Put this process's entries into the file; unless ``now``, not more often than once a second."""
        if not now and time.monotonic() - self._written < SECONDS_BETWEEN:
            return
        content, there = self._read()
        entries = {entry.id: entry for entry in there} | self.mine
        starts = content.get("starts", [])
        write_json(
            self.path,
            {
                "schema": SCHEMA,
                "name": self.path.parent.name,
                "created": content.get("created", self._start["at"]),
                "starts": starts if self._noted else [*starts, self._start],
                "jobs": [self._secrets.redact(asdict(entry)) for entry in entries.values()],
            },
        )
        self._noted, self._written = True, time.monotonic()

    def _read(self) -> tuple[dict[str, Any], list[Entry]]:
        if not self.path.is_file():
            return {}, []
        try:
            content = read_json(self.path)
            if not isinstance(content, dict) or content.get("schema") != SCHEMA:
                raise SettingError("sweep", self.path, f"is no record of a sweep of schema {SCHEMA}")
            return content, list(_entries(content["jobs"]))
        except (SettingError, KeyError, TypeError) as error:
            print(f"{self.path} is not used and made anew ({error})")
            self.path.unlink()
            return {}, []


def _entries(jobs: Iterable[Any]) -> Iterable[Entry]:
    for job in jobs:
        yield Entry(**job)
