"""Binary pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab.likelihoods.pixels import unit_range


class BernoulliLikelihood(nn.Module):
    """p(x|z) = prod_i Bernoulli(x_i; sigmoid(l_i(z))), one logit a pixel.

    On grey pixels in [0, 1] its logarithm is minus the binary cross-entropy: an objective many people use, **not** a log-likelihood of the data,
    and labelled ``grey-bce`` wherever it is reported.

    Args:
        image_shape: ``(C, H, W)``.
        pixel_range: smallest and largest pixel value of the data; has to be [0, 1].
        num_levels: number of grey levels of the data; not used.

    Raises:
        SettingError: pixels can lie outside [0, 1].
    """

    support = "binary"
    params_per_pixel = 1

    def __init__(self, image_shape: Sequence[int], pixel_range: Sequence[float], num_levels: int) -> None:
        super().__init__()
        unit_range("bernoulli", pixel_range)

    def forward(self, parameters: Tensor) -> BernoulliImage:
        """p(x|z) from logits ``[..., C, H, W]``; event shape ``[C, H, W]``."""
        return BernoulliImage(parameters)

    def draw(self, distribution: Distribution, uniform: Tensor) -> Tensor:
        """Images from uniform noise of the same shape."""
        return (uniform < distribution.mean).to(uniform.dtype)


class BernoulliImage(Distribution):
    """Independent Bernoulli pixels, as lean as every optimizer step wants it.

    Args:
        logits: ``[..., C, H, W]``.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the binary cross-entropy, summed over pixels (the sum comes before the sign, which saves a pass over them)."""
        logits, x = self.logits, value
        if x.shape != logits.shape[-x.dim() :]:
            logits, x = torch.broadcast_tensors(logits, x)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        return -cross_entropy.flatten(-3).sum(-1)
