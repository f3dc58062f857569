"""The importance-weighted estimate of log p(x), with its error and its effective sample size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaelab.batch import Batch
from vaelab.evidence.estimates import exact


@dataclass(frozen=True)
class ImportanceEstimate:
    """L_K = log 1/K sum_k w_k of B images.

    Attributes:
        log_px: L_K ``[B]``, float64, nats. Its expectation is at most log p(x): a stochastic lower bound.
        ess: effective sample size (sum w)^2 / sum w^2 ``[B]``, from 1 to K.
        variance: variance of L_K by its own noise ``[B]``, by the delta method: 1/ESS - 1/K. Too small where the effective sample size is small.
        num_samples: K.
    """

    log_px: Tensor
    ess: Tensor
    variance: Tensor
    num_samples: int


class ImportanceAccumulator:
    """Takes log-weights in parts along K and keeps three numbers an image, in float64: memory does not grow with K.

    >>> import torch
    >>> accumulator = ImportanceAccumulator()
    >>> for part in (torch.zeros(3, 2), torch.zeros(1, 2)):
    ...     accumulator.update(part)
    >>> accumulator.compute().log_px.round(decimals=12)
    tensor([0., 0.], dtype=torch.float64)
    """

    def __init__(self) -> None:
        self._log_sum: Tensor | None = None  # log sum w
        self._log_sum_squares: Tensor | None = None  # log sum w^2
        self._count = 0

    def update(self, log_w: Tensor) -> None:
        """Add log-weights ``[k, B]``."""
        weights = exact(log_w)
        log_sum, log_sum_squares = weights.logsumexp(0), (2 * weights).logsumexp(0)
        if self._log_sum is not None and self._log_sum_squares is not None:
            log_sum = torch.logaddexp(self._log_sum, log_sum)
            log_sum_squares = torch.logaddexp(self._log_sum_squares, log_sum_squares)
        self._log_sum, self._log_sum_squares = log_sum, log_sum_squares
        self._count += len(weights)

    def compute(self) -> ImportanceEstimate:
        if self._log_sum is None or self._log_sum_squares is None:
            raise ValueError("no log-weights were given")
        ess = (2 * self._log_sum - self._log_sum_squares).exp()
        return ImportanceEstimate(
            log_px=self._log_sum - math.log(self._count),
            ess=ess,
            variance=(1 / ess - 1 / self._count).clamp(min=0),
            num_samples=self._count,
        )


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
    return f"effective sample size under {threshold:g} on {below:.0%} of the images: lower bound, the error bar does not cover log p(x)"


@torch.no_grad()
def importance(model: nn.Module, batch: Batch, eps: Tensor, max_rows: int) -> ImportanceEstimate:
    """L_K of a batch, streamed: the decoder never sees more than ``max_rows`` samples at once.

    Args:
        model: (batch, eps) -> :class:`vaelab.models.Terms`.
        batch: B images.
        eps: all the noise ``[K, B, noise_dim]``.
        max_rows: bound on k * B of a part; at least B.
    """
    accumulator = ImportanceAccumulator()
    for part in eps.split(max(1, max_rows // eps.shape[1])):
        accumulator.update(model(batch, part).log_w)
    return accumulator.compute()
