"""The runs in a sweep's folder, known by what they are and not by what they are called."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from vaelab.errors import SettingError
from vaelab.runs import RunDirectory, Status, StatusRecord, read_manifest, read_status
from vaelab.runs.status import is_live


@dataclass(frozen=True)
class Found:
    """A run that is there."""

    run: RunDirectory
    record: StatusRecord

    @property
    def status(self) -> Status:
        return self.record.status

    @property
    def live(self) -> bool:
        return is_live(self.record)

    @property
    def score(self) -> float | None:
        """Of the selected checkpoint; of a run that was given up the last one, which it was given up for. None without validation, or before the end."""
        manifest = read_manifest(self.run)
        pruned = self.status is Status.PRUNED
        score = (manifest.get("given_up") or {}).get("score") if pruned else manifest.get("best_score")
        return None if score is None else float(score)


class FoundRuns:
    """Those in a folder, which may become more, or have other names, from one question to the next.

    Args:
        folder: of the sweep; need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._identities: dict[
            str, str
        ] = {}  # of the directories whose manifest has been read: that never changes

    def of(self, identity: str) -> list[Found]:
        """The attempts at one run, in order of their directories' names."""
        self._look()
        names = [name for name, found in sorted(self._identities.items()) if found == identity]
        found = []
        for name in names:
            run = RunDirectory(self.folder / name)
            try:
                found.append(Found(run, read_status(run.status_file)))
            except SettingError:  # it has another name by now, or is damaged
                continue
        return found

    def _look(self) -> None:
        there = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        for name in there - self._identities.keys():
            try:
                identity = read_manifest(RunDirectory(self.folder / name)).get("identity")
            except SettingError:  # no run, or one that has only just begun
                continue
            if isinstance(identity, dict):
                self._identities[name] = str(identity.get("sha256"))
        for name in self._identities.keys() - there:
            del self._identities[name]


def make_room(place: Path) -> None:
    """Free the name of a run directory for another attempt; the caller has the job in hand.

    An attempt that ended is kept, as ``<name>.failed-1`` and so on. One that ended before its manifest was written is removed: it had not begun a step, and
    nothing could be had again from it.
    """
    if not place.is_dir():
        return
    if not RunDirectory(place).manifest_file.exists():
        shutil.rmtree(place)
        return
    number = 1
    while (kept := place.with_name(f"{place.name}.failed-{number}")).exists():
        number += 1
    place.rename(kept)
