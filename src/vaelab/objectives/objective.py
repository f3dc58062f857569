"""What all objectives share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vaelab.errors import SettingError, choice, integer, number
from vaelab.models.terms import Terms
from vaelab.models.traits import Traits
from vaelab.objectives.schedules import CapacitySchedule, ConstantSchedule

KL = ("auto", "closed_form", "monte_carlo")


@dataclass(frozen=True)
class ObjectiveValue:
    """What an objective says of a batch.

    Attributes:
        value: the bound that is maximised ``[B]``, nats: what is logged.
        surrogate: what is differentiated ``[B]``; the same as ``value`` unless the objective says otherwise.
        penalty: a scalar of the whole batch that is added to the loss, or None.
        inference_surrogate: what is differentiated ``[B]`` for the parameters of q, where that is not ``surrogate``; which is then for those of p alone.
    """

    value: Tensor
    surrogate: Tensor
    penalty: Tensor | None = None
    inference_surrogate: Tensor | None = None


@dataclass(frozen=True)
class Weights:
    """What a schedule makes of a step. Numbers, or scalar tensors where the computation is recorded once for all steps, or is that of several runs.

    Attributes:
        kl: weight of the KL term.
        capacity: C, nats an image; None without a capacity.
    """

    kl: float | Tensor
    capacity: float | Tensor | None = None


class Objective(ABC):
    """Terms -> :class:`ObjectiveValue`. It never averages over images and never logs.

    Args:
        beta: weight of the KL term, >= 0.
        num_samples: K, samples z an image.
        schedule: step -> a factor of beta.
        traits: what is known of the model.

    Raises:
        SettingError: a negative beta, fewer samples than one, a schedule that the objective does not take, a model that it means nothing for.
    """

    takes_capacity = False
    learns_evidence = True  # p(x): without it there is nothing to be measured but a classifier
    takes_sums = False  # over a discrete variable: each layer's terms, averaged

    def __init__(
        self, beta: float, num_samples: int, schedule: Callable[[int], float] | None, traits: Traits
    ) -> None:
        self.beta = number("objective.beta", beta, "must be a number >= 0", lambda b: b >= 0)
        self.num_samples = integer("objective.num_samples", num_samples, 1)
        self.schedule = schedule if schedule is not None else ConstantSchedule()
        self.traits = traits
        if isinstance(schedule, CapacitySchedule) and not self.takes_capacity:
            raise SettingError(
                "schedule", "capacity", "only objective=elbo takes it; use constant, linear or cyclical"
            )
        if traits.summed and not self.takes_sums:
            rule = "means nothing for a model that sums over classes; use elbo, semi_supervised or classification"
            raise SettingError("objective", type(self).__name__, rule)

    def __call__(self, terms: Terms, step: int, num_images: int) -> ObjectiveValue:
        """The bound of each image.

        Args:
            terms: of a batch.
            step: optimizer step, from 0.
            num_images: size of the training set.
        """
        return self.bound(terms, self.at(step), num_images)

    @abstractmethod
    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        """The same with what depends on the step given."""

    def weight(self, step: int) -> float:
        """Weight of the KL term at a step."""
        return self.beta * self.schedule(step)

    def at(self, step: int) -> Weights:
        """What depends on the step."""
        schedule = self.schedule
        return Weights(
            self.weight(step), schedule.capacity(step) if isinstance(schedule, CapacitySchedule) else None
        )


def closed_form(kl: str, traits: Traits) -> bool:
    """Whether ``objective.kl`` asks for the closed form of the KL; ``auto``: where there is one.

    Raises:
        SettingError: it is asked of a model without one.
    """
    choice("objective.kl", kl, KL)
    if kl == "closed_form" and not traits.closed_form_kl:
        raise SettingError("objective.kl", kl, "this posterior and prior have none; use auto or monte_carlo")
    return traits.closed_form_kl if kl == "auto" else kl == "closed_form"


def needs(objective: str, holds: bool, rule: str) -> None:
    """Refuse an objective that means nothing for the model at hand."""
    if not holds:
        raise SettingError("objective", objective, rule)
