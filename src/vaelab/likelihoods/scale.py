"""The scale of a location-scale density: from the decoder, learned or constant, with a floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaelab.errors import choice, number
from vaelab.networks.layers import widened

MODES = ("decoder", "learned", "constant")


@dataclass(frozen=True)
class Scale:
    """How a likelihood comes by its scale s.

    - ``decoder``: s_i(z), one a pixel, from the decoder beside the location;
    - ``learned``: one number for all pixels, trained;
    - ``constant``: one number for all pixels, fixed at ``value``.

    s = floor + softplus(start + raw) from the decoder, floor + softplus(raw) with one trained number ``raw`` that begins at ``start``: s = value at first.

    Attributes:
        mode: one of :data:`MODES`.
        value: the scale where it is constant, and its first value where it is trained.
        floor: the scale is above it.
    """

    mode: str
    value: float
    floor: float

    @property
    def params_per_pixel(self) -> int:
        """Location, and scale where the decoder gives it."""
        return 2 if self.mode == "decoder" else 1

    @property
    def start(self) -> float:
        above_floor = self.value - self.floor
        return above_floor + math.log(-math.expm1(-above_floor))  # the inverse of softplus

    def parameter(self) -> nn.Parameter | None:
        """The trained number of ``learned``; None in the other modes."""
        return nn.Parameter(torch.tensor(self.start)) if self.mode == "learned" else None

    def split(self, parameters: Tensor, raw: Tensor | None) -> tuple[Tensor, Tensor]:
        """Location and scale, both ``[..., C, H, W]``, from what the decoder gave.

        Args:
            parameters: ``[..., P * C, H, W]``: locations, then raw scales.
            raw: what :meth:`parameter` made.
        """
        parameters = widened(parameters)
        if self.mode == "decoder":
            location, offset = parameters.chunk(2, dim=-3)
            return location, self.floor + F.softplus(self.start + offset)
        if raw is not None:
            return parameters, (self.floor + F.softplus(raw)).expand_as(parameters)
        return parameters, torch.full_like(parameters, self.value)


def scale_of(
    mode_setting: str,
    value_setting: str,
    *,
    mode: str,
    value: float | str,
    floor: float | str,
    pixel_range: Sequence[float],
    num_levels: int,
) -> Scale:
    """The scale of a configuration; ``auto`` = a tenth of the pixel range, and half a grey level for its floor.

    Args:
        mode_setting: how the likelihood calls ``mode``, e.g. ``variance``.
        value_setting: how it calls ``value``, e.g. ``sigma``; its floor is ``sigma_floor``.

    Raises:
        SettingError: an unknown mode, a value that is not above the floor.
    """
    choice(f"likelihood.{mode_setting}", mode, MODES)
    extent = pixel_range[1] - pixel_range[0]
    if floor == "auto":
        floor = extent / num_levels / 2
    rule = "must be auto (half a grey level) or a number >= 0"
    floor = float(number(f"likelihood.{value_setting}_floor", floor, rule, lambda least: least >= 0))
    if value == "auto":
        value = max(0.1 * extent, 2 * floor)
    rule = f"must be above likelihood.{value_setting}_floor, here {floor:g}"
    value = float(number(f"likelihood.{value_setting}", value, rule, lambda scale: scale > floor))
    return Scale(mode, value, floor)
