"""The Gaussian posterior whose covariance is diagonal plus low rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal

from vaelab.errors import integer
from vaelab.networks.layers import widened


@dataclass(frozen=True)
class LowRankNormalSample:
    """z = mu + sigma * eps_1 + W eps_2 with its density; see :class:`~vaelab.posteriors.PosteriorSample`."""

    distribution: LowRankMultivariateNormal
    eps: Tensor

    @cached_property
    def z(self) -> Tensor:
        q, D = self.distribution, self.mean.shape[-1]
        own, shared = self.eps[..., :D], self.eps[..., D:]
        with torch.autocast(shared.device.type, enabled=False):  # z in 32 bits, as its density takes it
            correlated = torch.einsum("...ij,...j->...i", q.cov_factor, shared)
        return torch.addcmul(self.mean + correlated, q.cov_diag.sqrt(), own)

    @cached_property
    def log_q(self) -> Tensor:
        return self.distribution.log_prob(self.z)

    @cached_property
    def log_q_stopped(self) -> Tensor:
        q = self.distribution
        return LowRankMultivariateNormal(
            q.loc.detach(), q.cov_factor.detach(), q.cov_diag.detach(), validate_args=False
        ).log_prob(self.z)

    @property
    def mean(self) -> Tensor:
        return self.distribution.loc

    @property
    def stddev(self) -> Tensor:
        return self.distribution.stddev


class LowRankNormalPosterior(nn.Module):
    """Gaussian with a covariance of low rank beside its diagonal: q(z|x) = N(z; mu(x), diag sigma^2(x) + W(x) W(x)^T), W of D rows and r columns (Ong et al. 2018).

    W = diag(sigma) times the head's numbers over the root of D, so that noise in them adds little to what each dimension varies. z = mu + sigma * eps_1 + W eps_2 takes D + r standard normal numbers; the density takes an r x r factorisation an image.

    Args:
        num_features: F, length of the encoder's features.
        latent_dim: D.
        rank: r.

    Raises:
        SettingError: the rank is no positive integer.
    """

    fast_density = True

    def __init__(self, num_features: int, latent_dim: int, rank: int = 2) -> None:
        super().__init__()
        self.rank = integer("posterior.rank", rank, 1)
        self.latent_dim = latent_dim
        self.noise_dim = latent_dim + rank
        self.mean = nn.Linear(num_features, latent_dim)
        self.log_variance = nn.Linear(num_features, latent_dim)
        self.factor = nn.Linear(num_features, latent_dim * rank)

    def distribution(self, features: Tensor) -> LowRankMultivariateNormal:
        """q(z|x) from features ``[B, F]``."""
        stddev = torch.exp(0.5 * widened(self.log_variance(features)))
        scale = stddev.unsqueeze(-1) / math.sqrt(self.latent_dim)
        factor = scale * widened(self.factor(features)).unflatten(-1, (self.latent_dim, self.rank))
        return LowRankMultivariateNormal(
            widened(self.mean(features)), factor, stddev.square(), validate_args=False
        )

    def forward(self, features: Tensor, eps: Tensor) -> LowRankNormalSample:
        """Samples from features ``[B, F]`` and standard normal noise ``eps [K, B, D + r]``."""
        return LowRankNormalSample(self.distribution(features), eps)
