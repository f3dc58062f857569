"""Noise, as estimators receive it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Draws(Protocol):
    """Random numbers of B images, each a function of (image, purpose, repetition) alone."""

    def normal(self, purpose: str, shape: Sequence[int], repetition: int = 0) -> Tensor: ...

    def uniform(self, purpose: str, shape: Sequence[int], repetition: int = 0) -> Tensor: ...

    def __getitem__(self, images: slice) -> Draws: ...
