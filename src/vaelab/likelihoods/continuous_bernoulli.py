"""Real pixels in [0, 1] with the normalised Bernoulli density."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab.likelihoods.pixels import unit_range
from vaelab.likelihoods.special import log_integral_exp, mean_exp
from vaelab.networks.layers import widened


class ContinuousBernoulliLikelihood(nn.Module):
    """p(x|z) = prod_i C(lambda_i) lambda_i^x_i (1 - lambda_i)^(1 - x_i) on [0, 1], one logit a pixel (Loaiza-Ganem & Cunningham 2019).

    With the logit l = log(lambda / (1 - lambda)) it is exp(l x - A(l)), A(l) = log((exp(l) - 1) / l): the density of which the Bernoulli on grey pixels leaves out
    the normaliser. Its mean is A'(l), **not** sigmoid(l) = lambda.

    Args:
        image_shape: ``(C, H, W)``.
        pixel_range: smallest and largest pixel value of the data; has to be [0, 1].
        num_levels: number of grey levels of the data; not used.

    Raises:
        SettingError: pixels can lie outside [0, 1].
    """

    support = "density"
    params_per_pixel = 1

    def __init__(self, image_shape: Sequence[int], pixel_range: Sequence[float], num_levels: int) -> None:
        super().__init__()
        unit_range("continuous_bernoulli", pixel_range)

    def forward(self, parameters: Tensor) -> ContinuousBernoulliImage:
        """p(x|z) from logits ``[..., C, H, W]``; event shape ``[C, H, W]``."""
        return ContinuousBernoulliImage(widened(parameters))

    def draw(self, distribution: ContinuousBernoulliImage, uniform: Tensor) -> Tensor:
        """Images from uniform noise of the same shape: x = log(1 + u (exp(l) - 1)) / l."""
        logits = distribution.logits
        size = logits.abs().clamp_min(1e-6)  # at 0 the limit, x = u
        rising = logits > 0  # the mirror image of a falling density, so that no exponential overflows
        u = torch.where(rising, 1 - uniform, uniform)
        x = (-torch.log1p(u * torch.expm1(-size)) / size).clamp(0, 1)
        return torch.where(rising, 1 - x, x)


class ContinuousBernoulliImage(Distribution):
    """Independent continuous Bernoulli pixels.

    Args:
        logits: ``[..., C, H, W]``.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return mean_exp(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        """l x - A(l), summed over pixels."""
        return (self.logits * value - log_integral_exp(self.logits)).flatten(-3).sum(-1)
