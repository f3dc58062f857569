"""The terms of the evidence lower bound, image by image: what a model returns, and all that objectives and estimators see of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vaelab.posteriors import PosteriorSample


@dataclass(frozen=True)
class LayerTerms:
    """The terms of one stochastic layer z, each computed when it is first asked for.

    Attributes:
        sample: of q(z|x), K a piece.
        prior: p(z), given the layers above it where there are any.
    """

    sample: PosteriorSample
    prior: Distribution

    @property
    def posterior(self) -> Distribution:
        """q(z|x), batch shape ``[B]``."""
        return self.sample.distribution

    @cached_property
    def log_p(self) -> Tensor:
        """log p(z) ``[K, B]``."""
        return self.prior.log_prob(self.sample.z)

    @property
    def log_q(self) -> Tensor:
        """log q(z|x) ``[K, B]``."""
        return self.sample.log_q

    @cached_property
    def kl(self) -> Tensor | None:
        """KL(q(z|x) || p(z)) per dimension ``[B, D]``, where it has a closed form; otherwise None."""
        return closed_form_kl(self.posterior, self.prior)


@dataclass(frozen=True)
class Terms:
    """The terms of the bound for K samples of B images, in nats, summed over pixels and latent dimensions, not averaged over anything.

    Attributes:
        log_px: log p(x|z) ``[K, B]``.
        layers: one :class:`LayerTerms` a stochastic layer, the one next to the image first.
    """

    log_px: Tensor
    layers: tuple[LayerTerms, ...]

    @cached_property
    def log_w(self) -> Tensor:
        """log p(x, z) - log q(z|x), the importance weights' logarithms ``[K, B]``."""
        return self.log_px - sum_layers(self.log_ratios)

    @property
    def log_ratios(self) -> list[Tensor]:
        """log q(z|x) - log p(z) of each layer ``[K, B]``."""
        return [layer.log_q - layer.log_p for layer in self.layers]

    @property
    def has_closed_form_kl(self) -> bool:
        return all(layer.kl is not None for layer in self.layers)

    @cached_property
    def distortion(self) -> Tensor:
        """-E_q log p(x|z) ``[B]``, the expectation taken over the K samples."""
        return -mean_over_samples(self.log_px)

    @cached_property
    def rate_closed_form(self) -> Tensor:
        """KL(q(z|x) || p(z)) ``[B]`` in closed form; never negative. ValueError where there is none."""
        kls = [layer.kl for layer in self.layers if layer.kl is not None]
        if len(kls) != len(self.layers):
            raise ValueError("the KL of this posterior and prior has no closed form")
        return sum_layers([kl.sum(-1) for kl in kls])

    @cached_property
    def rate_monte_carlo(self) -> Tensor:
        """KL(q(z|x) || p(z)) ``[B]`` as the mean of log q - log p over the K samples; may be negative."""
        return mean_over_samples(sum_layers(self.log_ratios))

    def rate(self, closed_form: bool) -> Tensor:
        """KL(q(z|x) || p(z)) ``[B]``."""
        return self.rate_closed_form if closed_form else self.rate_monte_carlo


def sum_layers(terms: list[Tensor]) -> Tensor:
    """The sum over stochastic layers."""
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)


def mean_over_samples(term: Tensor) -> Tensor:
    """``[K, B]`` -> ``[B]``; one sample is its own mean."""
    return term.squeeze(0) if len(term) == 1 else term.mean(0)


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) per dimension ``[B, D]`` of two diagonal Gaussians; None for any other pair.

    KL(N(mu, sigma^2) || N(m, s^2)) = -1/2 (1 + log(sigma^2 / s^2) - (mu - m)^2 / s^2 - sigma^2 / s^2) in each dimension (Kingma & Welling 2014, appendix B).
    """
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    if not (isinstance(q.base_dist, Normal) and isinstance(p.base_dist, Normal)):
        return None
    return torch.distributions.kl_divergence(q.base_dist, p.base_dist)
