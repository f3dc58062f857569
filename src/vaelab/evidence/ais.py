"""Annealed importance sampling: log p(x) by a path from a Gaussian to the posterior, along which chains of Hamiltonian Monte Carlo move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from vaelab.batch import Batch
from vaelab.errors import SettingError, choice, integer, number
from vaelab.evidence.draws import Draws
from vaelab.evidence.estimates import estimate
from vaelab.evidence.estimator import Estimator, Number, Progress
from vaelab.evidence.importance import LOW_ESS, importance, low_ess_warning
from vaelab.evidence.streaming import ImageLimit, in_halves
from vaelab.models import Model

#: latent dimensions in all, above which chains of affordable length say too little
MAX_DIMENSIONS = 200
#: share of accepted trajectories below which chains do not follow their path
LOW_ACCEPTANCE = 0.3
#: of a posterior start, samples of q(z|x) that its moments come from
MOMENT_SAMPLES = 256
#: least standard deviation of a posterior start: no dimension is left at a point
STDDEV_FLOOR = 1e-3
#: each chain's step size is multiplied by a number from 1 - JITTER to 1 + JITTER, anew at each temperature: with one and the same length
#: a trajectory in a Gaussian may come back to where it began (Neal 2011, section 5.4.2.2)
JITTER = 0.4
#: by how much log(step size) moves for a difference of 1 between acceptance and target
ADAPTATION_RATE = 0.3


@dataclass(frozen=True)
class Annealing:
    """Settings of annealed importance sampling.

    Attributes:
        num_chains: C, of each image; at least 2, from whose spread the error comes.
        num_steps: T, how many times the temperature rises from 0 to 1; 1 is importance sampling with the Gaussian that the path begins with.
        leapfrog_steps: L, of each trajectory.
        spacing: of temperatures: ``sigmoid`` (close together at both ends, Wu et al. 2017) or ``linear``.
        start: the Gaussian at temperature 0, for each image: ``posterior`` (mean and standard deviation of each dimension of z under q(z|x), from samples) or ``prior`` (N(0, I)).
        target_acceptance: of the trajectories, that the step sizes are adapted to.
        adaptation_chains: of each image, that run first for the step sizes and are thrown away.

    Raises:
        SettingError: a number out of its range, an unknown name.
    """

    num_chains: int = 16
    num_steps: int = 1000
    leapfrog_steps: int = 10
    spacing: str = "sigmoid"
    start: str = "posterior"
    target_acceptance: float = 0.65
    adaptation_chains: int = 4

    SPACINGS = ("sigmoid", "linear")
    STARTS = ("posterior", "prior")

    def __post_init__(self) -> None:
        integer("estimator.num_chains", self.num_chains, 2)
        integer("estimator.num_steps", self.num_steps, 1)
        integer("estimator.leapfrog_steps", self.leapfrog_steps, 1)
        choice("estimator.spacing", self.spacing, self.SPACINGS)
        choice("estimator.start", self.start, self.STARTS)
        rule = "must be a number between 0 and 1"
        number("estimator.target_acceptance", self.target_acceptance, rule, lambda value: 0 < value < 1)
        integer("estimator.adaptation_chains", self.adaptation_chains, 1)

    def temperatures(self) -> Tensor:
        """t_0 = 0, ..., t_T = 1, float64.

        >>> Annealing(num_steps=4, spacing="linear").temperatures()
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
        """
        line = torch.linspace(0, 1, self.num_steps + 1, dtype=torch.float64)
        if self.spacing == "linear":
            return line
        curve = torch.sigmoid(4 * (2 * line - 1))
        return (curve - curve[0]) / (curve[-1] - curve[0])


@dataclass(frozen=True)
class AnnealedEstimate:
    """log 1/C sum_c w_c of B images, from C chains each.

    Attributes:
        log_px: ``[B]``, float64, nats. Its expectation is at most log p(x): a stochastic lower bound.
        ess: effective sample size (sum w)^2 / sum w^2 ``[B]``, from 1 to C.
        variance: of ``log_px`` by its own noise ``[B]``, by the delta method: 1/ESS - 1/C. Too small where the effective sample size is small.
        acceptance: share of the trajectories that were accepted, in expectation ``[B]``; nan where one step leaves none.
        log_w: log-weights ``[C, B]``, float64.
    """

    log_px: Tensor
    ess: Tensor
    variance: Tensor
    acceptance: Tensor
    log_w: Tensor


def check_dimensions(model: Model, estimator: str = "ais") -> None:
    """Refuse a model that ``estimator`` is not for.

    Raises:
        SettingError: more than :data:`MAX_DIMENSIONS` latent dimensions in all layers.
    """
    dimensions = _num_dimensions(model)
    if dimensions > MAX_DIMENSIONS:
        rule = f"is for models with at most {MAX_DIMENSIONS} latent dimensions in all, and this one has {dimensions}"
        raise SettingError("estimator", estimator, f"{rule}; use estimator=importance")


@torch.no_grad()
def _num_dimensions(model: Model) -> int:
    """S, latent dimensions of all layers."""
    eps = next(model.parameters()).new_zeros(1, model.prior_noise_dim)
    return model.simulate(eps, eps.new_zeros(1, dtype=torch.int64)).z.shape[-1]


def ais(
    model: Model, batch: Batch, draws: Draws, settings: Annealing, progress: Progress | None = None
) -> AnnealedEstimate:
    """Annealed importance sampling (Neal 2001), as Wu et al. 2017 use it for decoders.

    Chains begin as draws of N(z; m, s^2), a Gaussian with independent dimensions, and go through log f_t(z) = (1 - t) log N(z; m, s^2) + t log p(x, z), t = t_0 .. t_T.
    log w = sum_k (t_k - t_{k-1}) (log p(x, z_{k-1}) - log N(z_{k-1}; m, s^2)), where z_k comes from z_{k-1} by one trajectory of Hamiltonian Monte Carlo
    that leaves f_{t_k} invariant. E w = p(x). Step sizes, one for each image and temperature, are found on other chains with other noise; those that count do not change them.
    Weights add up in float64, densities are computed in the model's precision.

    An image's chains see neither those of other images nor their number. The model is called with C rows for each of the B images at once: who has many images
    hands them over in parts, and gets the same numbers up to rounding. Not within ``torch.inference_mode``: gradients in z are taken.

    Args:
        model: in evaluation mode.
        batch: B images.
        draws: noise of these images, of the purposes ``adaptation`` and ``annealing``.
        settings: of the path and the chains.
        progress: told after every step.

    Raises:
        SettingError: the model has too many dimensions.
    """
    check_dimensions(model)
    adaptation, forwards = passes(progress, settings, 2)
    with annealed_path(model, batch, draws, settings) as path:
        log_steps = path.adapt(adaptation)
        log_w, acceptance = path.forwards(log_steps, forwards)
    found = importance(log_w, curve=())
    return AnnealedEstimate(found.log_px, found.ess, found.variance, acceptance.cpu(), log_w.cpu())


def passes(progress: Progress | None, settings: Annealing, count: int) -> list[Callable[[int], None]]:
    """The progress of each of ``count`` passes along the path, as part of the whole."""

    def tell(before: int, done: int) -> None:
        if progress is not None:
            progress(before + done, count * settings.num_steps)

    return [partial(tell, i * settings.num_steps) for i in range(count)]


@dataclass(frozen=True)
class Point:
    """Where chains are, and what is known there.

    Attributes:
        u: (z - m) / s ``[C, B, S]``.
        log_p: log p(x, z) ``[C, B]``.
        gradient: of log p(x, z) in u ``[C, B, S]``.
    """

    u: Tensor
    log_p: Tensor
    gradient: Tensor

    def kick(self, p: Tensor, t: Tensor, step: Tensor) -> Tensor:
        """p plus ``step [C, B, 1]`` times the gradient of log f_t in u, -(1 - t) u + t ``gradient``."""
        return torch.addcmul(p, step * t, self.gradient).addcmul_(step * (t - 1), self.u)

    def chosen(self, accepted: Tensor, other: Point) -> Point:
        """This one where ``accepted [C, B]``, elsewhere the other."""
        rows = accepted.unsqueeze(-1)
        return Point(
            torch.where(rows, self.u, other.u),
            torch.where(accepted, self.log_p, other.log_p),
            torch.where(rows, self.gradient, other.gradient),
        )


def leapfrog(
    at: Callable[[Tensor], Point], start: Point, momentum: Tensor, t: Tensor, step: Tensor, num_steps: int
) -> tuple[Point, Tensor]:
    """One trajectory under H = -log f_t(u) + |p|^2 / 2, approximately: reversible, and it preserves volume (Neal 2011, section 5.2.3).

    Args:
        at: u -> what is known there.
        start: where it begins.
        momentum: p ``[C, B, S]``.
        t: temperature, a number.
        step: size of the steps ``[C, B, 1]``, in units of s.
        num_steps: L; as many gradients are computed, as that of ``start`` is known.

    Returns:
        where it ends, and p there.
    """
    point, p = start, start.kick(momentum, t, 0.5 * step)
    for i in range(num_steps):
        point = at(torch.addcmul(point.u, step, p))
        p = point.kick(p, t, step if i < num_steps - 1 else 0.5 * step)
    return point, p


def squares(values: Tensor) -> Tensor:
    """Sum of the squares along the last dimension."""
    return values.square().sum(-1)


@dataclass(frozen=True)
class Path:
    """The distributions between N(z; m, s^2) and p(z|x) of B images, and the chains that go along them.

    Attributes:
        model, batch, draws, settings: as :func:`ais` takes them.
        mean, stddev: m and s ``[B, S]``.
        temperatures: t_0 .. t_T, float64, on the CPU.
    """

    model: Model
    batch: Batch
    draws: Draws
    settings: Annealing
    mean: Tensor
    stddev: Tensor
    temperatures: Tensor

    def at(self, u: Tensor) -> Point:
        """log p(x, z) and its gradient at ``u [C, B, S]``."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            log_p = self.model.log_joint(self.batch, torch.addcmul(self.mean, self.stddev, u))
            (gradient,) = torch.autograd.grad(log_p.sum(), u)
        return Point(u.detach(), log_p.detach(), gradient)

    def log_ratio(self, point: Point) -> Tensor:
        """log p(x, z) - log N(z; m, s^2) ``[C, B]``."""
        log_s = (self.stddev.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
        return point.log_p + 0.5 * squares(point.u) + log_s

    def log_f(self, point: Point, t: Tensor) -> Tensor:
        """log f_t in u, up to a constant ``[C, B]``."""
        return torch.lerp(-0.5 * squares(point.u), point.log_p, t)

    def normal(self, purpose: str, num_chains: int, repetition: int) -> Tensor:
        """``[C, B, S]`` in the model's precision, on its device."""
        eps = self.draws.normal(purpose, (num_chains, self.mean.shape[-1]), repetition)
        return eps.transpose(0, 1).to(self.mean)

    def move(
        self, point: Point, k: int, log_step: Tensor, purpose: str, repetition: int
    ) -> tuple[Point, Tensor]:
        """One trajectory of each chain, that leaves f_t of t = t_k invariant.

        Args:
            point: C chains.
            k: number of the temperature.
            log_step: log of the step size ``[B]``.
            purpose, repetition: of the noise.

        Returns:
            where the chains are then, and with which probability each trajectory was accepted ``[C, B]``.
        """
        momentum = self.normal(purpose, len(point.u), repetition)
        uniform = self.draws.uniform(purpose, (2, len(point.u)), repetition).permute(1, 2, 0).to(self.mean)
        step = (log_step.exp() * (1 + JITTER * (2 * uniform[0] - 1))).unsqueeze(-1)
        t = self.temperatures[k].to(self.mean)
        end, p = leapfrog(self.at, point, momentum, t, step, self.settings.leapfrog_steps)
        before = self.log_f(point, t) - 0.5 * squares(momentum)
        after = self.log_f(end, t) - 0.5 * squares(p)
        # nan where a trajectory has left the numbers: not accepted
        probability = (after - before).clamp(max=0).exp().nan_to_num(nan=0.0)
        return end.chosen(uniform[1] < probability, point), probability

    def adapt(self, progress: Callable[[int], None]) -> Tensor:
        """log of the step sizes ``[T + 1, B]``, found on chains that are thrown away; those of t_0 and t_T are not used.

        log(step) <- log(step) + rate (mean acceptance of the image's chains - target), from temperature to temperature.
        """
        settings = self.settings
        log_steps = self.mean.new_zeros(settings.num_steps + 1, len(self.mean))
        # what Gaussians of S dimensions take (Beskos et al. 2013, "Optimal tuning of the hybrid Monte Carlo algorithm": of order S^(-1/4))
        current = log_steps[0] - 0.25 * math.log(self.mean.shape[-1])
        point = self.at(self.normal("adaptation", settings.adaptation_chains, settings.num_steps))
        for k in range(1, settings.num_steps):
            point, probability = self.move(point, k, current, "adaptation", k)
            current = current + ADAPTATION_RATE * (probability.mean(0) - settings.target_acceptance)
            log_steps[k] = current
            progress(k)
        progress(settings.num_steps)
        return log_steps

    def forwards(self, log_steps: Tensor, progress: Callable[[int], None]) -> tuple[Tensor, Tensor]:
        """log-weights ``[C, B]``, float64, of chains from the Gaussian to the posterior, and the acceptance ``[B]``."""
        start = self.normal("annealing", self.settings.num_chains, 0)
        return self._run(self.at(start), range(self.settings.num_steps), log_steps, 0, progress)

    def backwards(
        self, z: Tensor, log_steps: Tensor, progress: Callable[[int], None]
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`forwards`, of chains that all begin at ``z [B, S]``, a draw of p(z|x), and go to the Gaussian: the same path, each transition in its own reverse, which it is itself."""
        start = ((z - self.mean) / self.stddev).expand(self.settings.num_chains, *z.shape)
        steps = self.settings.num_steps
        return self._run(self.at(start), range(steps)[::-1], log_steps, steps, progress)

    def _run(
        self,
        point: Point,
        order: Sequence[int],
        log_steps: Tensor,
        repetition: int,
        progress: Callable[[int], None],
    ) -> tuple[Tensor, Tensor]:
        """Along the intervals t_i .. t_{i+1}, i in ``order``, with a trajectory at the temperature between two of them."""
        widths = self.temperatures.diff().tolist()
        log_w = widths[order[0]] * _wide(self.log_ratio(point))
        accepted = torch.zeros_like(self.mean[:, 0])
        for done, (last, following) in enumerate(pairwise(order), start=1):
            k = max(last, following)
            point, probability = self.move(point, k, log_steps[k], "annealing", repetition + k)
            log_w += widths[following] * _wide(self.log_ratio(point))
            accepted += probability.mean(0)
            progress(done)
        progress(len(order))
        return log_w, accepted / (len(order) - 1) if len(order) > 1 else accepted * math.nan


@contextmanager
def annealed_path(model: Model, batch: Batch, draws: Draws, settings: Annealing) -> Iterator[Path]:
    """The path of a batch; inside, no parameter of the model gets a gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.no_grad():
            mean, stddev = _start(model, batch, draws, settings)
            yield Path(model, batch, draws, settings, mean, stddev, settings.temperatures())
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _start(model: Model, batch: Batch, draws: Draws, settings: Annealing) -> tuple[Tensor, Tensor]:
    """m and s ``[B, S]`` of the Gaussian at temperature 0."""
    if settings.start == "prior":
        zeros = batch.x.new_zeros(len(batch.x), _num_dimensions(model))
        return zeros, torch.ones_like(zeros)
    # not the noise that importance sampling takes: estimates of the two have errors of their own
    eps = draws.normal("adaptation", (MOMENT_SAMPLES, model.noise_dim)).transpose(0, 1).to(batch.x)
    parts = eps.split(settings.num_chains)  # no more rows than the chains have: the decoder sees them, too
    samples = torch.cat(
        [torch.cat([layer.z for layer in model(batch, part).layers], dim=-1) for part in parts]
    )
    return samples.mean(0), samples.std(0).clamp(min=STDDEV_FLOOR)


def _wide(values: Tensor) -> Tensor:
    """In float64, which MPS does not have."""
    return (values.cpu() if values.device.type == "mps" else values).double()


class AnnealedEstimator(Estimator):
    """-log p(x) by annealed importance sampling.

    Args:
        images_at_once: how many go along the path together: what an interruption costs, and, times the chains, the samples the decoder sees at once.
        annealing: the settings of :class:`Annealing`.

    Raises:
        SettingError: a setting out of its range.
    """

    name = "ais"

    def __init__(self, images_at_once: int = 100, **annealing: Any) -> None:
        self.images_at_once = integer("estimator.images_at_once", images_at_once, 1)
        self.limit = ImageLimit(images_at_once)
        self.annealing = Annealing(**annealing)

    def check(self, model: Any) -> None:
        check_dimensions(model, self.name)

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        self.check(model)

        def measure(images: slice) -> dict[str, Tensor]:
            found = ais(model, batch[images], draws[images], self.annealing, self.progress)
            return {
                "log_px": found.log_px,
                "log_px_variance": found.variance,
                "ess": found.ess,
                "acceptance": found.acceptance.double(),
            }

        return in_halves(measure, len(batch.x), self.limit)

    def numbers(self, columns: Mapping[str, Tensor]) -> list[Number]:
        chains, ess = self.annealing.num_chains, columns["ess"]
        return [
            Number(
                metric="nll",
                estimate=estimate(-columns["log_px"], columns["log_px_variance"]),
                estimator=self.name,
                num_samples=chains,
                is_evidence=True,
                ess=ess,
                settings=path_settings(self.annealing),
                acceptance=columns["acceptance"],
                # chains are few and their weights even: error bars of 64 were found to cover
                warning=joined(
                    low_ess_warning(ess, min(LOW_ESS, chains / 2)),
                    low_acceptance_warning(columns["acceptance"]),
                ),
            )
        ]

    def without_evidence(self) -> Estimator:
        raise no_evidence(self.name)


def path_settings(annealing: Annealing) -> dict[str, Any]:
    """What two estimates along paths must share, beside the number of chains."""
    return {"annealing": {key: value for key, value in asdict(annealing).items() if key != "num_chains"}}


def low_acceptance_warning(acceptance: Tensor) -> str | None:
    """The sentence that goes with trajectories of which too many were rejected for the chains to follow the path; None if they were not.

    Args:
        acceptance: of each image ``[N]``, nan where there were none.
    """
    share = acceptance.nanmean().item()
    if math.isnan(share) or share >= LOW_ACCEPTANCE:
        return None
    advice = "a larger estimator.num_steps leaves the step sizes more time to adapt"
    return f"only {share:.0%} of the trajectories were accepted, so that the chains hardly moved: {advice}"


def joined(*warnings: str | None) -> str | None:
    """One line of those that there are."""
    return "; ".join(warning for warning in warnings if warning) or None


def no_evidence(estimator: str) -> SettingError:
    """Why there is nothing to anneal towards."""
    rule = "needs a number that may be called nll: on grey pixels a Bernoulli likelihood is none, and a density needs dequantised ones"
    return SettingError("estimator", estimator, rule)
