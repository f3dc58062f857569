"""What is in a run directory stays in it: no link, device or FIFO leads whoever reads or writes there to another place."""

from __future__ import annotations

import os
from pathlib import Path

from vaelab.errors import SettingError
from vaelab.runs.files import kind

#: folders in which a tracker keeps what is its own, links into other places included: nothing in them is read or followed
TRACKERS = ("wandb",)
#: files and folders; a run that keeps every checkpoint has some thousands
ENTRIES = 100_000


def check_contained(path: Path | str, setting: str = "run") -> None:
    """Look through a run directory once, before anything of it is read and anything is written into it.

    The directory itself may be reached by a link: a person has named it. One that changes while it is being used is not guarded against: whoever can do that
    has the rights of a person of this machine.

    Args:
        path: a run directory.
        setting: that names it.

    Raises:
        SettingError: a link that leads out of it, or into a tracker's folder; a FIFO, socket or device; a tracker's folder that is no folder; a folder that cannot
            be looked into; more than :data:`ENTRIES` files. The first one is named.
    """
    root = os.path.realpath(path)
    trackers = [os.path.join(root, name) for name in TRACKERS]
    folders, seen = [root], 0
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    seen += 1
                    if seen > ENTRIES:
                        raise SettingError(
                            setting, path, f"holds more than {ENTRIES:,} files: it is no run directory"
                        )
                    if reason := _reason(entry, root, trackers):
                        name = os.path.relpath(entry.path, root)
                        rule = f"{name!r} in it {reason}; nothing of it is used"  # repr: a name can hold what a terminal obeys
                        raise SettingError(setting, path, rule)
                    if entry.is_dir(follow_symlinks=False) and entry.path not in trackers:
                        folders.append(entry.path)
        except FileNotFoundError:  # a run that goes on beside us removes what it no longer needs
            continue
        except OSError as error:
            raise SettingError(setting, path, f"cannot be looked through ({error})") from None


def _reason(entry: os.DirEntry[str], root: str, trackers: list[str]) -> str | None:
    """Why something in a run directory is refused; None = it is not."""
    if entry.path in trackers:
        return None if entry.is_dir(follow_symlinks=False) else "is not the folder of a tracker"
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if not _inside(target, root):
            return "is a link that leads out of it"
        return "is a link into the folder of a tracker" if any(_inside(target, t) for t in trackers) else None
    if entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False):
        return None
    return f"is {kind(entry.stat(follow_symlinks=False).st_mode)} and no regular file"


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))
