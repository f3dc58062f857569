"""The Gaussian posterior with a full covariance matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from vaelab.errors import choice
from vaelab.networks.layers import widened


@dataclass(frozen=True)
class FullNormalSample:
    """z = mu + L eps with its density; see :class:`~vaelab.posteriors.PosteriorSample`."""

    distribution: MultivariateNormal
    log_det: Tensor
    eps: Tensor

    @cached_property
    def z(self) -> Tensor:
        with torch.autocast(self.eps.device.type, enabled=False):  # z in 32 bits, as its density takes it
            return self.mean + torch.einsum("...ij,...j->...i", self.distribution.scale_tril, self.eps)

    @cached_property
    def log_q(self) -> Tensor:
        # At z = mu + L eps the density needs no solution of L y = z - mu.
        return -0.5 * (self.eps.square() + math.log(2 * math.pi)).sum(-1) - self.log_det

    @cached_property
    def log_q_stopped(self) -> Tensor:
        scale_tril = self.distribution.scale_tril.detach()
        return MultivariateNormal(self.mean.detach(), scale_tril=scale_tril, validate_args=False).log_prob(
            self.z
        )

    @property
    def mean(self) -> Tensor:
        return self.distribution.loc

    @property
    def stddev(self) -> Tensor:
        return self.distribution.stddev


class FullNormalPosterior(nn.Module):
    """Gaussian with full covariance: q(z|x) = N(z; mu(x), L(x) L(x)^T), z = mu + L eps, L lower triangular (Kingma & Welling 2019, section 2.5.1).

    L = diag(s) U, U with ones on its diagonal and the head's numbers divided by D below, which start at 0: q starts as a diagonal Gaussian, and D noisy numbers in a
    row add little to what each dimension varies.

    Args:
        num_features: F, length of the encoder's features.
        latent_dim: D; the head that gives L has D (D + 1) / 2 outputs.
        diagonal: how the diagonal of L is made positive: ``exp`` (exp(s / 2): s is a log-variance) or ``softplus`` (linear for large s).

    Raises:
        SettingError: an unknown ``diagonal``.
    """

    fast_density = True
    DIAGONALS = ("exp", "softplus")

    places: Tensor

    def __init__(self, num_features: int, latent_dim: int, diagonal: str = "exp") -> None:
        super().__init__()
        self.diagonal = choice("posterior.diagonal", diagonal, self.DIAGONALS)
        self.noise_dim = self.latent_dim = latent_dim
        self.mean = nn.Linear(num_features, latent_dim)
        self.factor = nn.Linear(num_features, latent_dim * (latent_dim + 1) // 2)
        with torch.no_grad():
            self.factor.weight[latent_dim:] = 0
            self.factor.bias[latent_dim:] = 0
        below = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        diagonal_places = torch.arange(latent_dim) * (latent_dim + 1)
        places = torch.cat([diagonal_places, below[0] * latent_dim + below[1]])
        self.register_buffer("places", places, persistent=False)  # of the factor's outputs in the flattened L

    def _parameters_of(self, features: Tensor) -> tuple[MultivariateNormal, Tensor]:
        """q(z|x) and log |det L| ``[B]``."""
        D = self.latent_dim
        raw, below = widened(self.factor(features)).split([D, D * (D - 1) // 2], dim=-1)
        if self.diagonal == "exp":
            diagonal, log_det = torch.exp(0.5 * raw), 0.5 * raw.sum(-1)
        else:
            diagonal = F.softplus(raw)
            log_det = diagonal.log().sum(-1)
        flat = raw.new_zeros(*raw.shape[:-1], D * D)
        flat = flat.index_copy(-1, self.places, torch.cat([torch.ones_like(diagonal), below / D], -1))
        scale_tril = diagonal.unsqueeze(-1) * flat.unflatten(-1, (D, D))
        q = MultivariateNormal(widened(self.mean(features)), scale_tril=scale_tril, validate_args=False)
        return q, log_det

    def distribution(self, features: Tensor) -> MultivariateNormal:
        """q(z|x) from features ``[B, F]``."""
        return self._parameters_of(features)[0]

    def forward(self, features: Tensor, eps: Tensor) -> FullNormalSample:
        """Samples from features ``[B, F]`` and standard normal noise ``eps [K, B, D]``."""
        return FullNormalSample(*self._parameters_of(features), eps)
