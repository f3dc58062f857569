"""An estimator measures images by a trained model, and says what the measurements come to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from vaelab.batch import Batch
from vaelab.evidence.draws import Draws
from vaelab.evidence.estimates import Estimate


@dataclass(frozen=True)
class Number:
    """What a measurement comes to: the content of a number card, but for what the run has to add.

    Attributes:
        metric: ``elbo``, ``nll``, ...
        estimate: the mean over images, with its errors.
        estimator: what it was estimated by.
        num_samples: K.
        is_evidence: it estimates log p(x), which only a number labelled ``nll`` may.
        ess: effective sample size of each image ``[N]``.
        acceptance: share of accepted trajectories of each image ``[N]``, of what moves chains.
        bias_hint: see :class:`vaelab.evidence.ImportanceEstimate`.
        curve: k -> the same number from k samples.
        settings: of the estimator: what two such numbers must share beside K.
        warning: a sentence on how far the number can be trusted.
        split: where the images are not those that were handed over: ``simulated``.
        units: of the estimate.
        floor: the same number of training images in the place of what the model makes.
    """

    metric: str
    estimate: Estimate
    estimator: str
    num_samples: int
    is_evidence: bool = False
    ess: Tensor | None = None
    acceptance: Tensor | None = None
    bias_hint: float | None = None
    curve: Mapping[int, float] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    warning: str | None = None
    split: str | None = None
    units: str = "nats"
    floor: float | None = None


#: (steps done, steps in all), told within a call
Progress = Callable[[int, int], None]


class Estimator(ABC):
    """Measures images one by one: no value depends on which others are measured with it.

    Attributes:
        name: in ``estimator=NAME`` and on cards.
        simulates: it makes images of its own; those that are handed over only count them.
        images_at_once: how many to hand over in one call, for memory's sake.
        progress: told within a call that takes long.
    """

    name: ClassVar[str]
    simulates: ClassVar[bool] = False
    images_at_once: int
    progress: Progress | None = None

    def check(self, model: Any) -> None:  # noqa: B027, most take any model
        """Refuse, by a SettingError, a model that the estimator is not for, before anything is computed."""

    @abstractmethod
    def __call__(self, model: Any, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Columns of per-image values ``[B]``, float64, nats.

        Args:
            model: a :class:`vaelab.models.Model`, in evaluation mode.
            batch: B images.
            draws: their noise.
        """

    @abstractmethod
    def numbers(self, columns: Mapping[str, Tensor]) -> list[Number]:
        """What the columns ``[N]`` of all images come to."""

    def without_evidence(self) -> Estimator:
        """What is left of the estimator where log p(x) must not be estimated."""
        return self
