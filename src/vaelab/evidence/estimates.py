"""Averages of per-image numbers, each with its two errors kept apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean over images.

    Attributes:
        value: the mean, nats per image unless a unit stands beside it.
        se_images: sampling error of the set of images: standard deviation over images / sqrt(N); None where it is not known.
        se_mc: standard error of the estimator's own noise given these images; None where it draws nothing, or where one draw cannot tell.
        num_images: N.
    """

    value: float
    se_images: float | None
    se_mc: float | None
    num_images: int


def exact(values: Tensor) -> Tensor:
    """``values`` in float64, on the CPU: not every device has it (MPS)."""
    return values.detach().cpu().double()


def estimate(values: Tensor, variance_mc: Tensor | None = None) -> Estimate:
    """The mean of ``values [N]`` in float64.

    Args:
        values: one number an image.
        variance_mc: variance of each by the estimator's own noise ``[N]``, the images taken as given.
    """
    images = exact(values)
    n = images.numel()
    se_images = (images.std(correction=1) / math.sqrt(n)).item() if n > 1 else math.nan
    se_mc = None if variance_mc is None else exact(variance_mc).sum().sqrt().item() / n
    return Estimate(value=images.mean().item(), se_images=se_images, se_mc=se_mc, num_images=n)
