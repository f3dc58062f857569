"""The importance-weighted estimate of log p(x), with its error, its effective sample size and a hint at its bias."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vaelab.batch import Batch
from vaelab.errors import integer
from vaelab.evidence.bound import BoundEstimator
from vaelab.evidence.draws import Draws
from vaelab.evidence.estimates import estimate, exact
from vaelab.evidence.estimator import Estimator, Number
from vaelab.evidence.streaming import NOISE_AT_ONCE, RowLimit, streamed
from vaelab.models.terms import Terms

#: under this effective sample size the delta method's error bar means little
LOW_ESS = 100
#: share of the samples that the effective sample size comes to where weights are all but even
EVEN = 0.9
#: numbers of samples that the K-curve shows
CURVE = (1, 10, 100, 1_000, 5_000)


@dataclass(frozen=True)
class ImportanceEstimate:
    """L_K = log 1/K sum_k w_k of B images (Burda et al. 2016).

    Attributes:
        log_px: L_K ``[B]``, float64, nats. Its expectation is at most log p(x): a stochastic lower bound.
        ess: effective sample size (sum w)^2 / sum w^2 ``[B]``, from 1 to K.
        variance: variance of L_K by its own noise ``[B]``, by the delta method: 1/ESS - 1/K. Too small where the effective sample size is small.
        bias_hint: L_K - L_{K/2} ``[B]``, L_{K/2} averaged over the disjoint halves of the same weights; None for K = 1. Where the
            variance of the weights is finite the bias of L_K is about minus as much (Maddison et al. 2017, proposition 1).
        curve: L_k ``[B]`` of smaller k and of K, each averaged over the disjoint blocks of k of the same weights: along divisors, never decreasing.
        num_samples: K.
    """

    log_px: Tensor
    ess: Tensor
    variance: Tensor
    bias_hint: Tensor | None
    num_samples: int
    curve: Mapping[int, Tensor] = field(default_factory=dict)


def importance(log_w: Tensor, curve: Sequence[int] = CURVE) -> ImportanceEstimate:
    """The estimate from all log-weights of some images.

    Args:
        log_w: log p(x, z) - log q(z|x) ``[K, B]``.
        curve: the k that the curve is asked for; those above K are left out.

    >>> import torch
    >>> estimate = importance(torch.tensor([[1.0], [3.0]], dtype=torch.float64).log())
    >>> round(estimate.log_px.exp().item(), 6), round(estimate.ess.item(), 6), round(estimate.curve[1].item(), 6)
    (2.0, 1.6, 0.549306)
    """
    weights = exact(log_w)
    k = len(weights)
    log_sum = weights.logsumexp(0)
    ess = (2 * log_sum - (2 * weights).logsumexp(0)).exp().clamp(1, k)
    log_px = log_sum - math.log(k)
    return ImportanceEstimate(
        log_px=log_px,
        ess=ess,
        variance=(1 / ess - 1 / k).clamp(min=0),
        bias_hint=log_px - blocks(weights, k // 2) if k > 1 else None,
        num_samples=k,
        curve={**{size: blocks(weights, size) for size in curve if size < k}, k: log_px},
    )


def blocks(log_w: Tensor, size: int) -> Tensor:
    """L_size ``[B]``: the mean over the disjoint blocks of ``size`` that the log-weights ``[K, B]`` hold; what is left over is not used."""
    whole = log_w[: len(log_w) // size * size].unflatten(0, (-1, size))
    return (whole.logsumexp(1) - math.log(size)).mean(0)


def low_ess_warning(ess: Tensor, threshold: float, share: float = 0.01) -> str | None:
    """The sentence that goes with an estimate whose weights are too uneven for its error bar to be believed; None if they are not.

    Args:
        ess: effective sample size of each image ``[N]``.
        threshold: what is too small.
        share: of the images that may lie below it.
    """
    below = (ess < threshold).double().mean().item()
    if below <= share:
        return None
    return f"effective sample size under {threshold:g} on {below:.0%} of the images: lower bound of log p(x), upper bound of the nll; the error bar does not cover log p(x)"


def few_weights_warning(ess: Tensor, num_samples: int) -> str | None:
    """The sentence that goes with an estimate from ``num_samples`` importance weights an image; None where the error bar can be believed.

    :data:`LOW_ESS` is what it takes. Fewer samples say as much where their weights are all but even: then q(z|x) is all but the posterior. A single one is even with itself and says nothing.
    """
    return low_ess_warning(ess, LOW_ESS if num_samples == 1 else min(LOW_ESS, EVEN * num_samples))


class ImportanceEstimator(Estimator):
    """-log p(x) by K importance samples from q(z|x), beside the bound.

    Args:
        num_samples: K.
        repetitions: samples an image that the bound is averaged over; others than the K.
        max_rows: samples that the decoder sees at once; None = by the kind of device. The noise of an image, K times its latent dimensions, and its K log-weights are kept whole.

    Raises:
        SettingError: a setting that is not a positive integer.
    """

    name = "importance"

    def __init__(self, num_samples: int = 5_000, repetitions: int = 8, max_rows: int | None = None) -> None:
        self.num_samples = integer("estimator.num_samples", num_samples, 1)
        self.limit = RowLimit(max_rows)
        self.bound = BoundEstimator(repetitions, max_rows)
        self.images_at_once = min(self.bound.images_at_once, max(1, NOISE_AT_ONCE // num_samples))

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        eps = draws.normal("posterior", (self.num_samples, model.noise_dim), repetition=1).transpose(0, 1)
        found = importance(log_weights(model, batch, eps, self.limit))
        columns = {"log_px": found.log_px, "log_px_variance": found.variance, "ess": found.ess}
        if found.bias_hint is not None:
            columns["bias_hint"] = found.bias_hint
        columns |= {f"log_px_{k}": values for k, values in found.curve.items()}
        return {**self.bound(model, batch, draws), **columns}

    def numbers(self, columns: Mapping[str, Tensor]) -> list[Number]:
        ess, hint = columns["ess"], columns.get("bias_hint")
        warning = few_weights_warning(ess, self.num_samples)
        number = Number(
            metric="nll",
            # a single weight does not tell how much such weights vary
            estimate=estimate(
                -columns["log_px"], columns["log_px_variance"] if self.num_samples > 1 else None
            ),
            estimator=self.name,
            num_samples=self.num_samples,
            is_evidence=True,
            ess=ess,
            bias_hint=None if hint is None else hint.mean().item(),
            curve={
                k: -columns[f"log_px_{k}"].mean().item()
                for k in sorted({*CURVE, self.num_samples})
                if k <= self.num_samples
            },
            warning=warning,
        )
        return [*self.bound.numbers(columns), number]

    def without_evidence(self) -> Estimator:
        return self.bound


def log_weights(model: Any, batch: Batch, eps: Tensor, limit: RowLimit) -> Tensor:
    """log p(x, z) - log q(z|x) ``[K, B]``, float64, of samples from noise ``eps [K, B, noise_dim]``; see :func:`vaelab.evidence.streamed`."""
    return streamed(model, batch, eps, limit, _log_w)


def _log_w(terms: Terms) -> Tensor:
    return exact(terms.log_w)
