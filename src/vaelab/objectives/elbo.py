"""The evidence lower bound, and its weighted form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vaelab.errors import SettingError, choice, integer, number
from vaelab.models.terms import Terms, mean_over_samples
from vaelab.objectives.schedules import ConstantSchedule


@dataclass(frozen=True)
class ObjectiveValue:
    """What an objective says of a batch.

    Attributes:
        value: the bound that is maximised ``[B]``, nats: what is logged.
        surrogate: what is differentiated ``[B]``; the same as ``value`` unless the objective says otherwise.
        penalty: a scalar of the whole batch that is added to the loss, or None.
    """

    value: Tensor
    surrogate: Tensor
    penalty: Tensor | None


class ELBO:
    """E_q log p(x|z) - beta(step) KL(q(z|x) || p(z)).

    beta = 1 is the evidence lower bound (Kingma & Welling 2014); any other constant is the beta-VAE (Higgins et al. 2017), which bounds nothing for beta < 1.
    Reported numbers (``elbo``) always have beta = 1.

    Args:
        beta: weight of the KL term, >= 0.
        num_samples: number of samples z an image, the expectation's K.
        kl: ``closed_form``, ``monte_carlo``, or ``auto`` for the closed form where there is one.
        schedule: step -> a factor of beta in [0, 1].
        has_closed_form_kl: whether the model's KL has a closed form.

    Raises:
        SettingError: a negative beta, fewer samples than one, a closed form asked of a model without one.
    """

    KL = ("auto", "closed_form", "monte_carlo")

    def __init__(
        self,
        beta: float = 1.0,
        num_samples: int = 1,
        kl: str = "auto",
        schedule: Callable[[int], float] | None = None,
        has_closed_form_kl: bool = True,
    ) -> None:
        self.beta = number("objective.beta", beta, "must be a number >= 0", lambda b: b >= 0)
        self.num_samples = integer("objective.num_samples", num_samples, 1)
        choice("objective.kl", kl, self.KL)
        if kl == "closed_form" and not has_closed_form_kl:
            raise SettingError(
                "objective.kl", kl, "this posterior and prior have none; use auto or monte_carlo"
            )
        self.has_closed_form_kl = has_closed_form_kl
        self.closed_form = has_closed_form_kl if kl == "auto" else kl == "closed_form"
        self.schedule = schedule if schedule is not None else ConstantSchedule()

    def __call__(self, terms: Terms, step: int, num_images: int) -> ObjectiveValue:
        """The bound of each image.

        Args:
            terms: of a batch.
            step: optimizer step, from 0.
            num_images: size of the training set; not used here.
        """
        elbo = mean_over_samples(terms.log_px) - self.weight(step) * terms.rate(self.closed_form)
        return ObjectiveValue(value=elbo, surrogate=elbo, penalty=None)

    def weight(self, step: int) -> float:
        """Weight of the KL term at a step."""
        return self.beta * self.schedule(step)
