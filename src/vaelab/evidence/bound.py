"""The evidence lower bound as it is reported: beta = 1, image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelab.batch import Batch
from vaelab.errors import integer
from vaelab.evidence.accuracy import accuracy, accuracy_numbers
from vaelab.evidence.draws import Draws
from vaelab.evidence.estimates import estimate, exact
from vaelab.evidence.estimator import Estimator, Number
from vaelab.evidence.streaming import NOISE_AT_ONCE, RowLimit, streamed
from vaelab.models.terms import Terms


@dataclass(frozen=True)
class BoundValues:
    """elbo = -(rate + distortion) of B images, float64, nats.

    Attributes:
        elbo, rate, distortion: means over the samples ``[B]``.
        elbo_variance, rate_variance, distortion_variance: variance of each mean by the samples' noise ``[B]``, or None for one sample.
    """

    elbo: Tensor
    rate: Tensor
    distortion: Tensor
    elbo_variance: Tensor | None
    rate_variance: Tensor | None
    distortion_variance: Tensor | None


class BoundEstimator(Estimator):
    """The ELBO with its two parts, averaged over several samples an image; the rate in closed form where there is one. Of a model with q(y|x) its accuracy, too.

    Args:
        repetitions: samples an image.
        max_rows: samples that the decoder sees at once; None = by the kind of device.

    Raises:
        SettingError: a setting that is not a positive integer.
    """

    name = "elbo"

    def __init__(self, repetitions: int = 8, max_rows: int | None = None) -> None:
        self.repetitions = integer("estimator.repetitions", repetitions, 1)
        self.limit = RowLimit(max_rows)
        self.images_at_once = max(1, NOISE_AT_ONCE // repetitions)

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        eps = draws.normal("posterior", (self.repetitions, model.noise_dim)).transpose(0, 1)
        log_px, rates = streamed(model, batch, eps, self.limit, _parts)
        columns = {name: column for name, column in vars(bound(log_px, rates)).items() if column is not None}
        return {**columns, **accuracy(model, batch)}

    def numbers(self, columns: Mapping[str, Tensor]) -> list[Number]:
        out = []
        for metric in ("elbo", "rate", "distortion"):
            variance = columns.get(f"{metric}_variance")
            if variance is not None and not variance.any():
                variance = None  # nothing was drawn for it: a rate in closed form
            out.append(Number(metric, estimate(columns[metric], variance), self.name, 1))
        return [*out, *accuracy_numbers(columns)]


def bound_of(terms: Terms, closed_form: bool) -> BoundValues:
    """The single-sample bound, averaged over the K samples of ``terms``.

    Args:
        terms: K samples of B images.
        closed_form: take the rate in closed form.
    """
    return bound(exact(terms.log_px), exact(terms.rates(closed_form)))


def bound(log_px: Tensor, rates: Tensor) -> BoundValues:
    """The single-sample bound, averaged over K samples.

    Args:
        log_px: log p(x|z) ``[K, B]``.
        rates: log q - log p sample by sample ``[K, B]``, or the KL ``[1, B]``.
    """
    rates = rates.expand_as(log_px)
    elbo, distortion = log_px - rates, -log_px
    several = len(log_px) > 1
    return BoundValues(
        elbo=elbo.mean(0),
        rate=rates.mean(0),
        distortion=distortion.mean(0),
        elbo_variance=_variance_of_mean(elbo) if several else None,
        rate_variance=_variance_of_mean(rates) if several else None,
        distortion_variance=_variance_of_mean(distortion) if several else None,
    )


def _parts(terms: Terms) -> Tensor:
    """log p(x|z) and rate ``[2, K, B]``."""
    log_px = exact(terms.log_px)
    return torch.stack([log_px, exact(terms.rates(terms.has_closed_form_kl)).expand_as(log_px)])


def _variance_of_mean(samples: Tensor) -> Tensor:
    return samples.var(0, correction=1) / len(samples)
