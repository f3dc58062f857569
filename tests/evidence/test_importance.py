"""The importance-weighted estimate from its log-weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vaelab.evidence import importance, low_ess_warning


def weights(k: int, images: int = 5, seed: int = 0) -> Tensor:
    return 2 * torch.randn(k, images, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_curve_never_falls_along_divisors_and_ends_at_the_estimate() -> None:
    estimate = importance(weights(5_000))
    assert tuple(estimate.curve) == (1, 10, 100, 1_000, 5_000)
    values = torch.stack(list(estimate.curve.values()))
    assert (values.diff(dim=0) > 0).all()
    torch.testing.assert_close(values[-1], estimate.log_px)
    torch.testing.assert_close(values[0], weights(5_000).mean(0))


def test_a_point_of_the_curve_is_a_mean_over_disjoint_blocks() -> None:
    log_w = weights(23)
    expected = torch.stack([log_w[:10].exp().mean(0).log(), log_w[10:20].exp().mean(0).log()]).mean(0)
    torch.testing.assert_close(importance(log_w).curve[10], expected)


def test_the_hint_at_the_bias_is_the_gain_over_half_as_many_samples() -> None:
    log_w = weights(8)
    halves = torch.stack([half.exp().mean(0).log() for half in log_w.chunk(2)]).mean(0)
    hint = importance(log_w).bias_hint
    assert hint is not None
    torch.testing.assert_close(hint, log_w.exp().mean(0).log() - halves)
    assert importance(weights(1)).bias_hint is None


def test_the_hint_is_about_the_bias_where_the_weights_are_even() -> None:
    """log-normal weights of variance s^2: E w = exp(s^2 / 2); L_K is about (e^(s^2) - 1) / (2 K) below its logarithm."""
    s, k = 0.5, 40
    log_w = s * weights(k, images=200_000) / 2
    estimate = importance(log_w)
    bias = (estimate.log_px - s**2 / 2).mean().item()
    assert bias == pytest.approx(-math.expm1(s**2) / (2 * k), rel=0.15)
    assert estimate.bias_hint is not None
    assert estimate.bias_hint.mean().item() == pytest.approx(-bias, rel=0.15)
    spread = estimate.log_px.var().item()
    assert estimate.variance.mean().item() == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize("shift", [-5_000.0, 0.0, 5_000.0])
def test_nothing_overflows(shift: float) -> None:
    estimate, plain = importance(weights(100) + shift), importance(weights(100))
    torch.testing.assert_close(estimate.log_px - shift, plain.log_px, rtol=0, atol=1e-9)
    torch.testing.assert_close(estimate.ess, plain.ess, rtol=1e-8, atol=0)


def test_equal_weights_have_no_error_and_an_effective_size_of_all() -> None:
    estimate = importance(torch.full((50, 3), -87.3, dtype=torch.float64))
    torch.testing.assert_close(estimate.ess, torch.full((3,), 50.0, dtype=torch.float64))
    assert (estimate.variance < 1e-15).all()


def test_the_warning_comes_with_more_than_one_image_in_a_hundred() -> None:
    ess = torch.full((1_000,), 500.0)
    ess[:10] = 99.0
    assert low_ess_warning(ess, 100) is None
    ess[:11] = 99.0
    assert low_ess_warning(ess, 100) == (
        "effective sample size under 100 on 1% of the images: lower bound, the error bar does not cover log p(x)"
    )
