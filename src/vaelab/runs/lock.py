"""One process at a time works in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vaelab.errors import SettingError

#: what a file system says that knows no locks, as some that are mounted over a network
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def taken(path: Path, flags: int = os.O_RDONLY, *, wait: bool = False) -> int | None:
    """A descriptor that holds the lock of a file or folder, until it and all that are inherited from it are closed; None where another process has it.

    Args:
        path: which has to be there, unless ``flags`` make it.
        flags: of :func:`os.open`.
        wait: for the other process.
    """
    descriptor = os.open(path, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            os.close(descriptor)
            raise
    return descriptor


@contextmanager
def held(folder: Path, doing: str = "written", *, wait: bool = False) -> Iterator[None]:
    """Within, no other process is within for the same folder. The lock goes with the process, however that ends.

    Args:
        folder: which has to be there.
        doing: what the other process does with it, in a word for the refusal.
        wait: for the other process, in the place of a refusal.

    Raises:
        SettingError: another process is within.
    """
    descriptor = taken(folder, wait=wait)
    if descriptor is None:
        raise SettingError("run", folder, f"is being {doing} by another process")
    try:
        yield
    finally:
        os.close(descriptor)
