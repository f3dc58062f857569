"""Real pixels inside (0, 1) with a beta density."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab.errors import number
from vaelab.likelihoods.pixels import unit_range
from vaelab.likelihoods.special import stirling_remainder
from vaelab.networks.layers import widened

#: pixels are kept this far from 0 and 1, where log x and log(1 - x) end: 1 - 2^-24 is the largest float32 below 1
MARGIN = 2.0**-24


class BetaLikelihood(nn.Module):
    """p(x|z) = prod_i Beta(x_i; a_i(z), b_i(z)), two positive parameters a pixel.

    a = least + (most - least) sigmoid(.), and the same for b; where the decoder gives 0, a = b = 1, the uniform density. Below 1 a parameter puts a pole at its edge,
    so that one density holds a pixel that is dark or bright and nothing between.

    Pixels within 2^-24 of 0 or of 1, where float32 ends, get the mean density of that margin: the mass of the pole at an edge is kept.

    Args:
        image_shape: ``(C, H, W)``.
        pixel_range: smallest and largest pixel value of the data; has to be [0, 1].
        num_levels: L, number of grey levels of the data.
        least: lower end of a and b.
        most: upper end of a and b; ``auto`` = L^2, with which the standard deviation in the middle of the range is a third of a level.

    Raises:
        SettingError: pixels can lie outside [0, 1], ``least`` is not between 0 and 1, ``most`` not above 1.
    """

    support = "density"
    params_per_pixel = 2

    def __init__(
        self,
        image_shape: Sequence[int],
        pixel_range: Sequence[float],
        num_levels: int,
        least: float = 0.1,
        most: float | str = "auto",
    ) -> None:
        super().__init__()
        unit_range("beta", pixel_range)
        self.least = number(
            "likelihood.least", least, "must be a number between 0 and 1", lambda least: 0 < least < 1
        )
        most = num_levels**2 if most == "auto" else most
        rule = "must be auto (the number of grey levels squared) or a number > 1"
        self.most = number("likelihood.most", most, rule, lambda most: most > 1)
        self.start = math.log((1 - self.least) / (self.most - 1))  # sigmoid(start) puts a at 1

    def forward(self, parameters: Tensor) -> BetaImage:
        """p(x|z) from parameters ``[..., 2 * C, H, W]`` (of a, then of b); event shape ``[C, H, W]``."""
        a, b = (
            self.least + (self.most - self.least) * torch.sigmoid(self.start + widened(parameters))
        ).chunk(2, dim=-3)
        return BetaImage(a, b)

    def draw(self, distribution: BetaImage, uniform: Tensor) -> Tensor:
        """Images from uniform noise of the same shape; computed on the CPU in float64."""
        from scipy.special import betaincinv  # half a second to import, and training never draws

        a, b, u = (t.detach().double().cpu().numpy() for t in (distribution.a, distribution.b, uniform))
        return torch.as_tensor(betaincinv(a, b, u)).to(uniform)


class BetaImage(Distribution):
    """Independent beta pixels.

    Args:
        a, b: ``[..., C, H, W]``, positive.
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b
        super().__init__(a.shape[:-3], a.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.a / (self.a + self.b)

    def log_prob(self, value: Tensor) -> Tensor:
        """(a - 1) log x + (b - 1) log(1 - x) - log B(a, b), summed over pixels.

        log B(a, b) by Stirling's formula, its large terms joined with those in x: with m = a / (a + b), a log(x / m) + b log((1 - x) / (1 - m)) is of the
        size of the result, where log B(a, b) alone may be 10^4 times as large.
        """
        x = value.clamp(MARGIN, 1 - MARGIN)
        a, b = self.a, self.b
        # p is about x^(a-1) next to 0, and its mean over [0, margin] p(margin) / a; the same at 1
        at_edge = torch.where(value < MARGIN, a, torch.where(value > 1 - MARGIN, b, 1.0)).log()
        total = a + b
        log_a, log_b, log_total = a.log(), b.log(), total.log()
        log_x, log_y = x.log(), torch.log1p(-x)
        m, n = a / total, b / total
        excess = torch.where(
            a < b, x - m, n - (1 - x)
        )  # x - m, with the digits of the smaller of m and 1 - m
        peak = a * _log_ratio(log_x, log_a - log_total, excess / m)
        peak = peak + b * _log_ratio(log_y, log_b - log_total, -excess / n)
        width = 0.5 * (log_a + log_b - log_total - math.log(2 * math.pi))
        remainder = stirling_remainder(total) - stirling_remainder(a) - stirling_remainder(b)
        return (peak + (width + remainder) - (log_x + log_y) - at_edge).flatten(-3).sum(-1)


def _log_ratio(log_x: Tensor, log_m: Tensor, excess: Tensor) -> Tensor:
    """log (x / m), also from x / m - 1: near 1, where a factor of 10^4 waits for it, the difference of the logarithms has no digits left in float32."""
    near = excess.abs() < 0.5
    return torch.where(near, torch.log1p(excess.clamp(-0.5, 0.5)), log_x - log_m)
