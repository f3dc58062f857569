"""q(z|x): approximate posteriors, from the features of an encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

__all__ = ["NormalPosterior", "PosteriorSample"]


@dataclass(frozen=True)
class PosteriorSample:
    """Samples of q(z|x) and their density.

    Attributes:
        z: ``[K, B, D]``, differentiable in the parameters of q (reparameterised).
        log_q: log q(z|x) ``[K, B]``, nats.
        distribution: q(z|x) itself, batch shape ``[B]``, event shape ``[D]``.
    """

    z: Tensor
    log_q: Tensor
    distribution: Distribution


class NormalPosterior(nn.Module):
    """Diagonal Gaussian: q(z|x) = N(z; mu(x), diag sigma^2(x)), z = mu + sigma * eps (Kingma & Welling 2014).

    Two linear heads give mu and log sigma^2, which is not clamped: bounds on it would be part of the model.

    Args:
        num_features: F, length of the encoder's features.
        latent_dim: D.
    """

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.noise_dim = latent_dim
        self.mean = nn.Linear(num_features, latent_dim)
        self.log_variance = nn.Linear(num_features, latent_dim)

    def distribution(self, features: Tensor) -> Independent:
        """q(z|x) from features ``[B, F]``."""
        scale = torch.exp(0.5 * self.log_variance(features))
        return Independent(Normal(self.mean(features), scale, validate_args=False), 1, validate_args=False)

    def forward(self, features: Tensor, eps: Tensor) -> PosteriorSample:
        """Samples from features ``[B, F]`` and standard normal noise ``eps [K, B, D]``."""
        q = self.distribution(features)
        mean, scale = q.base_dist.mean, q.base_dist.stddev
        # With z = mean + scale * eps the density needs no division by the scale.
        log_q = -(0.5 * eps.square() + scale.log()).sum(-1) - 0.5 * math.log(2 * math.pi) * eps.shape[-1]
        return PosteriorSample(z=mean + scale * eps, log_q=log_q, distribution=q)
