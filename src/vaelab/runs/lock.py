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
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SettingError("run", folder, f"is being {doing} by another process") from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            os.close(descriptor)
            raise
    try:
        yield
    finally:
        os.close(descriptor)
