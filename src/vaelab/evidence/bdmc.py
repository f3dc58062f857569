"""Bidirectional Monte Carlo: how far annealed importance sampling is from log p(x), on images that the model has made itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelab.batch import Batch
from vaelab.errors import integer
from vaelab.evidence.ais import (
    Annealing,
    annealed_path,
    check_dimensions,
    low_acceptance_warning,
    no_evidence,
    passes,
    path_settings,
)
from vaelab.evidence.draws import Draws
from vaelab.evidence.estimates import estimate
from vaelab.evidence.estimator import Estimator, Number, Progress
from vaelab.evidence.importance import importance
from vaelab.evidence.streaming import ImageLimit, in_halves
from vaelab.models import Model


@dataclass(frozen=True)
class BidirectionalEstimate:
    """Both bounds on log p(x) of B simulated images, float64, nats.

    Attributes:
        lower: log 1/C sum_c w_c of chains towards the posterior ``[B]``. Its expectation is at most log p(x).
        upper: -log 1/C sum_c 1/w_c of chains from the posterior ``[B]``. Its expectation is at least log p(x).
        lower_variance: of ``lower`` given the image, by the delta method ``[B]``.
        upper_variance: of ``upper`` given the image *and* the draw of the posterior that all its chains begin at ``[B]``. What that draw adds is seen
            only in the spread over images: the error of a mean is that over images.
        acceptance_forwards, acceptance_backwards: of the trajectories ``[B]``.
        batch: the images.
        z: the draws of p(z|x) ``[B, sum of D]``.
    """

    lower: Tensor
    upper: Tensor
    lower_variance: Tensor
    upper_variance: Tensor
    acceptance_forwards: Tensor
    acceptance_backwards: Tensor
    batch: Batch
    z: Tensor

    @property
    def gap(self) -> Tensor:
        """upper - lower ``[B]``: in expectation no less than what either bound is away from log p(x); single ones may be negative."""
        return self.upper - self.lower

    @property
    def gap_variance(self) -> Tensor:
        """Of :attr:`gap` ``[B]``, given what ``upper_variance`` is given."""
        return self.lower_variance + self.upper_variance


def bdmc(
    model: Model, draws: Draws, settings: Annealing, y: Tensor | None = None, progress: Progress | None = None
) -> BidirectionalEstimate:
    """Bidirectional Monte Carlo (Grosse et al. 2015, "Sandwiching the marginal likelihood using bidirectional Monte Carlo"; for decoders Wu et al. 2017).

    (z*, x) is drawn from p(z) p(x|z), so z* is an exact draw of p(z|x). Annealed importance sampling of x gives the lower bound. The same path gone from z* backwards,
    with the same step sizes, gives weights with E 1/w = 1 / p(x): the extended density of a backward chain, divided into that of a forward one.

    From each z* go C backward chains. They have z* in common and are not independent, but each 1/w_c alone has expectation 1 / p(x), hence their mean has it, too, and by
    Jensen's inequality E[-log 1/C sum_c 1/w_c] >= log p(x). (log 1/C sum_c w_c of backward chains is no bound on either side with C > 1; 1/C sum_c log w_c is
    an upper one, and never below ours.)

    What the gap says holds for images like those that the model makes.

    Args:
        model: in evaluation mode.
        draws: noise of the B images to be simulated, of the purposes ``simulation``, ``adaptation`` and ``annealing``.
        settings: of the path and the chains.
        y: labels ``[B]`` of the images to be simulated, for a model that is conditional on them.
        progress: told after every step.

    Raises:
        SettingError: the model has too many dimensions.
    """
    check_dimensions(model, "bdmc")
    batch, z = simulated(model, draws, y)
    adaptation, forwards, backwards = passes(progress, settings, 3)
    with annealed_path(model, batch, draws, settings) as path:
        log_steps = path.adapt(adaptation)
        lower_log_w, accepted_forwards = path.forwards(log_steps, forwards)
        upper_log_w, accepted_backwards = path.backwards(z, log_steps, backwards)
    below, inverse = importance(lower_log_w, curve=()), importance(-upper_log_w, curve=())
    return BidirectionalEstimate(
        lower=below.log_px,
        upper=-inverse.log_px,
        lower_variance=below.variance,
        upper_variance=inverse.variance,
        acceptance_forwards=accepted_forwards.cpu(),
        acceptance_backwards=accepted_backwards.cpu(),
        batch=batch,
        z=z,
    )


@torch.no_grad()
def simulated(model: Model, draws: Draws, y: Tensor | None = None) -> tuple[Batch, Tensor]:
    """Images x and the draws z ``[B, sum of D]`` of p(z|x) that they were made from; noise of the purpose ``simulation``."""
    like = next(model.parameters())
    eps = draws.normal("simulation", (model.prior_noise_dim,)).to(like)
    drawn = model.simulate(eps, None if y is None else y.to(like.device))
    uniform = draws.uniform("simulation", drawn.p_x.mean.shape[1:])
    # the middle of each of the 2^24 numbers' cells: at 0 itself a density has its far end
    x = model.likelihood.draw(drawn.p_x, (uniform + 2.0**-25).to(like))
    index = torch.arange(len(x), device=like.device)
    return Batch(x, torch.full_like(index, -1) if y is None else y.to(like.device), index), drawn.z


class BidirectionalEstimator(Estimator):
    """Both bounds on log p(x) of images that the model makes, as many as images are measured, with their labels where the model takes some.

    Args:
        images_at_once, annealing: as :class:`vaelab.evidence.AnnealedEstimator` takes them.

    Raises:
        SettingError: a setting out of its range.
    """

    name = "bdmc"
    simulates = True

    def __init__(self, images_at_once: int = 100, **annealing: Any) -> None:
        self.images_at_once = integer("estimator.images_at_once", images_at_once, 1)
        self.limit = ImageLimit(images_at_once)
        self.annealing = Annealing(**annealing)

    def check(self, model: Any) -> None:
        check_dimensions(model, self.name)

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        def measure(images: slice) -> dict[str, Tensor]:
            y = batch.y[images] if model.num_classes and not model.infers_labels else None
            found = bdmc(model, draws[images], self.annealing, y, self.progress)
            return {
                "log_px_lower": found.lower,
                "log_px_lower_variance": found.lower_variance,
                "log_px_upper": found.upper,
                "log_px_upper_variance": found.upper_variance,
                "log_px_gap": found.gap,
                "log_px_gap_variance": found.gap_variance,
                "acceptance_forwards": found.acceptance_forwards.double(),
                "acceptance_backwards": found.acceptance_backwards.double(),
            }

        return in_halves(measure, len(batch.x), self.limit)

    def numbers(self, columns: Mapping[str, Tensor]) -> list[Number]:
        acceptance = torch.stack([columns["acceptance_forwards"], columns["acceptance_backwards"]]).mean(0)
        # all backward chains of an image begin with one draw of its posterior, and their spread does not tell what another draw would have given
        variances = {
            "log_px_lower": columns["log_px_lower_variance"],
            "log_px_upper": None,
            "log_px_gap": None,
        }
        return [
            Number(
                metric=metric,
                estimate=estimate(columns[metric], variance),
                estimator=self.name,
                num_samples=self.annealing.num_chains,
                is_evidence=True,
                acceptance=acceptance,
                settings=path_settings(self.annealing),
                split="simulated",
                warning=low_acceptance_warning(acceptance),
            )
            for metric, variance in variances.items()
        ]

    def without_evidence(self) -> Estimator:
        raise no_evidence(self.name)
