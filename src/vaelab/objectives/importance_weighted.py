"""Bounds from several samples an image: importance weighting and its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vaelab.errors import SettingError, integer, number
from vaelab.models.terms import Terms, mean_over_samples, sum_layers
from vaelab.models.traits import USUAL, Traits
from vaelab.objectives.objective import Objective, ObjectiveValue, Weights, needs

APART = "needs the parameters of q and of p apart, and this model shares some; use objective=iwae"


def log_mean_exp(log_w: Tensor) -> Tensor:
    """log 1/K sum_k w_k ``[...]`` of log-weights ``[K, ...]``."""
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


def log_weights(terms: Terms, weight: float | Tensor) -> Tensor:
    """log p(x|z) + weight (log p(z) - log q(z|x)) ``[K, B]``."""
    is_plain = (
        not isinstance(weight, Tensor) and weight == 1
    )  # what a tensor holds is not asked: that would wait for the device
    return terms.log_w if is_plain else terms.log_px - weight * sum_layers(terms.log_ratios)


class IWAE(Objective):
    """log 1/K sum_k w_k, the importance-weighted bound (Burda et al. 2016); tighter with every sample.

    Args:
        num_samples: K.
        beta, schedule, traits: see :class:`vaelab.objectives.ELBO`; 1 but for a warm-up, or it bounds nothing.
    """

    def __init__(
        self,
        num_samples: int = 5,
        beta: float = 1.0,
        schedule: Callable[[int], float] | None = None,
        traits: Traits = USUAL,
    ) -> None:
        super().__init__(beta, num_samples, schedule, traits)

    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        value = log_mean_exp(log_weights(terms, weights.kl))
        return ObjectiveValue(value=value, surrogate=value)


class MIWAE(Objective):
    """The mean of M importance-weighted bounds of K / M samples each (Rainforth et al. 2018): M = 1 is IWAE, M = K the ELBO by Monte Carlo.

    Args:
        num_samples: K, all samples of an image.
        num_bounds: M, a divisor of K.
        beta, schedule, traits: see :class:`IWAE`.
    """

    def __init__(
        self,
        num_samples: int = 16,
        num_bounds: int = 4,
        beta: float = 1.0,
        schedule: Callable[[int], float] | None = None,
        traits: Traits = USUAL,
    ) -> None:
        super().__init__(beta, num_samples, schedule, traits)
        self.num_bounds = _divisor(num_bounds, num_samples)

    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        value = _mean_of_bounds(log_weights(terms, weights.kl), self.num_bounds)
        return ObjectiveValue(value=value, surrogate=value)


class PIWAE(Objective):
    """IWAE with all K samples for p, and the mean of M bounds for q, whose gradient is less noisy (Rainforth et al. 2018).

    Args:
        num_samples, num_bounds, beta, schedule, traits: see :class:`MIWAE`.
    """

    def __init__(
        self,
        num_samples: int = 16,
        num_bounds: int = 4,
        beta: float = 1.0,
        schedule: Callable[[int], float] | None = None,
        traits: Traits = USUAL,
    ) -> None:
        super().__init__(beta, num_samples, schedule, traits)
        self.num_bounds = _divisor(num_bounds, num_samples)
        needs("piwae", traits.parameters_apart, APART)

    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        log_w = log_weights(terms, weights.kl)
        value = log_mean_exp(log_w)
        return ObjectiveValue(value, value, inference_surrogate=_mean_of_bounds(log_w, self.num_bounds))


class CIWAE(Objective):
    """share ELBO + (1 - share) IWAE (Rainforth et al. 2018), the ELBO by Monte Carlo from the same samples.

    Args:
        share: of the ELBO, from 0 to 1.
        num_samples, beta, schedule, traits: see :class:`IWAE`.
    """

    def __init__(
        self,
        share: float = 0.05,
        num_samples: int = 5,
        beta: float = 1.0,
        schedule: Callable[[int], float] | None = None,
        traits: Traits = USUAL,
    ) -> None:
        super().__init__(beta, num_samples, schedule, traits)
        self.share = number("objective.share", share, "must be a number from 0 to 1", lambda s: 0 <= s <= 1)

    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        log_w = log_weights(terms, weights.kl)
        value = self.share * mean_over_samples(log_w) + (1 - self.share) * log_mean_exp(log_w)
        return ObjectiveValue(value=value, surrogate=value)


class DReG(Objective):
    """IWAE with the doubly reparameterised gradient for q (Tucker et al. 2019): its signal-to-noise ratio grows with K, where that of IWAE falls.

    For the parameters of q the gradient is sum_k c_k d log w_k / dz_k dz_k / dphi, the density of q differentiated through z alone, with c_k = v_k^2, v_k = w_k / sum w. With a weight
    beta in log w = log p(x|z) + beta (log p(z) - log q(z|x)), the score that is reparameterised has this factor, and c_k = (1 - beta) v_k + beta v_k^2.

    Args:
        num_samples, beta, schedule, traits: see :class:`IWAE`.
    """

    def __init__(
        self,
        num_samples: int = 5,
        beta: float = 1.0,
        schedule: Callable[[int], float] | None = None,
        traits: Traits = USUAL,
    ) -> None:
        super().__init__(beta, num_samples, schedule, traits)
        needs(
            "dreg",
            traits.fast_density,
            "needs the density of q at a given z, which is slow for this posterior; use posterior.kind=coupling, or objective=iwae",
        )
        needs("dreg", traits.parameters_apart, APART)

    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        weight = weights.kl
        log_w = log_weights(terms, weight)
        value = log_mean_exp(log_w)
        through_z = terms.log_px - weight * sum_layers(terms.log_ratios_stopped)
        shares = log_w.detach().softmax(0)
        coefficients = (1 - weight) * shares + weight * shares.square()
        return ObjectiveValue(value, value, inference_surrogate=(coefficients * through_z).sum(0))


def _mean_of_bounds(log_w: Tensor, num_bounds: int) -> Tensor:
    """Mean over the M bounds ``[B]`` of log-weights ``[K, B]``, K / M consecutive ones a bound."""
    return torch.stack([log_mean_exp(part) for part in log_w.chunk(num_bounds)]).mean(0)


def _divisor(num_bounds: int, num_samples: int) -> int:
    integer("objective.num_bounds", num_bounds, 1)
    if num_samples % num_bounds:
        raise SettingError(
            "objective.num_bounds", num_bounds, f"must divide objective.num_samples={num_samples}"
        )
    return num_bounds
