"""How well a score tells anomalous images from others, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

AT_ONCE = 2_000_000  # weights: bounds the memory of resamples
TPR = (19, 20)  # of FPR at 95 % TPR


@dataclass(frozen=True)
class Interval:
    """A number with its error.

    Attributes:
        value: of all images.
        se: standard deviation over resamples.
        low, high: the percentile interval of the resamples.
    """

    value: float
    se: float
    low: float
    high: float


@dataclass(frozen=True)
class Detection:
    """How well a score finds anomalous images, which are the positives.

    Attributes:
        auroc: P(anomalous image scores higher than one that belongs), ties counted half.
        average_precision: area below precision over recall, as a step function; it depends on the share of anomalous images.
        fpr95: share of the images that belong that have to be flagged so that at least 95 % of the anomalous ones are.
    """

    auroc: Interval
    average_precision: Interval
    fpr95: Interval


def detection(inside: Array, outside: Array, uniform: Array, level: float = 0.95) -> Detection:
    """The numbers of a score with bootstrap intervals (Efron 1979): images are drawn with replacement, those that belong and the anomalous ones apart; both sets are taken
    as samples, the model as given.

    Where no resample mixes the two sets, an interval has no width: the images are too few to see an overlap, which is not to say that there is none.

    Args:
        inside: scores ``[N]`` of images that belong.
        outside: scores ``[M]`` of anomalous images.
        uniform: numbers in [0, 1) ``[R, N + M]`` that choose the images of R resamples.
        level: of the intervals.
    """
    sizes = len(inside), len(outside)
    order, ends = _order(inside, outside)
    value = _numbers(np.ones((1, sum(sizes))), order, ends, sizes)[:, 0]
    rows = max(1, AT_ONCE // sum(sizes))
    resampled = np.concatenate(
        [
            _numbers(_counts(uniform[first : first + rows], sizes), order, ends, sizes)
            for first in range(0, len(uniform), rows)
        ],
        axis=1,
    )
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=1)
    se = resampled.std(axis=1, ddof=1)
    return Detection(*(Interval(*map(float, four)) for four in zip(value, se, low, high, strict=True)))


def curve(inside: Array, outside: Array) -> tuple[Array, Array]:
    """The ROC curve: false and true positive rates, from (0, 0) to (1, 1), a point a score."""
    sizes = len(inside), len(outside)
    order, ends = _order(inside, outside)
    false, true = _positives(np.ones((1, sum(sizes))), order, ends, sizes)
    return np.insert(false[0] / sizes[0], 0, 0.0), np.insert(true[0] / sizes[1], 0, 0.0)


def _order(inside: Array, outside: Array) -> tuple[Array, Array]:
    """The order of all scores, the largest first, and the last place of each run of equal ones."""
    scores = np.concatenate([inside, outside])
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    return order, ends


def _counts(uniform: Array, sizes: tuple[int, int]) -> Array:
    """How often each image is in each resample ``[R, N + M]``."""
    counts = np.zeros((len(uniform), sum(sizes)))
    first = 0
    for size in sizes:
        chosen = (uniform[:, first : first + size] * float(size)).astype(np.int64).clip(max=size - 1)
        for row, of_row in zip(counts, chosen, strict=True):
            row[first : first + size] = np.bincount(of_row, minlength=size)
        first += size
    return counts


def _positives(counts: Array, order: Array, ends: Array, sizes: tuple[int, int]) -> tuple[Array, Array]:
    """How many images of either set ``[R, thresholds]`` score at least each threshold, the largest first."""
    is_outside = np.repeat([0.0, 1.0], sizes)
    inside = np.cumsum((counts * (1 - is_outside))[:, order], axis=1)[:, ends]
    outside = np.cumsum((counts * is_outside)[:, order], axis=1)[:, ends]
    return inside, outside


def _numbers(counts: Array, order: Array, ends: Array, sizes: tuple[int, int]) -> Array:
    """AUROC, average precision and FPR at 95 % TPR ``[3, R]``."""
    false, true = _positives(counts, order, ends, sizes)
    steps = np.diff(true, axis=1, prepend=0.0)
    # above a run of equal scores lie those that are certainly lower; within it half of the pairs count
    lower = sizes[0] - false + 0.5 * np.diff(false, axis=1, prepend=0.0)
    auroc = (steps * lower).sum(1) / (sizes[0] * sizes[1])
    flagged = true + false
    precision = np.divide(true, flagged, out=np.zeros_like(true), where=flagged > 0)
    average_precision = (steps * precision).sum(1) / sizes[1]
    enough = TPR[1] * true >= TPR[0] * sizes[1]
    fpr95 = false[np.arange(len(false)), enough.argmax(1)] / sizes[0]
    return np.stack([auroc, average_precision, fpr95])
