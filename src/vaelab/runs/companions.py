"""The runs that were trained together with a run."""

from __future__ import annotations

from vaelab.errors import SettingError
from vaelab.runs.directory import RunDirectory
from vaelab.runs.manifest import read_manifest
from vaelab.runs.status import Status, is_live, read_status


def companions(run: RunDirectory) -> list[RunDirectory]:
    """Those of its stack, in its folder, that were interrupted as it was, and it itself, in their order; none where it was by itself.

    Left out are those that have ended (completed, failed, given up), and those that are going on again.
    """
    stack = read_manifest(run).get("stack")
    if stack is None:
        return []
    found = {stack["member"]: run}
    for path in sorted(run.path.absolute().parent.iterdir()):
        other = RunDirectory(path)
        if path == run.path.absolute() or not other.manifest_file.is_file():
            continue
        try:
            told, status = read_manifest(other).get("stack"), read_status(other.status_file)
        except SettingError:  # damaged: it is for itself
            continue
        if told is None or told["id"] != stack["id"] or is_live(status):
            continue
        if status.status in (Status.INTERRUPTED, Status.RUNNING):
            found.setdefault(told["member"], other)
    return [found[member] for member in sorted(found)]
