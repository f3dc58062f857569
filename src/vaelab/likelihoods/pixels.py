"""What a pixel can be: a number in [0, 1], or one of L levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelab.errors import SettingError, integer


def unit_range(likelihood: str, pixel_range: Sequence[float]) -> None:
    """Refuse data with pixels outside [0, 1], where ``likelihood`` has no mass.

    Raises:
        SettingError: ``pixel_range`` is another than [0, 1].
    """
    if tuple(pixel_range) != (0.0, 1.0):
        raise SettingError(
            "data.pixel_range",
            list(pixel_range),
            f"likelihood={likelihood} takes pixels in [0, 1]; use [0, 1], or likelihood=gaussian",
        )


def inside(uniform: Tensor) -> Tensor:
    """Uniform numbers with 0 and 1 moved inside, where an inverse cumulative distribution function is finite."""
    limits = torch.finfo(uniform.dtype)
    return uniform.clamp(limits.tiny, 1 - limits.eps)


@dataclass(frozen=True)
class Levels:
    """The pixel values low + (high - low) k / (L - 1), k = 0 .. L - 1.

    Attributes:
        low, high: smallest and largest pixel value.
        count: L.

    Raises:
        SettingError: fewer than two levels.

    >>> Levels(-1.0, 1.0, 5).index(torch.tensor([-1.0, -0.5, 0.9, 7.0]))
    tensor([0., 1., 4., 4.])
    """

    low: float
    high: float
    count: int

    def __post_init__(self) -> None:
        integer("data.num_levels", self.count, 2)

    @property
    def step(self) -> float:
        """Distance of neighbouring levels."""
        return (self.high - self.low) / (self.count - 1)

    def index(self, pixels: Tensor) -> Tensor:
        """Level of each pixel, as float; the nearest one for a pixel between or beyond the levels."""
        return pixels.sub(self.low).div(self.step).round().clamp(0, self.count - 1)

    def value(self, index: Tensor) -> Tensor:
        """Pixel value of each level, the way the data module scales."""
        return index / (self.count - 1) * (self.high - self.low) + self.low
