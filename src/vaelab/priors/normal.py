"""The Gaussian prior with a learned mean and variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Independent

from vaelab.posteriors import LogVarianceNormal
from vaelab.priors.context import ContextParameters
from vaelab.priors.inference import Inference


class NormalPrior(nn.Module):
    """p(z) = N(z; m, diag s^2), m and log s^2 learned; they start at N(0, I).

    Args:
        latent_dim: D.
        context_dim: length of a context that m and log s^2 depend on, each through a linear layer; 0 for none.
    """

    needs_inference = False

    def __init__(self, latent_dim: int, context_dim: int = 0) -> None:
        super().__init__()
        self.noise_dim = latent_dim
        self.mean = ContextParameters(torch.zeros(latent_dim), context_dim)
        self.log_variance = ContextParameters(torch.zeros(latent_dim), context_dim)

    def forward(self, infer: Inference | None = None, context: Tensor | None = None) -> Independent:
        """p(z), event shape ``[D]``; given a ``context [B, context_dim]``, p(z|context) of batch shape ``[B]``."""
        normal = LogVarianceNormal(self.mean(context), self.log_variance(context))
        return Independent(normal, 1, validate_args=False)

    def draw(self, eps: Tensor, infer: Inference | None = None, context: Tensor | None = None) -> Tensor:
        """Samples ``z [..., D]`` from standard normal noise ``eps [..., noise_dim]``."""
        normal = self(context=context).base_dist
        return torch.addcmul(normal.loc, normal.scale, eps)
