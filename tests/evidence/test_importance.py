"""The importance-weighted estimate: from its log-weights, and against models whose evidence is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from oracles import BlockDraws, LinearGaussian, repeated
from vaelab.evidence import ImportanceEstimator, Number, RowLimit, importance, log_weights, low_ess_warning
from vaelab.experiments.cards import cards
from vaelab.runs import Card


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
        "effective sample size under 100 on 1% of the images: lower bound of log p(x), upper bound of the nll; the error bar does not cover log p(x)"
    )


#: latent dimensions and pixels of models whose evidence is known
sizes = pytest.mark.parametrize("latent_dim, num_pixels", [(2, 3), (10, 12), (50, 60)])


@sizes
def test_with_the_exact_posterior_every_weight_is_the_evidence(latent_dim: int, num_pixels: int) -> None:
    oracle = LinearGaussian(latent_dim, num_pixels)
    eps = BlockDraws(0, 10).normal("posterior", (1_000, latent_dim)).transpose(0, 1)
    log_w = log_weights(oracle.model, oracle.batch, eps, RowLimit(700))
    assert (log_w.amax(0) - log_w.amin(0)).max() < 1e-9
    torch.testing.assert_close(log_w, oracle.log_px.expand_as(log_w), rtol=0, atol=1e-9)
    estimator = ImportanceEstimator(1_000)
    number = nll(estimator, estimator(oracle.model, oracle.batch, BlockDraws(0, 10)))
    assert number.estimate.value == pytest.approx(-oracle.log_px.mean().item(), abs=1e-9)
    assert number.estimate.se_mc == pytest.approx(0, abs=1e-9)
    assert number.warning is None


@pytest.mark.slow
@sizes
def test_two_standard_errors_cover_the_evidence_in_95_of_100_repetitions(
    latent_dim: int, num_pixels: int
) -> None:
    """q has 1.2 times the covariance of the posterior; the ten images stay the same."""
    oracle, times, at_once = LinearGaussian(latent_dim, num_pixels, "scaled"), 1_000, 10
    estimator, exact = ImportanceEstimator(1_000, repetitions=1), -oracle.log_px.mean().item()
    batch, numbers = repeated(oracle.batch, at_once), list[Number]()
    for seed in range(times // at_once):
        columns = estimator(oracle.model, batch, BlockDraws(seed, len(batch.x), torch.float32))
        for own in torch.arange(len(batch.x)).split(10):
            numbers.append(nll(estimator, {name: column[own] for name, column in columns.items()}))
    error = torch.tensor([number.estimate.value for number in numbers]) - exact
    se_mc = torch.tensor([number.estimate.se_mc for number in numbers])
    assert len(error) == times
    assert 0.930 <= (error.abs() <= 2 * se_mc).double().mean() <= 0.975
    assert error.mean() > -3 * error.std() / times**0.5, "an upper bound on -log p(x) in expectation"


def test_weights_that_are_too_uneven_are_warned_of_on_the_card() -> None:
    """The best q without correlations, of a posterior that has strong ones: the estimate falls short by much more than its error bar."""
    oracle = LinearGaussian(50, 60, "mean_field", gain=0.8)
    card = nll_card(oracle, 1_000)
    assert card.warning is not None
    assert "effective sample size under 100 on 100% of the images" in card.warning
    assert card.ess_median is not None
    assert card.ess_median < 20
    assert card.se_mc is not None
    exact = oracle.log_px.mean().item()
    assert -card.value < exact + 3 * card.se_mc
    assert -card.value < exact - 5 * card.se_mc, "without the warning the error bar would be believed"
    assert nll_card(LinearGaussian(50, 60, "scaled"), 1_000).warning is None


def nll(estimator: ImportanceEstimator, columns: dict[str, Tensor]) -> Number:
    (number,) = (number for number in estimator.numbers(columns) if number.metric == "nll")
    return number


def nll_card(oracle: LinearGaussian, num_samples: int) -> Card:
    estimator = ImportanceEstimator(num_samples)
    columns = estimator(oracle.model, oracle.batch, BlockDraws(0, 10))
    made = cards(
        {name: column.numpy() for name, column in columns.items()}, estimator, split="test",
        protocol={"label": "nll", "dequantize": False}, num_pixels=60, checkpoint="", seconds=0.0, closed_form=False,
    )  # fmt: skip
    return next(card for card in made if card.metric == "nll")


@pytest.mark.parametrize(
    "num_samples, ess, warned",
    [
        (1000, 99.0, True),
        (1000, 101.0, False),
        (150, 99.0, True),
        (50, 44.0, True),
        (50, 49.9, False),
        (1, 1.0, True),
    ],
)
def test_under_a_hundred_is_few_unless_the_weights_are_all_but_even(
    num_samples: int, ess: float, warned: bool
) -> None:
    columns = {name: torch.zeros(8) for name in ("log_px", "log_px_variance", "bias_hint", "elbo", "rate", "distortion", "elbo_variance",
                                                "rate_variance", "distortion_variance", *(f"log_px_{k}" for k in (1, 10, 50, 100, 150, 1000)))}  # fmt: skip
    columns["ess"] = torch.full((8,), ess)
    nll = ImportanceEstimator(num_samples).numbers(columns)[-1]
    assert (nll.warning is not None) is warned
    assert (nll.estimate.se_mc is None) is (num_samples == 1), (
        "one weight does not tell how much such weights vary"
    )
