"""The special functions against quadrature and the standard library."""

from __future__ import annotations

import math

import numpy as np
import torch

from vaelab.likelihoods.special import log_integral_exp, mean_exp, stirling_remainder

NEAR = [0.0, 1e-300, 1e-12, 1e-7, 1e-3, 0.1, 0.1999, 0.2, 0.2001, 0.5, 1.0, 3.0]
T = torch.tensor([*NEAR, *(-t for t in NEAR)], dtype=torch.float64)


def test_log_integral_exp_and_its_derivative_against_quadrature() -> None:
    nodes, weights = (torch.as_tensor(a) / 2 for a in np.polynomial.legendre.leggauss(30))
    x = nodes + 0.5
    t = T.clone().requires_grad_()
    e = torch.exp(T[:, None] * x) * weights
    value = log_integral_exp(t)
    (derivative,) = torch.autograd.grad(value.sum(), t, create_graph=True)
    (second,) = torch.autograd.grad(derivative.sum(), t)
    mean = (e * x).sum(-1) / e.sum(-1)
    variance = (e * x.square()).sum(-1) / e.sum(-1) - mean.square()
    torch.testing.assert_close(value.detach(), e.sum(-1).log(), atol=2e-15, rtol=1e-13)
    torch.testing.assert_close(derivative.detach(), mean, atol=1e-13, rtol=0)
    torch.testing.assert_close(mean_exp(T), mean, atol=1e-13, rtol=0)
    torch.testing.assert_close(second, variance, atol=1e-10, rtol=0)


def test_log_integral_exp_far_out() -> None:
    t = torch.tensor([1e4, -1e4, 1e30, -1e30])
    expected = torch.tensor([1e4 - math.log(1e4), -math.log(1e4), 1e30, -math.log(1e30)])
    torch.testing.assert_close(log_integral_exp(t), expected)
    torch.testing.assert_close(mean_exp(t), torch.tensor([1 - 1e-4, 1e-4, 1.0, 0.0]))


def test_float32_keeps_its_digits_near_zero() -> None:
    t = torch.linspace(-0.5, 0.5, 1001)
    torch.testing.assert_close(mean_exp(t).double(), mean_exp(t.double()), atol=1e-6, rtol=0)
    torch.testing.assert_close(log_integral_exp(t).double(), log_integral_exp(t.double()), atol=2e-7, rtol=0)


def test_stirling_remainder_is_what_lgamma_leaves() -> None:
    a = torch.tensor([1e-3, 0.1, 1.0, 2.5, 9.99, 10.0, 10.01, 50.0, 1e3], dtype=torch.float64)
    expected = [
        math.lgamma(v) - ((v - 0.5) * math.log(v) - v + 0.5 * math.log(2 * math.pi)) for v in a.tolist()
    ]
    torch.testing.assert_close(
        stirling_remainder(a), torch.tensor(expected, dtype=torch.float64), atol=3e-12, rtol=1e-12
    )
    t = a.clone().requires_grad_()
    assert torch.autograd.gradcheck(stirling_remainder, t)
