"""Binary pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab.likelihoods.pixels import unit_range
from vaelab.likelihoods.special import sum_log1p_exp_
from vaelab.networks.layers import widened


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
        if not (torch.is_grad_enabled() and (logits.requires_grad or x.requires_grad)):
            wide = widened(logits).flatten(-3)
            with torch.autocast(wide.device.type, enabled=False):  # which would give the products 16 bits
                return _log_prob_of_many(wide, x.to(wide).flatten(-3))
        if x.shape != logits.shape[-x.dim() :]:
            logits, x = torch.broadcast_tensors(logits, x)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        return -cross_entropy.flatten(-3).sum(-1)


def _log_prob_of_many(logits: Tensor, x: Tensor) -> Tensor:
    """Minus the binary cross-entropy of ``x [..., P]`` at ``logits [..., P]``, without a gradient: an estimate of log p(x) takes thousands of samples of each image.

    x l - log(1 + e^l) = (x - 1/2) l - |l|/2 - log(1 + e^-|l|), and the first term is a product of matrices where many logits meet one image.
    """
    centred = x - 0.5
    if centred.numel() == centred.shape[-1]:
        linear = logits @ centred.flatten()
    elif centred.dim() == 2 and logits.dim() > 1 and logits.shape[-2] == len(centred):
        linear = torch.einsum("...bp,bp->...b", logits, centred)
    else:
        linear = (logits * centred).sum(-1)
    below = logits.abs().neg_()
    return linear + below @ below.new_full(below.shape[-1:], 0.5) - sum_log1p_exp_(below)
