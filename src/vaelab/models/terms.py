"""The terms of the evidence lower bound, image by image: what a model returns, and all that objectives and estimators see of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)


class Layer(ABC):
    """The terms of one stochastic layer z, as objectives and estimators see them; shapes as in :class:`LayerTerms`."""

    @property
    @abstractmethod
    def z(self) -> Tensor: ...

    @property
    @abstractmethod
    def log_p(self) -> Tensor: ...

    @property
    @abstractmethod
    def log_q(self) -> Tensor: ...

    @property
    @abstractmethod
    def log_q_stopped(self) -> Tensor: ...

    @property
    @abstractmethod
    def kl(self) -> Tensor | None: ...

    @property
    @abstractmethod
    def mean(self) -> Tensor | None: ...

    @property
    @abstractmethod
    def stddev(self) -> Tensor | None: ...


@dataclass(frozen=True)
class LayerTerms(Layer):
    """The terms of one stochastic layer z, each computed when it is first asked for.

    Attributes:
        sample: of q(z|x), K a piece: a :class:`vaelab.posteriors.PosteriorSample`.
        prior: p(z), given the layers above it where there are any.
        exact_kl: KL(q(z|x) || p(z)) is this layer's part of the rate; not so where p(z) depends on a layer that is inferred from this one.
    """

    sample: Any
    prior: Distribution
    exact_kl: bool = True

    @property
    def posterior(self) -> Distribution:
        """q(z|x), batch shape ``[B]``, or ``[K, B]`` where it depends on other layers."""
        return self.sample.distribution

    @property
    def z(self) -> Tensor:
        """The samples ``[K, B, D]``."""
        return self.sample.z

    @cached_property
    def log_p(self) -> Tensor:
        """log p(z) ``[K, B]``."""
        return self.prior.log_prob(self.sample.z)

    @property
    def log_q(self) -> Tensor:
        """log q(z|x) ``[K, B]``."""
        return self.sample.log_q

    @property
    def log_q_stopped(self) -> Tensor:
        """log q(z|x) ``[K, B]`` through z alone: the parameters of q are constants."""
        return self.sample.log_q_stopped

    @cached_property
    def kl(self) -> Tensor | None:
        """KL(q(z|x) || p(z)) where it has a closed form, otherwise None: ``[B, D]``, or ``[B, 1]`` where only its sum is known; with ``[K, ...]`` in front where it depends on samples of other layers."""
        return closed_form_kl(self.posterior, self.prior) if self.exact_kl else None

    @property
    def mean(self) -> Tensor | None:
        """E_q z ``[B, D]``, where it is known."""
        return self.sample.mean

    @property
    def stddev(self) -> Tensor | None:
        """Standard deviation of each dimension of z under q ``[B, D]``, where it is known."""
        return self.sample.stddev


@dataclass(frozen=True)
class Terms:
    """The terms of the bound for K samples of B images, in nats, summed over pixels and latent dimensions, not averaged over anything.

    Attributes:
        log_px: log p(x|z) ``[K, B]``.
        layers: one :class:`Layer` a stochastic layer, the one next to the image first.
        log_w_summed: gives :attr:`log_w` where a discrete variable is summed over: of the sum, which the layers' averages do not tell.
        log_q_label: log q(y|x) of the label y that an image is given ``[K, B]``, 0 where it is given none; None for a model that does not classify.
    """

    log_px: Tensor
    layers: tuple[Layer, ...]
    log_w_summed: Callable[[], Tensor] | None = None
    log_q_label: Tensor | None = None

    @cached_property
    def log_w(self) -> Tensor:
        """log p(x, z) - log q(z|x), the importance weights' logarithms ``[K, B]``."""
        if self.log_w_summed is not None:
            return self.log_w_summed()
        return self.log_px - sum_layers(self.log_ratios)

    @property
    def log_ratios(self) -> list[Tensor]:
        """log q(z|x) - log p(z) of each layer ``[K, B]``."""
        return [layer.log_q - layer.log_p for layer in self.layers]

    @property
    def log_ratios_stopped(self) -> list[Tensor]:
        """As :attr:`log_ratios`, with the parameters of q as constants."""
        return [layer.log_q_stopped - layer.log_p for layer in self.layers]

    @property
    def has_closed_form_kl(self) -> bool:
        return all(layer.kl is not None for layer in self.layers)

    @cached_property
    def distortion(self) -> Tensor:
        """-E_q log p(x|z) ``[B]``, the expectation taken over the K samples."""
        return -mean_over_samples(self.log_px)

    @property
    def kls(self) -> list[Tensor]:
        """KL(q || p) of each layer in closed form, ``[1 or K, B, D or 1]``. ValueError where there is none."""
        kls = [layer.kl for layer in self.layers if layer.kl is not None]
        if len(kls) != len(self.layers):
            raise ValueError("the KL of this posterior and prior has no closed form")
        return [kl if kl.dim() == 3 else kl.unsqueeze(0) for kl in kls]

    def rates(self, closed_form: bool) -> Tensor:
        """KL(q(z|x) || p(z)) sample by sample ``[K, B]``, or ``[1, B]`` where it does not depend on them.

        In closed form it is never negative; as log q - log p it may be.
        """
        if not closed_form:
            return sum_layers(self.log_ratios)
        kls = [kl.sum(-1) for kl in self.kls]
        return kls[0] if len(kls) == 1 else sum_layers(list(torch.broadcast_tensors(*kls)))

    def rate(self, closed_form: bool) -> Tensor:
        """KL(q(z|x) || p(z)) ``[B]``, averaged over samples."""
        return mean_over_samples(self.rates(closed_form))


def sum_layers(terms: list[Tensor]) -> Tensor:
    """The sum over stochastic layers."""
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)


def mean_over_samples(term: Tensor) -> Tensor:
    """``[K, B, ...]`` -> ``[B, ...]``; one sample is its own mean."""
    return term.squeeze(0) if len(term) == 1 else term.mean(0)


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) per dimension ``[..., D]`` of two diagonal Gaussians, in one sum ``[..., 1]`` of a Gaussian with correlations and a diagonal one; None for any other pair.

    KL(N(mu, sigma^2) || N(m, s^2)) = -1/2 (1 + log(sigma^2 / s^2) - (mu - m)^2 / s^2 - sigma^2 / s^2) in each dimension (Kingma & Welling 2014, appendix B).
    """
    if not (isinstance(p, Independent) and isinstance(p.base_dist, Normal)):
        return None
    if isinstance(q, MultivariateNormal | LowRankMultivariateNormal):
        return torch.distributions.kl_divergence(q, p).unsqueeze(-1)
    if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
        return None
    return torch.distributions.kl_divergence(q.base_dist, p.base_dist)
