"""Noise as an argument, for estimators that need it again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Draws(Protocol):
    """Random numbers of B images, each a function of (image, purpose, repetition) alone, on the CPU; :class:`vaelab.noise.ImageDraws` makes them.

    Numbers of different images, purposes or repetitions are independent, and so are normal and uniform ones. Two calls that differ in
    their shape alone share numbers.
    """

    def normal(self, purpose: str, shape: Sequence[int], repetition: int = 0) -> Tensor:
        """Standard normal numbers ``[B, *shape]``."""
        ...

    def uniform(self, purpose: str, shape: Sequence[int], repetition: int = 0) -> Tensor:
        """Uniform numbers in [0, 1) ``[B, *shape]``."""
        ...

    def __getitem__(self, images: slice) -> Draws:
        """Those of some of the images."""
        ...
