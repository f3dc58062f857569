"""The evidence lower bound and its nearest relations: weighted, with free bits, with the path derivative alone."""

from __future__ import annotations

from collections.abc import Callable

from vaelab.errors import SettingError, number
from vaelab.models.terms import Terms, mean_over_samples, sum_layers
from vaelab.models.traits import USUAL, Traits
from vaelab.objectives.objective import Objective, ObjectiveValue, Weights, closed_form, needs
from vaelab.objectives.schedules import CapacitySchedule


class ELBO(Objective):
    """E_q log p(x|z) - beta(step) KL(q(z|x) || p(z)).

    beta = 1 is the evidence lower bound (Kingma & Welling 2014); any other constant is the beta-VAE (Higgins et al. 2017), which bounds nothing for beta < 1.
    With a capacity C(step) it is E_q log p(x|z) - beta |KL - C| (Burgess et al. 2018). Reported numbers (``elbo``) always have beta = 1.

    Args:
        beta: weight of the KL term, >= 0.
        num_samples: number of samples z an image, the expectation's K.
        kl: ``closed_form``, ``monte_carlo``, or ``auto`` for the closed form where there is one.
        schedule: step -> a factor of beta in [0, 1], or a capacity.
        traits: what is known of the model.
    """

    takes_capacity = True
    takes_sums = True

    def __init__(
        self,
        beta: float = 1.0,
        num_samples: int = 1,
        kl: str = "auto",
        schedule: Callable[[int], float] | None = None,
        traits: Traits = USUAL,
    ) -> None:
        super().__init__(beta, num_samples, schedule, traits)
        self.closed_form = closed_form(kl, traits)
        if isinstance(schedule, CapacitySchedule) and not self.closed_form:
            rule = "needs the KL in closed form: |KL - C| of a noisy estimate says little of that of its mean; use schedule=linear"
            raise SettingError("schedule", "capacity", rule)

    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        rate = terms.rate(self.closed_form)
        if weights.capacity is not None:
            rate = (rate - weights.capacity).abs()
        elbo = mean_over_samples(terms.log_px) - weights.kl * rate
        return ObjectiveValue(value=elbo, surrogate=elbo)


class FreeBits(Objective):
    """E_q log p(x|z) - beta sum_j max(lambda, KL_j): the first ``free_nats`` of each latent dimension cost nothing (Kingma et al. 2016).

    The floor holds for each image; the paper's holds for the mean over a minibatch, and would make the bound of an image depend on its neighbours.

    Args:
        free_nats: lambda, nats a dimension, >= 0.
        beta, num_samples, schedule, traits: see :class:`ELBO`.
    """

    def __init__(
        self,
        free_nats: float = 0.1,
        beta: float = 1.0,
        num_samples: int = 1,
        schedule: Callable[[int], float] | None = None,
        traits: Traits = USUAL,
    ) -> None:
        super().__init__(beta, num_samples, schedule, traits)
        self.free_nats = number(
            "objective.free_nats", free_nats, "must be a number of nats >= 0", lambda n: n >= 0
        )
        needs(
            "free_bits",
            traits.kl_per_dimension,
            "needs a KL per dimension, which this posterior and prior have not; use objective=elbo",
        )

    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        rates = sum_layers([mean_over_samples(kl).clamp(min=self.free_nats).sum(-1) for kl in terms.kls])
        value = mean_over_samples(terms.log_px) - weights.kl * rates
        return ObjectiveValue(value=value, surrogate=value)


class STL(Objective):
    """The evidence lower bound with the path derivative alone: log p(x, z) - log q(z|x), the parameters of q constant in its density (Roeder et al. 2017).

    Its gradient has the same expectation as that of the bound by Monte Carlo, and no variance where q is the exact posterior.

    Args:
        beta, schedule, traits: see :class:`ELBO`.
        num_samples: 1; with more samples in one logarithm the path derivative is biased (Tucker et al. 2019): there is ``dreg`` for that.
    """

    def __init__(
        self,
        beta: float = 1.0,
        num_samples: int = 1,
        schedule: Callable[[int], float] | None = None,
        traits: Traits = USUAL,
    ) -> None:
        super().__init__(beta, num_samples, schedule, traits)
        if num_samples != 1:
            raise SettingError(
                "objective.num_samples",
                num_samples,
                "must be 1 with objective=stl, which is biased for several; use objective=dreg",
            )
        needs(
            "stl",
            traits.fast_density,
            "needs the density of q at a given z, which is slow for this posterior; use posterior.kind=coupling, or objective=elbo",
        )

    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        weight = weights.kl
        value = terms.log_px - weight * sum_layers(terms.log_ratios)
        surrogate = terms.log_px - weight * sum_layers(terms.log_ratios_stopped)
        return ObjectiveValue(value=mean_over_samples(value), surrogate=mean_over_samples(surrogate))
