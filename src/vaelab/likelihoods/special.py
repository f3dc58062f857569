"""Special functions that torch lacks, stable in value and in gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_integral_exp(t: Tensor) -> Tensor:
    """A(t) = log of the integral of exp(t x) over x in [0, 1] = log((exp(t) - 1) / t), for any real t; A(0) = 0.

    The quotient is 0/0 at t = 0 and its gradient loses its digits nearby: there, a Taylor polynomial.
    """
    near = t.abs() < 0.2
    s = torch.where(near, t, 0.0).square()
    series = t / 2 + s * (1 / 24 - s * (1 / 2880 - s * (1 / 181440 - s / 9676800)))
    size = torch.where(near, 1.0, t.abs())
    return torch.where(near, series, t.clamp_min(0) + torch.log(-torch.expm1(-size) / size))


def mean_exp(t: Tensor) -> Tensor:
    """A'(t) = 1 / (1 - exp(-t)) - 1 / t, the mean of the density exp(t x - A(t)) on [0, 1]; A'(0) = 1/2."""
    near = t.abs() < 0.2
    s = torch.where(near, t, 0.0).square()
    series = 0.5 + t * (1 / 12 - s * (1 / 720 - s * (1 / 30240 - s / 1209600)))
    size = torch.where(near, 1.0, t.abs())
    mean = -1 / torch.expm1(-size) - 1 / size
    return torch.where(near, series, torch.where(t > 0, mean, 1 - mean))


def stirling_remainder(a: Tensor) -> Tensor:
    """log Gamma(a) - ((a - 1/2) log a - a + log(2 pi) / 2), for a > 0: what is left when the large terms cancel by hand."""
    small = a < 10
    s = torch.where(small, a, 1.0)
    direct = torch.lgamma(s) - ((s - 0.5) * torch.log(s) - s + 0.5 * math.log(2 * math.pi))
    r = torch.where(small, 0.1, a).reciprocal()
    q = r.square()
    return torch.where(small, direct, r * (1 / 12 - q * (1 / 360 - q * (1 / 1260 - q / 1680))))


#: factors of at most 2 that are multiplied before a logarithm is taken
FACTORS = 32


@torch.no_grad()
def sum_log1p_exp_(x: Tensor) -> Tensor:
    """sum_p log(1 + e^x_p) ``[...]`` of ``x [..., P]``, all at most 0, written over ``x``: one logarithm for 32 of them, of the product of 1 + e^x.

    Each factor lies in (1, 2] and is rounded once, so that the sum is as exact as one of float32 numbers of its size.

    >>> round(sum_log1p_exp_(torch.tensor([0.0, -1.0])).item(), 6)
    1.006409
    """
    factors, count = x.exp_().add_(1), 1
    while count < FACTORS and (width := factors.shape[-1]) > 1:
        half = width // 2
        product = factors[..., :half].mul_(factors[..., half : 2 * half])
        if width % 2:
            product[..., :1].mul_(factors[..., -1:])
        factors, count = product, 2 * count
    return factors.log().sum(-1)
