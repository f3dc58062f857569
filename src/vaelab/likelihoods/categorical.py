"""Grey levels as classes without order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab.likelihoods.pixels import Levels
from vaelab.networks.layers import widened


class CategoricalLikelihood(nn.Module):
    """P(x|z) = prod_i softmax(l_i(z))[level of x_i], one logit a level: any distribution over the levels of a pixel, L times the outputs of a Bernoulli.

    Args:
        image_shape: ``(C, H, W)``.
        pixel_range: smallest and largest pixel value.
        num_levels: L, 2 or more.
    """

    support = "levels"

    def __init__(self, image_shape: Sequence[int], pixel_range: Sequence[float], num_levels: int) -> None:
        super().__init__()
        self.levels = Levels(pixel_range[0], pixel_range[1], num_levels)
        self.params_per_pixel = num_levels

    def forward(self, parameters: Tensor) -> CategoricalImage:
        """P(x|z) from logits ``[..., L * C, H, W]``; event shape ``[C, H, W]``."""
        return CategoricalImage(widened(parameters).unflatten(-3, (self.levels.count, -1)), self.levels)

    def draw(self, distribution: CategoricalImage, uniform: Tensor) -> Tensor:
        """Images from uniform noise of the same shape: the least level k with P(level <= k) > u."""
        cumulative = distribution.logits.softmax(-4).cumsum(-4).narrow(-4, 0, self.levels.count - 1)
        return self.levels.value((cumulative <= uniform.unsqueeze(-4)).sum(-4).to(uniform.dtype))


class CategoricalImage(Distribution):
    """Independent pixels, each with its own masses of the levels.

    Args:
        logits: ``[..., L, C, H, W]``.
        levels: of the pixels.
    """

    def __init__(self, logits: Tensor, levels: Levels) -> None:
        self.logits, self.levels = logits, levels
        super().__init__(logits.shape[:-4], logits.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The expectation over levels."""
        index = torch.arange(self.levels.count, dtype=self.logits.dtype, device=self.logits.device)
        return (self.logits.softmax(-4) * self.levels.value(index).view(-1, 1, 1, 1)).sum(-4)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x), summed over pixels."""
        index = self.levels.index(value).long().unsqueeze(-4)
        log_p = self.logits.log_softmax(-4)
        batch = torch.broadcast_shapes(index.shape[:-4], self.batch_shape)
        log_p, index = (t.expand(*batch, *t.shape[-4:]) for t in (log_p, index))
        return log_p.gather(-4, index).flatten(-4).sum(-1)
