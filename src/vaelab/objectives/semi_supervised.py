"""Objectives of models that classify: the bound beside the label, and the label alone."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from vaelab.errors import number
from vaelab.models.terms import Terms, mean_over_samples
from vaelab.models.traits import USUAL, Traits
from vaelab.objectives.elbo import ELBO
from vaelab.objectives.objective import Objective, ObjectiveValue, Weights, needs

CLASSIFIES = "needs a model with q(y|x); use model=semi_supervised"


class SemiSupervised(Objective):
    """The ELBO, of log p(x, y) where y is given and of log p(x) where it is not, + alpha log q(y|x) where it is given (Kingma et al. 2014, equation 9).

    Without the last term q(y|x) would learn from images without labels alone. Their alpha is 0.1 N on the mean over the labelled images; here it stands before each labelled
    image of a minibatch, which are ``data.labelled_per_batch``, so that theirs is about 0.1 times the images of a batch per labelled one.

    Args:
        classification_weight: alpha, >= 0.
        beta, num_samples, kl, schedule, traits: see :class:`vaelab.objectives.ELBO`; the KL is that of all layers, y among them.
    """

    takes_sums = True

    def __init__(
        self,
        classification_weight: float = 10.0,
        beta: float = 1.0,
        num_samples: int = 1,
        kl: str = "auto",
        schedule: Callable[[int], float] | None = None,
        traits: Traits = USUAL,
    ) -> None:
        super().__init__(beta, num_samples, schedule, traits)
        needs("semi_supervised", traits.classifies, CLASSIFIES)
        self.elbo = ELBO(beta, num_samples, kl, schedule, traits)
        self.classification_weight = number(
            "objective.classification_weight",
            classification_weight,
            "must be a number >= 0",
            lambda weight: weight >= 0,
        )

    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        elbo = self.elbo.bound(terms, weights, num_images).value
        value = elbo + self.classification_weight * _log_q_label(terms)
        return ObjectiveValue(value=value, surrogate=value)


class Classification(Objective):
    """log q(y|x) where y is given, 0 where it is not: the classifier alone, as a supervised network is trained. Its accuracy is all that is measured.

    Args:
        num_samples, schedule, traits: see :class:`vaelab.objectives.ELBO`; only q(y|z) of a sample z takes more than one.
    """

    takes_sums = True
    learns_evidence = False

    def __init__(
        self,
        num_samples: int = 1,
        schedule: Callable[[int], float] | None = None,
        traits: Traits = USUAL,
    ) -> None:
        super().__init__(1.0, num_samples, schedule, traits)
        needs("classification", traits.classifies, CLASSIFIES)

    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        value = _log_q_label(terms)
        return ObjectiveValue(value=value, surrogate=value)


def _log_q_label(terms: Terms) -> Tensor:
    """``[B]``."""
    assert terms.log_q_label is not None  # of a model that classifies
    return mean_over_samples(terms.log_q_label)
