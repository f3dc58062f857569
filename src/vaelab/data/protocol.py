"""How stored pixels become the numbers that a model sees: binarisation, dequantisation, scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from vaelab.errors import SettingError, choice

BINARIZE = ("none", "threshold", "fixed", "dynamic")


@dataclass(frozen=True)
class Protocol:
    """The protocol of a run, part of every number it reports.

    Attributes:
        stored_levels: number of grey levels of the stored pixels, 0 .. stored_levels - 1.
        binarize: ``none``; ``threshold`` at half the range; ``fixed``: x ~ Bernoulli(grey), sampled once from ``noise_seed``;
            ``dynamic``: sampled anew at each visit in training (Burda et al. 2016), and once from ``noise_seed`` for validation and test.
        dequantize: add uniform noise of one level, so that a density on the pixels means something (Theis et al. 2016).
        pixel_range: values of the darkest and the brightest pixel (dequantised pixels stay inside).
        noise_seed: seed of all that is sampled once: fixed binarisation, and the binarisation and dequantisation of validation and test images. It is not the
            seed of the run, so that runs with different seeds are tested on the same pixels.

    Raises:
        SettingError: an unknown binarisation, or a range that is none.
    """

    stored_levels: int
    binarize: str = "none"
    dequantize: bool = False
    pixel_range: tuple[float, float] = (0.0, 1.0)
    noise_seed: int = 0

    def __post_init__(self) -> None:
        choice("data.binarize", self.binarize, BINARIZE)
        low_high = self.pixel_range
        if len(low_high) != 2 or not low_high[0] < low_high[1]:
            raise SettingError(
                "data.pixel_range", list(low_high), "must be two numbers, the smaller one first"
            )
        if self.stored_levels == 2 and self.binarize != "none":
            raise SettingError("data.binarize", self.binarize, "the data are binary already; use none")

    @property
    def samples_pixels(self) -> bool:
        """Whether binarising takes random numbers."""
        return self.binarize in ("fixed", "dynamic")

    @property
    def is_binary(self) -> bool:
        return self.stored_levels == 2 or self.binarize != "none"

    @property
    def num_levels(self) -> int:
        """Number of grey levels of what the model sees."""
        return 2 if self.is_binary else self.stored_levels

    def levels(self, stored: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Stored pixels, uint8, binarised if the protocol says so: integers 0 .. num_levels - 1 as float32.

        Args:
            stored: any shape.
            uniform: numbers in [0, 1) of the same shape, where binarising samples.
        """
        grey = stored.to(torch.float32)
        if self.binarize == "threshold":
            return (grey > (self.stored_levels - 1) / 2).to(torch.float32)
        if self.samples_pixels:
            if uniform is None:
                raise ValueError(f"binarize={self.binarize} needs uniform noise")
            return (uniform * (self.stored_levels - 1) < grey).to(torch.float32)
        return grey

    def mutated(self, levels: Tensor, uniform: Tensor, share: float) -> Tensor:
        """Each level with probability ``share`` replaced by any level, all of them alike (Ren et al. 2019).

        Args:
            levels: what :meth:`levels` gave.
            uniform: numbers in [0, 1) of the same shape: below ``share`` they say that a pixel is replaced, and by what.
            share: above 0 and below 1.
        """
        anything = (uniform * (self.num_levels / share)).floor_().clamp_(max=self.num_levels - 1)
        return torch.where(uniform < share, anything, levels)

    def scale(self, levels: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Levels as pixels of the model: in place, ``levels`` is overwritten.

        Args:
            levels: what :meth:`levels` gave.
            uniform: numbers in [0, 1) of the same shape, where the protocol dequantises.
        """
        low, high = self.pixel_range
        if self.dequantize:
            if uniform is None:
                raise ValueError("dequantisation needs uniform noise")
            unit = levels.add_(uniform).div_(self.num_levels)
        else:
            unit = levels.div_(self.num_levels - 1) if self.num_levels != 2 else levels
        return unit if (low, high) == (0.0, 1.0) else unit.mul_(high - low).add_(low)

    def levels_of(self, pixels: Tensor) -> Tensor:
        """The levels, uint8, that :meth:`scale` has made pixels of the model of."""
        low, high = self.pixel_range
        unit = (pixels - low) / (high - low)
        levels = (
            (unit * self.num_levels).floor() if self.dequantize else (unit * (self.num_levels - 1)).round()
        )
        return levels.clamp(0, self.num_levels - 1).to(torch.uint8)

    def to_unit(self, pixels: Tensor) -> Tensor:
        """Pixels of the model as values in [0, 1], for pictures."""
        low, high = self.pixel_range
        return ((pixels - low) / (high - low)).clamp(0, 1)

    def record(self) -> dict[str, object]:
        """The protocol as primitives, for the record."""
        fields = asdict(self)
        return {**fields, "pixel_range": list(self.pixel_range), "num_levels": self.num_levels}


def protocol(
    stored_levels: int,
    support: str,
    binarize: str = "none",
    dequantize: str | bool = "auto",
    pixel_range: Sequence[float] = (0.0, 1.0),
    noise_seed: int = 0,
) -> Protocol:
    """The protocol of a data set for a likelihood: ``dequantize=auto`` is yes for a density and no for the others.

    Raises:
        SettingError: a combination that means nothing.
    """
    choice("data.dequantize", dequantize, ("auto", True, False))
    if dequantize is True and support != "density":
        raise SettingError(
            "data.dequantize",
            dequantize,
            "only a likelihood that is a density, such as gaussian or laplace, takes dequantised pixels",
        )
    if (
        not isinstance(pixel_range, list | tuple)
        or len(pixel_range) != 2
        or not all(isinstance(end, int | float) for end in pixel_range)
    ):
        raise SettingError("data.pixel_range", pixel_range, "must be two numbers, the smaller one first")
    return Protocol(
        stored_levels=stored_levels,
        binarize=binarize,
        dequantize=support == "density" if dequantize == "auto" else bool(dequantize),
        pixel_range=(float(pixel_range[0]), float(pixel_range[1])),
        noise_seed=noise_seed,
    )
