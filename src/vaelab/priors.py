"""p(z): priors of the latent variable."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, register_kl

from vaelab.posteriors import LogVarianceNormal

__all__ = ["StandardNormal", "StandardNormalPrior"]

Inference = Callable[[Tensor], Distribution]


class StandardNormal(Normal):
    """N(0, 1), known to be so."""


@register_kl(LogVarianceNormal, StandardNormal)
def _kl_to_standard_normal(q: LogVarianceNormal, p: StandardNormal) -> Tensor:
    """KL(q || N(0, 1)) = -1/2 (1 + log sigma^2 - mu^2 - sigma^2), mind the sign: never negative (Kingma & Welling 2014, appendix B)."""
    return -0.5 * (1 + q.log_variance - q.mean.square() - q.variance)


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I), without parameters.

    Args:
        latent_dim: D.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.noise_dim = latent_dim
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)
        self._distribution = self._make()

    def _make(self) -> Independent:
        return Independent(StandardNormal(self.loc, self.scale, validate_args=False), 1, validate_args=False)

    def forward(self, infer: Inference | None = None, context: Tensor | None = None) -> Independent:
        """p(z), event shape ``[D]``; depends neither on ``infer`` (images -> q) nor on ``context``."""
        return self._distribution

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StandardNormalPrior:
        super()._apply(fn, recurse)
        self._distribution = self._make()  # of the buffers on their new device
        return self

    def draw(self, eps: Tensor, infer: Inference | None = None, context: Tensor | None = None) -> Tensor:
        """Samples ``z [..., D]`` from standard normal noise ``eps [..., noise_dim]``."""
        return self.loc + self.scale * eps
