"""KL(q || p) in closed form, for ``torch.distributions.kl_divergence``."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    register_kl,
)

from vaelab.posteriors import LogVarianceNormal
from vaelab.priors.standard_normal import StandardNormal


@register_kl(LogVarianceNormal, StandardNormal)
def _kl_to_standard_normal(q: LogVarianceNormal, p: StandardNormal) -> Tensor:
    """KL(q || N(0, 1)) = -1/2 (1 + log sigma^2 - mu^2 - sigma^2), mind the sign: never negative (Kingma & Welling 2014, appendix B)."""
    return -0.5 * (1 + q.log_variance - q.mean.square() - q.variance)


@register_kl(LogVarianceNormal, LogVarianceNormal)
def _kl_to_normal(q: LogVarianceNormal, p: LogVarianceNormal) -> Tensor:
    """KL(N(mu, sigma^2) || N(m, s^2)) = -1/2 (1 + log(sigma^2 / s^2) - (mu - m)^2 / s^2 - sigma^2 / s^2)."""
    log_ratio = q.log_variance - p.log_variance
    return -0.5 * (1 + log_ratio - (q.loc - p.loc).square() * torch.exp(-p.log_variance) - log_ratio.exp())


@register_kl(MultivariateNormal, Independent)
@register_kl(LowRankMultivariateNormal, Independent)
def _kl_to_diagonal(q: MultivariateNormal | LowRankMultivariateNormal, p: Independent) -> Tensor:
    """KL(q || p) = -H(q) - E_q log p ``[B]``, of a diagonal Gaussian p: E_q log p takes the marginal moments of q only."""
    normal = p.base_dist
    if not isinstance(normal, Normal) or p.event_shape != q.event_shape:
        raise NotImplementedError  # what torch expects of a pair without a closed form
    second_moment = (q.mean - normal.mean).square() + q.variance
    cross_entropy = 0.5 * (second_moment / normal.variance + normal.variance.log() + math.log(2 * math.pi))
    return cross_entropy.sum(-1) - q.entropy()
