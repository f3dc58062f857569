"""What a long computation tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import length_hint
from typing import TypeVar

T = TypeVar("T")

#: (what is computed, how much of it is done, of how much; None where that is not known)
Progress = Callable[[str, int, int | None], None]


def told(what: str, items: Iterable[T], progress: Progress | None) -> Iterator[T]:
    """``items``, one by one; ``progress`` is told after each."""
    total = length_hint(items) or None  # a loader of a stream has none, and says so by an exception
    for done, item in enumerate(items, 1):
        yield item
        if progress is not None:
            progress(what, done, total)
