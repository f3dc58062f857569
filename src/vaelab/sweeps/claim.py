"""Which process has a job in hand: a lock that the kernel gives back when that process is gone, and the job's own with it."""

from __future__ import annotations

import os
from pathlib import Path

from vaelab.runs.lock import taken

#: folder in that of a sweep; hidden, so that it is not searched for runs
CLAIMS = ".claims"


class Claim:
    """A job in hand. The process of the job inherits :attr:`descriptor`, so that the claim lasts for as long as the job, though who started it be gone.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     first = Claim.take(Path(folder), "1f3a")
    ...     second = Claim.take(Path(folder), "1f3a")
    ...     first.release()
    ...     third = Claim.take(Path(folder), "1f3a")
    >>> first is None, second is None, third is None
    (False, True, False)
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, folder: Path, identity: str) -> Claim | None:
        """Claim a job of the sweep in ``folder``; None where another process has it in hand."""
        place = folder / CLAIMS / identity
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor = taken(place, os.O_RDWR | os.O_CREAT)
        return None if descriptor is None else cls(descriptor)

    def release(self) -> None:
        os.close(self.descriptor)
