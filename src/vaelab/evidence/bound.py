"""The evidence lower bound as it is reported: beta = 1, image by image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vaelab.evidence.estimates import exact
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


def bound(terms: Terms, closed_form: bool) -> BoundValues:
    """The single-sample bound, averaged over the K samples of ``terms``.

    Args:
        terms: K samples of B images.
        closed_form: take the rate in closed form.
    """
    log_px = exact(terms.log_px)
    rate = exact(terms.rates(closed_form)).expand_as(log_px)
    elbo, distortion = log_px - rate, -log_px
    several = len(log_px) > 1
    return BoundValues(
        elbo=elbo.mean(0),
        rate=rate.mean(0),
        distortion=distortion.mean(0),
        elbo_variance=_variance_of_mean(elbo) if several else None,
        rate_variance=_variance_of_mean(rate) if several else None,
        distortion_variance=_variance_of_mean(distortion) if several else None,
    )


def _variance_of_mean(samples: Tensor) -> Tensor:
    return samples.var(0, correction=1) / len(samples)
