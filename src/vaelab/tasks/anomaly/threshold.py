"""From which score on an image counts as anomalous."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def threshold(calibration: Array, false_positive_rate: float) -> float:
    """The score above which an image is anomalous, such that another image that belongs is with probability at most ``false_positive_rate``.

    It is the ceil((1 - a)(N + 1))-th smallest of the N calibration scores (split conformal prediction: Vovk et al. 2005; Lei et al. 2018), and holds on average over
    calibration sets, whatever the distribution, for images as the calibration's.

    Args:
        calibration: scores ``[N]`` of images that belong and were not trained on, N >= :func:`least_images`.
        false_positive_rate: a, above 0 and below 1.

    >>> threshold(np.arange(1.0, 100.0), 0.05)
    95.0
    """
    rank = math.ceil(round((1 - false_positive_rate) * (len(calibration) + 1), 9))
    if rank > len(calibration):
        raise ValueError(f"{len(calibration)} scores are too few for a rate of {false_positive_rate}")
    return float(np.sort(calibration)[rank - 1])


def least_images(false_positive_rate: float) -> int:
    """How many calibration images a threshold takes.

    >>> least_images(0.05)
    19
    """
    return math.ceil(round(1 / false_positive_rate, 9)) - 1


def p_values(scores: Array, calibration: Array) -> Array:
    """Share of the calibration images, and the image itself, that are at least as anomalous ``[M]``: at most a with probability a for an image that belongs.

    >>> p_values(np.array([0.5, 2.0]), np.array([1.0, 2.0, 3.0])).tolist()
    [1.0, 0.75]
    """
    below = np.searchsorted(np.sort(calibration), scores, side="left")
    return (1 + len(calibration) - below) / (1 + len(calibration))
