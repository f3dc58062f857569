"""Grey levels with the masses that a mixture of logistic densities puts around them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab.errors import integer
from vaelab.likelihoods.discretized_logistic import below, floored, log_floor, log_mass, mean_level
from vaelab.likelihoods.pixels import Levels
from vaelab.networks.layers import widened


class LogisticMixtureLikelihood(nn.Module):
    """P(x|z) = prod_i sum_m pi_im(z) P_m(x_i), M discretised logistics for each pixel and channel (Salimans et al. 2017, without their coupling of channels).

    At first the M locations stand evenly over the pixel range: equal components would stay nearly equal.

    Args:
        image_shape: ``(C, H, W)``.
        pixel_range: smallest and largest pixel value.
        num_levels: number of grey levels, 2 or more.
        components: M.
        scale_floor: least scale of a component; ``auto`` = a twentieth of the distance of two levels.

    Raises:
        SettingError: no component, a floor that is not positive.
    """

    support = "levels"

    def __init__(
        self,
        image_shape: Sequence[int],
        pixel_range: Sequence[float],
        num_levels: int,
        components: int = 5,
        scale_floor: float | str = "auto",
    ) -> None:
        super().__init__()
        self.components = integer("likelihood.components", components, 1)
        self.params_per_pixel = 3 * components
        low, high = pixel_range
        self.levels = Levels(low, high, num_levels)
        self.log_scale_floor = log_floor(scale_floor, self.levels)
        start = low + (high - low) * (torch.arange(components) + 0.5) / components
        self.start: Tensor
        self.register_buffer("start", start.view(-1, 1, 1, 1), persistent=False)

    def forward(self, parameters: Tensor) -> LogisticMixtureImage:
        """P(x|z) from parameters ``[..., 3 * M * C, H, W]`` (logits of pi, then of mu, then of log s); event shape ``[C, H, W]``."""
        logits, location, log_scale = widened(parameters).unflatten(-3, (3, self.components, -1)).unbind(-5)
        return LogisticMixtureImage(
            logits, self.start + location, floored(log_scale, self.levels, self.log_scale_floor), self.levels
        )

    def draw(self, distribution: LogisticMixtureImage, uniform: Tensor) -> Tensor:
        """Images from uniform noise of the same shape: the least level k with P(level <= k) > u, by bisection."""
        shape = torch.broadcast_shapes(uniform.shape, distribution.batch_shape + distribution.event_shape)
        least = uniform.new_zeros(shape)
        most = torch.full_like(least, self.levels.count - 1)
        for _ in range(math.ceil(math.log2(self.levels.count))):
            middle = ((least + most) / 2).floor()
            is_above = (distribution.cdf(middle) <= uniform) & (least < most)
            least, most = torch.where(is_above, middle + 1, least), torch.where(is_above, most, middle)
        return self.levels.value(least)


class LogisticMixtureImage(Distribution):
    """Independent pixels of a mixture of discretised logistics.

    Args:
        logits: of the weights pi, ``[..., M, C, H, W]``.
        location: mu, same shape.
        log_scale: log s, same shape.
        levels: of the pixels.
    """

    def __init__(self, logits: Tensor, location: Tensor, log_scale: Tensor, levels: Levels) -> None:
        self.logits, self.location, self.log_scale, self.levels = logits, location, log_scale, levels
        super().__init__(logits.shape[:-4], logits.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The expectation over levels."""
        means = mean_level(self.location, self.log_scale, self.levels)
        return (self.logits.softmax(-4) * means).sum(-4)

    def cdf(self, index: Tensor) -> Tensor:
        """P(level <= index) of each pixel, for an index ``[..., C, H, W]`` below the last level."""
        components = below(index.unsqueeze(-4), self.location, self.log_scale, self.levels)
        return (self.logits.softmax(-4) * components).sum(-4)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x), summed over pixels."""
        index = self.levels.index(value).unsqueeze(-4)
        log_p = log_mass(index, self.location, self.log_scale, self.levels)
        return torch.logsumexp(self.logits.log_softmax(-4) + log_p, -4).flatten(-3).sum(-1)
