"""The standard normal prior."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaelab.priors.inference import Inference


class StandardNormal(Normal):
    """N(0, 1), known to be so."""


def is_standard_normal(p: Distribution) -> bool:
    """Whether p(z) is N(0, I), and known to be so."""
    return isinstance(p, Independent) and isinstance(p.base_dist, StandardNormal)


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I), without parameters.

    Args:
        latent_dim: D.
    """

    needs_inference = False

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
