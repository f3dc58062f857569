"""Everything that this room says of a model, by a few walks through the images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from vaelab.batch import Batch
from vaelab.errors import SettingError, integer, number
from vaelab.evidence.progress import Progress, told
from vaelab.latents.active_units import ActivityAccumulator, active_units
from vaelab.latents.aggregate_posterior import AT_ONCE, Moments, aggregate_moments, log_aggregate_of
from vaelab.latents.codes import Codes, CodesAccumulator, NoiseOf, codes, posteriors, terms_of
from vaelab.latents.cut import CutChange, change_by_cutting
from vaelab.latents.information import Information, decompose, information, nothing_known
from vaelab.latents.probes import Probe, linear_probe, nearest_neighbours_probe
from vaelab.latents.rate import LayerRate, RateAccumulator
from vaelab.models import Model
from vaelab.models.terms import LayerTerms

NO_PRIOR = "p(z) depends on the labels: there is no one prior to compare q(z) with"
THROUGH_LAYERS = "q(z|x) of the code goes through samples of other layers: its density is not known"
SLOW_DENSITY = "the density of q at a given z is slow for this posterior"


@dataclass(frozen=True)
class Diagnosis:
    """What the code of a model has learned, measured on N images. What could not be had is None, and ``missing`` says why.

    Attributes:
        num_images: N.
        rates: of each stochastic layer, the one next to the image first.
        activities: A_u of each layer ``[D]``, or None where E_q(z|x)[z] is not known.
        active: which of them are above the threshold, bool ``[D]``, or None.
        information: the parts of the code's rate.
        moments: of the code's q(z).
        linear, nearest: probes for the class on the code's means.
        cut: what leaving the inactive dimensions out does to the NLL.
        missing: name of an attribute that is None, wholly or for a layer, or of a term of ``information`` -> why.
    """

    num_images: int
    rates: tuple[LayerRate, ...]
    activities: tuple[Tensor | None, ...]
    active: tuple[Tensor | None, ...]
    information: Information
    moments: Moments | None
    linear: Probe | None
    nearest: Probe | None
    cut: CutChange | None
    missing: dict[str, str]


def diagnose(
    model: Model,
    batches: Iterable[Batch],
    noise: NoiseOf,
    *,
    num_samples: int = 2000,
    threshold: float = 0.01,
    train_batches: Iterable[Batch] | None = None,
    neighbours: int = 10,
    metric: str = "euclidean",
    cut_noise: NoiseOf | None = None,
    max_rows: int | None = 10_000,
    at_once: int = AT_ONCE,
    progress: Progress | None = None,
) -> Diagnosis:
    """Rates, active units, information, moments, probes and the cut of ``model``.

    Args:
        model: in evaluation mode.
        batches: of the N images, on the model's device, the same ones in the same order whenever they are gone through: a list or a DataLoader, not a generator.
        noise: of the samples of q(z|x) that rates without a closed form and information are averages of, ``[K, B, noise_dim]``; K = 1 will do.
        num_samples: M, of the information; at most K x N.
        threshold: of an active unit's activity.
        train_batches: labelled images that the probes are fitted on; None for no probes.
        neighbours, metric: of the nearest-neighbours probe.
        cut_noise: of the importance-weighted estimates with and without the inactive dimensions, ``[K, B, D]``; None for no such estimates, which a number that is no log-likelihood (label other than ``nll``) is not given.
        max_rows: samples that the decoder sees at once in these; None = by the kind of device.
        at_once: block size of the information; see :func:`vaelab.latents.log_aggregate`.
        progress: is told (what is computed, how much is done, of how much or None).

    Raises:
        SettingError: a number that is not allowed, or more neighbours than labelled training images.
        ValueError: no batches, or batches that can be gone through only once.
        FloatingPointError: codes that are none, as of a training that diverged.
    """
    integer("num_samples", num_samples, 1)
    integer("neighbours", neighbours, 1)
    integer("at_once", at_once, 1)
    number("threshold", threshold, "must be a number >= 0", lambda t: t >= 0)
    if isinstance(batches, Iterator):
        raise ValueError("batches are gone through more than once: give a list or a DataLoader")
    rates, activities, gathered = RateAccumulator(), ActivityAccumulator(), CodesAccumulator()
    for batch in told("codes", batches, progress):
        terms = terms_of(model, batch, noise)
        rates.update(terms)
        activities.update(terms)
        gathered.update(model, batch, terms)
    code = gathered.compute()
    sound = code.mean.isfinite().all(1)
    if code.stddev is not None:
        sound &= ((code.stddev > 0) & code.stddev.isfinite()).all(1)
    if lost := int((~sound).sum()):
        raise FloatingPointError(
            f"the codes of {lost} of {len(sound)} images are not finite, or their standard deviation is 0: the run diverged"
        )
    missing: dict[str, str] = {}
    found = _information(model, batches, code, num_samples, at_once, progress)
    missing |= found.missing
    each = activities.compute()
    active = tuple(None if a is None else active_units(a, threshold) for a in each)
    if any(a is None for a in each):
        missing["activities"] = "E_q(z|x)[z] has no closed form in every layer"
    if not code.diagonal:
        missing["moments"] = "needs a posterior whose dimensions are independent given x"
    linear, nearest = _probes(model, train_batches, code, neighbours, metric, progress, missing)
    return Diagnosis(
        num_images=len(code.mean),
        rates=rates.compute(),
        activities=each,
        active=active,
        information=found,
        moments=aggregate_moments(code.mean, _known(code.stddev)) if code.diagonal else None,
        linear=linear,
        nearest=nearest,
        cut=_cut(model, active[-1], batches, cut_noise, max_rows, progress, missing),
        missing=missing,
    )


def _information(
    model: Model,
    batches: Iterable[Batch],
    code: Codes,
    num_samples: int,
    at_once: int,
    progress: Progress | None,
) -> Information:
    draws = code.draws(num_samples)
    if code.diagonal:
        return information(
            code.mean, _known(code.stddev), draws.z, draws.source, draws.log_p, at_once, progress, NO_PRIOR
        )
    first = next(iter(batches))
    if not isinstance(model.encode(first), LayerTerms):
        return nothing_known(len(code.mean), THROUGH_LAYERS)
    if not model.traits().fast_density:
        return nothing_known(len(code.mean), SLOW_DENSITY)
    densities = log_aggregate_of(
        posteriors(model, batches), draws.z.to(first.x.device), draws.source, at_once, progress
    )
    return decompose(densities.log_q_own, densities.log_q, len(code.mean), draws.log_p, no_log_p=NO_PRIOR)


def _probes(
    model: Model,
    train_batches: Iterable[Batch] | None,
    code: Codes,
    neighbours: int,
    metric: str,
    progress: Progress | None,
    missing: dict[str, str],
) -> tuple[Probe | None, Probe | None]:
    reason = "no training images were given" if train_batches is None else None
    if reason is None and model.num_classes > 0:
        # the probe would be told what it is asked
        given, found = "q(z|x) is given the labels", "q(z|x, y) is of the class that q(y|x) has found"
        reason = found if model.infers_labels else given
    if reason is None and not (code.labels >= 0).any():
        reason = "no image has a label"
    if reason is not None or train_batches is None:
        missing |= dict.fromkeys(("linear", "nearest"), str(reason))
        return None, None
    train = codes(model, train_batches, progress=progress)
    labelled = train.labels[train.labels >= 0]
    if len(labelled.unique()) < 2:
        missing |= dict.fromkeys(("linear", "nearest"), "the training images have fewer than two classes")
        return None, None
    if neighbours > len(labelled):
        rule = f"must be at most the number of labelled training images, {len(labelled)}"
        raise SettingError("neighbours", neighbours, rule)
    probed = (train.mean, train.labels, code.mean, code.labels)
    probes = (linear_probe, partial(nearest_neighbours_probe, k=neighbours, metric=metric))
    linear, nearest = (probe(*probed) for probe in told("probes", probes, progress))
    return linear, nearest


def _cut(
    model: Model,
    active: Tensor | None,
    batches: Iterable[Batch],
    noise: NoiseOf | None,
    max_rows: int | None,
    progress: Progress | None,
    missing: dict[str, str],
) -> CutChange | None:
    if noise is None:
        missing["cut"] = "no noise was given for it"
    elif active is None:
        missing["cut"] = "needs to know which dimensions are active"
    else:
        try:
            return change_by_cutting(model, ~active, batches, noise, max_rows, progress)
        except SettingError as unfit:
            missing["cut"] = str(unfit)
    return None


def _known(stddev: Tensor | None) -> Tensor:
    assert stddev is not None  # of a diagonal Gaussian
    return stddev
