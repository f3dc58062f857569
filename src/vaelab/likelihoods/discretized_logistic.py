"""Grey levels with the masses that a logistic density puts around them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab.errors import number
from vaelab.likelihoods.pixels import Levels, inside
from vaelab.likelihoods.special import log_integral_exp
from vaelab.networks.layers import widened


class DiscretizedLogisticLikelihood(nn.Module):
    """P(x|z) = prod_i [F(x_i + d/2) - F(x_i - d/2)], F(x) = sigmoid((x - mu_i(z)) / s_i(z)), d the distance of two levels (Kingma et al. 2016).

    The first level also has all mass below it and the last level all mass above it, so that the masses sum to one.
    mu = middle of the range + its parameter; s = scale_floor + (a tenth of the range) * exp(its parameter).

    Args:
        image_shape: ``(C, H, W)``.
        pixel_range: smallest and largest pixel value; mu and s are in the same units.
        num_levels: number of grey levels, 2 or more.
        scale_floor: least s; ``auto`` = a twentieth of d, with which a level can have all mass but 1e-4.

    Raises:
        SettingError: a floor that is not positive.
    """

    support = "levels"
    params_per_pixel = 2

    def __init__(
        self,
        image_shape: Sequence[int],
        pixel_range: Sequence[float],
        num_levels: int,
        scale_floor: float | str = "auto",
    ) -> None:
        super().__init__()
        self.levels = Levels(pixel_range[0], pixel_range[1], num_levels)
        self.log_scale_floor = log_floor(scale_floor, self.levels)

    def forward(self, parameters: Tensor) -> DiscretizedLogisticImage:
        """P(x|z) from parameters ``[..., 2 * C, H, W]`` (of mu, then of log s); event shape ``[C, H, W]``."""
        mean, log_scale = widened(parameters).chunk(2, dim=-3)
        mean = mean + (self.levels.low + self.levels.high) / 2
        return DiscretizedLogisticImage(
            mean, floored(log_scale, self.levels, self.log_scale_floor), self.levels
        )

    def draw(self, distribution: DiscretizedLogisticImage, uniform: Tensor) -> Tensor:
        """Images from uniform noise of the same shape: the level that is nearest to the logistic sample mu + s logit(u)."""
        sample = distribution.location + distribution.log_scale.exp() * torch.logit(inside(uniform))
        return self.levels.value(self.levels.index(sample))


class DiscretizedLogisticImage(Distribution):
    """Independent pixels of a discretised logistic.

    Args:
        location: mu ``[..., C, H, W]``.
        log_scale: log s, same shape.
        levels: of the pixels.
    """

    def __init__(self, location: Tensor, log_scale: Tensor, levels: Levels) -> None:
        self.location, self.log_scale, self.levels = location, log_scale, levels
        super().__init__(location.shape[:-3], location.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The expectation over levels, which is pulled inside from mu near the ends of the range."""
        return mean_level(self.location, self.log_scale, self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x), summed over pixels."""
        log_p = log_mass(self.levels.index(value), self.location, self.log_scale, self.levels)
        return log_p.flatten(-3).sum(-1)


def log_floor(scale_floor: float | str, levels: Levels) -> float:
    """log of the least scale of a configuration.

    Raises:
        SettingError: it is not positive.
    """
    floor = levels.step / 20 if scale_floor == "auto" else scale_floor
    rule = "must be auto (a twentieth of the distance of two levels) or a number > 0"
    return math.log(number("likelihood.scale_floor", floor, rule, lambda floor: floor > 0))


def floored(raw: Tensor, levels: Levels, log_scale_floor: float) -> Tensor:
    """log s = log(floor + (a tenth of the range) * exp(raw)): unlike a clamp it passes a gradient on either side."""
    offset = raw + math.log(0.1 * (levels.high - levels.low))
    return torch.logaddexp(offset, torch.full_like(offset, log_scale_floor))


def below(index: Tensor | int, location: Tensor, log_scale: Tensor, levels: Levels) -> Tensor:
    """P(level <= index) = F at the upper edge of level ``index``, which is not the last one."""
    edge = levels.low + levels.step * (index + 0.5)
    return torch.sigmoid((edge - location) * torch.exp(-log_scale))


def mean_level(location: Tensor, log_scale: Tensor, levels: Levels) -> Tensor:
    """E[x] = low + d sum over k of P(level > k): a sum, since no closed form holds at the ends of the range."""
    inverse_scale = torch.exp(-log_scale)
    above = torch.zeros_like(location)
    for k in range(levels.count - 1):
        edge = levels.low + levels.step * (k + 0.5)
        above = above + torch.sigmoid((location - edge) * inverse_scale)
    return levels.low + levels.step * above


def log_mass(index: Tensor, location: Tensor, log_scale: Tensor, levels: Levels) -> Tensor:
    """log P(level = index), elementwise.

    With the edges of the level at a < b in units of s from mu, sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): a product, so that no digits
    cancel however far the level is from mu and however wide s is.
    """
    inverse_scale = torch.exp(-log_scale)
    centre = levels.low + levels.step * index - location
    not_above = F.logsigmoid((centre + levels.step / 2) * inverse_scale)
    not_below = F.logsigmoid((levels.step / 2 - centre) * inverse_scale)
    log_width = math.log(levels.step) - log_scale  # of the level, b - a
    inner = not_above + not_below + (log_width + log_integral_exp(-log_width.exp()))  # log(1 - exp(a - b))
    outer = torch.where(index == 0, not_above, not_below)
    return torch.where((index == 0) | (index == levels.count - 1), outer, inner)
