"""The terms of the evidence lower bound, image by image: what a model returns, and all that objectives and estimators see of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal


@dataclass(frozen=True)
class LayerTerms:
    """The terms of one stochastic layer z.

    Attributes:
        log_p: log p(z) ``[K, B]``, given the layers above it where there are any.
        log_q: log q(z|x) ``[K, B]``.
        kl: KL(q(z|x) || p(z)) per dimension ``[B, D]``, where it has a closed form; otherwise None.
        posterior: q(z|x), batch shape ``[B]``.
    """

    log_p: Tensor
    log_q: Tensor
    kl: Tensor | None
    posterior: Distribution


@dataclass(frozen=True)
class Terms:
    """The terms of the bound for K samples of B images, in nats, summed over pixels and latent dimensions, not averaged over anything.

    Attributes:
        log_px: log p(x|z) ``[K, B]``.
        layers: one :class:`LayerTerms` a stochastic layer, the one next to the image first.
    """

    log_px: Tensor
    layers: tuple[LayerTerms, ...]

    @property
    def log_w(self) -> Tensor:
        """log p(x, z) - log q(z|x), the importance weights' logarithms ``[K, B]``."""
        return self.log_px + torch.stack([layer.log_p - layer.log_q for layer in self.layers]).sum(0)

    @property
    def has_closed_form_kl(self) -> bool:
        return all(layer.kl is not None for layer in self.layers)

    @property
    def distortion(self) -> Tensor:
        """-E_q log p(x|z) ``[B]``, the expectation taken over the K samples."""
        return -self.log_px.mean(0)

    def rate(self, closed_form: bool) -> Tensor:
        """KL(q(z|x) || p(z)) ``[B]``: in closed form, which is never negative, or as the mean of log q - log p over the K samples."""
        if closed_form:
            return torch.stack([layer.kl.sum(-1) for layer in self.layers if layer.kl is not None]).sum(0)
        return torch.stack([(layer.log_q - layer.log_p).mean(0) for layer in self.layers]).sum(0)


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) per dimension ``[B, D]`` of two diagonal Gaussians; None for any other pair.

    KL(N(mu, sigma^2) || N(m, s^2)) = -1/2 (1 + log(sigma^2 / s^2) - (mu - m)^2 / s^2 - sigma^2 / s^2) in each dimension (Kingma & Welling 2014, appendix B).
    """
    if not (_is_diagonal_normal(q) and _is_diagonal_normal(p)):
        return None
    return torch.distributions.kl_divergence(q.base_dist, p.base_dist)


def _is_diagonal_normal(distribution: Distribution) -> bool:
    return isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal)
