"""Probes: how well the class of an image is read off its code, by a linear classifier and by the nearest training images."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vaelab.errors import SettingError, choice, integer, number
from vaelab.evidence.estimates import exact

METRICS = ("euclidean", "cosine")


@dataclass(frozen=True)
class Probe:
    """The accuracy of a classifier on test images.

    Attributes:
        accuracy: share of the labelled test images whose class it says, 0 to 1.
        se: its standard error, sqrt(a (1 - a) / n): of the set of test images; the training images are given.
        num_train, num_test: labelled images that it was fitted on and tested on.
        kind: of classifier, with its settings.
        warning: why the number may be better with other settings, or None.
    """

    accuracy: float
    se: float
    num_train: int
    num_test: int
    kind: str
    warning: str | None = None


def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    C: float = 1.0,
    max_iter: int = 1000,
) -> Probe:
    """Multinomial logistic regression, fitted on features that are standardised by the training images.

    It minimises the sum over images of the cross-entropy + |W|^2 / (2 C): convex, so that the result depends on nothing but the data. Images without a label (-1) are left out.

    Args:
        train, test: codes ``[N, D]``, usually the means of q(z|x).
        train_labels, test_labels: ``[N]``, integers; -1 = unlabelled.
        C: inverse of the penalty's weight.
        max_iter: steps of L-BFGS; a warning says if they did not do.

    Raises:
        SettingError: ``C`` or ``max_iter``.
        ValueError: shapes that do not go together, codes that are not finite, fewer than two classes to be fitted, nothing to test.
    """
    from sklearn.exceptions import ConvergenceWarning  # a second to import
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    number("C", C, "must be a number > 0", lambda c: c > 0)
    integer("max_iter", max_iter, 1)
    X, y = _labelled("train", train, train_labels)
    if len(np.unique(y)) < 2:
        raise ValueError("a linear probe needs training images of at least two classes")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=max_iter))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(X, y)
    steps = any(issubclass(w.category, ConvergenceWarning) for w in caught)
    return _tested(
        classifier,
        len(X),
        test,
        test_labels,
        f"multinomial logistic regression, C={C:g}",
        f"not converged within {max_iter} steps" if steps else None,
    )


def nearest_neighbours_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    k: int = 10,
    metric: str = "euclidean",
) -> Probe:
    """The class that most of the k nearest training images have; the smallest of those that equally many have.

    Distances are of the codes as they are: neither centred nor scaled. Images without a label (-1) are left out.

    Args:
        train, test, train_labels, test_labels: as for :func:`linear_probe`.
        k: at most the number of labelled training images.
        metric: ``euclidean``, or ``cosine``: 1 - cos of the angle at the origin.

    Raises:
        SettingError: ``k`` or ``metric``.
        ValueError: as for :func:`linear_probe`.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import normalize

    integer("k", k, 1)
    choice("metric", metric, METRICS)
    X, y = _labelled("train", train, train_labels)
    if k > len(X):
        raise SettingError("k", k, f"must be at most the number of labelled training images, {len(X)}")
    cosine = metric == "cosine"
    # |a - b|^2 = 2 (1 - cos) of unit vectors: the same order
    classifier = KNeighborsClassifier(n_neighbors=k, algorithm="brute")
    classifier.fit(normalize(X) if cosine else X, y)
    return _tested(
        classifier, len(X), test, test_labels, f"{k} nearest neighbours, {metric}", None, unit=cosine
    )


def _tested(
    classifier: Any,
    num_train: int,
    codes: Tensor,
    labels: Tensor,
    kind: str,
    warning: str | None,
    unit: bool = False,
) -> Probe:
    from sklearn.preprocessing import normalize

    X, y = _labelled("test", codes, labels)
    right = classifier.predict(normalize(X) if unit else X) == y
    accuracy = float(right.mean())
    se = math.sqrt(accuracy * (1 - accuracy) / len(y))
    return Probe(accuracy, se, num_train, len(y), kind, warning)


def _labelled(which: str, codes: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Codes in float64 and labels, of the images that have one."""
    if codes.dim() != 2 or labels.shape != codes.shape[:1]:
        raise ValueError(
            f"{which} codes {list(codes.shape)} and labels {list(labels.shape)} must be [N, D] and [N]"
        )
    X, y = exact(codes).numpy(), labels.detach().cpu().numpy()
    X, y = X[y >= 0], y[y >= 0]
    if len(y) == 0:
        raise ValueError(f"no {which} image has a label")
    if not np.isfinite(X).all():
        raise ValueError(f"{which} codes are not all finite")
    return X, y
