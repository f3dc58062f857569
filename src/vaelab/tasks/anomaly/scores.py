"""The scores of an image, from what a model says of it; larger = more anomalous."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
#: name of a per-image value -> the values ``[N]``, nats: ``elbo``, ``rate``, ``distortion``; ``log_px`` (importance-weighted), ``code_length``, ``background``
#: (a background model's bound) and ``regret``, where they are had
Columns = Mapping[str, Array]


@dataclass(frozen=True)
class Reference:
    """What a score knows of images that belong, the calibration's.

    Attributes:
        bound: mean of the bound on log p(x), nats.
        rate: mean rate, nats.
    """

    bound: float
    rate: float

    @classmethod
    def of(cls, columns: Columns) -> Self:
        return cls(float(bound(columns).mean()), float(columns["rate"].mean()))


@dataclass(frozen=True)
class Score:
    """A score of single images, in nats.

    Attributes:
        name: as it is typed.
        symbol: as pictures show it.
        needs: the columns beside those of the bound that it is made of.
        of: columns and reference -> scores ``[N]``.
    """

    name: str
    symbol: str
    needs: tuple[str, ...]
    of: Callable[[Columns, Reference], Array]


def bound(columns: Columns) -> Array:
    """The best bound on log p(x) that there is: the importance-weighted one, or else the ELBO."""
    return columns["log_px"] if "log_px" in columns else columns["elbo"]


def _elbo(columns: Columns, reference: Reference) -> Array:
    """-ELBO: what the model finds unlikely. It fails where the other images are simpler than those trained on (Nalisnick et al. 2019a, "Do deep generative models know what they don't know?")."""
    return -columns["elbo"]


def _importance(columns: Columns, reference: Reference) -> Array:
    """-log p(x), importance-weighted (Burda et al. 2016)."""
    return -columns["log_px"]


def _distortion(columns: Columns, reference: Reference) -> Array:
    """-E_q log p(x|z): what the model cannot reconstruct (An & Cho 2015)."""
    return columns["distortion"]


def _typicality(columns: Columns, reference: Reference) -> Array:
    """|log p(x) - its mean over images that belong|: too likely is as odd as too unlikely (Nalisnick et al. 2019b, "Detecting out-of-distribution inputs using typicality", one image at a time)."""
    return np.abs(bound(columns) - reference.bound)


def _rate_typicality(columns: Columns, reference: Reference) -> Array:
    """|rate - its mean over images that belong|: the same of KL(q(z|x) || p(z))."""
    return np.abs(columns["rate"] - reference.rate)


def _complexity(columns: Columns, reference: Reference) -> Array:
    """-log p(x) less the length of a lossless code: unlikely for how simple the image is (Serra et al. 2020, with PNG as the compressor)."""
    return -bound(columns) - columns["code_length"]


def _ratio(columns: Columns, reference: Reference) -> Array:
    """log p(x) of a background model less that of the model: what both find likely says nothing (Ren et al. 2019)."""
    return columns["background"] - bound(columns)


def _regret(columns: Columns, reference: Reference) -> Array:
    """How much the ELBO gains where q(z|x) is fitted to this image alone (Xiao et al. 2020)."""
    return columns["regret"]


#: in the order of tables and pictures
SCORES = {
    score.name: score
    for score in (
        Score("elbo", "-ELBO", (), _elbo),
        Score("importance", "-log p(x), importance-weighted", ("log_px",), _importance),
        Score("distortion", "distortion", (), _distortion),
        Score("typicality", "typicality of log p(x)", (), _typicality),
        Score("rate_typicality", "typicality of the rate", (), _rate_typicality),
        Score("complexity", "-log p(x) - length of a PNG", ("log_px", "code_length"), _complexity),
        Score("ratio", "likelihood ratio to a background", ("background",), _ratio),
        Score("regret", "likelihood regret", ("regret",), _regret),
    )
}
