"""The diagonal Gaussian posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaelab.networks.layers import widened


class LogVarianceNormal(Normal):
    """N(mu, sigma^2) that keeps log sigma^2, so that a density needs no logarithm of an exponential.

    Args:
        loc: mu, any shape.
        log_variance: log sigma^2, of the same shape.
    """

    def __init__(self, loc: Tensor, log_variance: Tensor) -> None:
        self.loc = loc
        self.log_variance = log_variance
        self.scale = torch.exp(0.5 * log_variance)
        Distribution.__init__(self, loc.shape, validate_args=False)  # shapes agree: nothing to broadcast

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> LogVarianceNormal:
        shape = torch.Size(batch_shape)
        return LogVarianceNormal(self.loc.expand(shape), self.log_variance.expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return _log_normal(value, self.loc, self.log_variance)


def _log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(z; mu, sigma^2) of each number."""
    return -0.5 * ((z - mean).square() * torch.exp(-log_variance) + log_variance + math.log(2 * math.pi))


@dataclass(frozen=True)
class NormalSample:
    """z = mu + sigma * eps with its density; see :class:`~vaelab.posteriors.PosteriorSample`."""

    distribution: Independent
    eps: Tensor

    @cached_property
    def z(self) -> Tensor:
        normal = self.distribution.base_dist
        if (
            len(self.eps) == 1 and normal.mean.dim() == 2
        ):  # one sample needs no sum over samples in the backward pass
            return torch.addcmul(normal.mean, normal.stddev, self.eps[0]).unsqueeze(0)
        return torch.addcmul(normal.mean, normal.stddev, self.eps)

    @cached_property
    def log_q(self) -> Tensor:
        # At z = mu + sigma * eps the density needs no division by sigma.
        terms = self.eps.square() + self.distribution.base_dist.log_variance
        return -0.5 * (terms.sum(-1) + math.log(2 * math.pi) * self.eps.shape[-1])

    @cached_property
    def log_q_stopped(self) -> Tensor:
        normal = self.distribution.base_dist
        return _log_normal(self.z, normal.loc.detach(), normal.log_variance.detach()).sum(-1)

    @property
    def mean(self) -> Tensor:
        return self.distribution.base_dist.loc

    @property
    def stddev(self) -> Tensor:
        return self.distribution.base_dist.scale


class NormalPosterior(nn.Module):
    """Diagonal Gaussian: q(z|x) = N(z; mu(x), diag sigma^2(x)), z = mu + sigma * eps (Kingma & Welling 2014).

    Two linear heads give mu and log sigma^2, which is not clamped: bounds on it would be part of the model.

    Args:
        num_features: F, length of the encoder's features.
        latent_dim: D.
    """

    fast_density = True

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.noise_dim = latent_dim
        self.mean = nn.Linear(num_features, latent_dim)
        self.log_variance = nn.Linear(num_features, latent_dim)

    def distribution(self, features: Tensor) -> Independent:
        """q(z|x) from features ``[B, F]``."""
        normal = LogVarianceNormal(widened(self.mean(features)), widened(self.log_variance(features)))
        return Independent(normal, 1, validate_args=False)

    def forward(self, features: Tensor, eps: Tensor) -> NormalSample:
        """Samples from features ``[B, F]`` and standard normal noise ``eps [K, B, D]``."""
        return NormalSample(self.distribution(features), eps)
