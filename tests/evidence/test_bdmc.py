"""Bidirectional Monte Carlo: bounds on both sides of an evidence that is known."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import BlockDraws, LinearGaussian, pixel_model
from vaelab.errors import SettingError
from vaelab.evidence import AnnealedEstimator, Annealing, BidirectionalEstimator, bdmc, estimate
from vaelab.evidence.bdmc import simulated


def mean_and_error(values: Tensor) -> tuple[float, float]:
    found = estimate(values)
    assert found.se_images is not None
    return found.value, found.se_images


@pytest.mark.parametrize("start", Annealing.STARTS)
@pytest.mark.parametrize(
    "latent_dim, num_pixels, num_steps",
    [(2, 3, 4), (10, 12, 20), pytest.param(50, 60, 40, marks=pytest.mark.slow)],
)
def test_the_mean_bounds_enclose_the_evidence(
    latent_dim: int, num_pixels: int, num_steps: int, start: str
) -> None:
    oracle, count = LinearGaussian(latent_dim, num_pixels, "scaled"), 300
    settings = Annealing(num_chains=4, num_steps=num_steps, leapfrog_steps=3, start=start)
    found = bdmc(oracle.model, BlockDraws(11, count), settings)
    exact = oracle.evidence(found.batch.x)
    below, error_below = mean_and_error(found.lower - exact)
    above, error_above = mean_and_error(found.upper - exact)
    assert below < 3 * error_below
    assert above > -3 * error_above
    gap, error = mean_and_error(found.gap)
    assert start == "posterior" or gap > 3 * error, "too tight for the test to see a bound on the wrong side"
    assert gap == pytest.approx(above - below)


def test_the_mean_of_inverse_weights_is_one_over_the_evidence() -> None:
    """Over images, draws of the posterior and chains: an identity, not only a bound."""
    oracle, count = LinearGaussian(2, 3, "scaled"), 4000
    found = bdmc(oracle.model, BlockDraws(2, count), Annealing(num_chains=3, num_steps=4, leapfrog_steps=2))
    ratio = (oracle.evidence(found.batch.x) - found.upper).exp()
    assert (ratio.mean() - 1).abs() < 4 * ratio.std() / count**0.5
    ratio = (found.lower - oracle.evidence(found.batch.x)).exp()
    assert (ratio.mean() - 1).abs() < 4 * ratio.std() / count**0.5


def test_the_gap_closes_as_the_steps_double() -> None:
    oracle = LinearGaussian(4, 6, "scaled")
    gaps = []
    for num_steps in (2, 4, 8):
        settings = Annealing(num_chains=4, num_steps=num_steps, leapfrog_steps=3, start="prior")
        gaps.append(bdmc(oracle.model, BlockDraws(1, 200), settings).gap.mean().item())
    assert all(many < 0.8 * few for few, many in pairwise(gaps))


def test_with_one_step_the_bounds_are_one_importance_weight_each_way() -> None:
    oracle, draws = LinearGaussian(2, 3), BlockDraws(1, 5)
    found = bdmc(oracle.model, draws, Annealing(num_chains=6, num_steps=1, start="prior"))
    log_normal = (-0.5 * found.z.square() - 0.5 * math.log(2 * math.pi)).sum(-1)
    weight = oracle.model.log_joint(found.batch, found.z.unsqueeze(0))[0].detach() - log_normal
    torch.testing.assert_close(found.upper, weight)  # the same for each chain
    torch.testing.assert_close(found.upper_variance, torch.zeros(5).double())
    z = draws.normal("annealing", (6, 2)).transpose(0, 1)
    log_w = oracle.model.log_joint(found.batch, z).detach() + 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)  # fmt: skip
    torch.testing.assert_close(found.lower, log_w.logsumexp(0) - math.log(6))
    torch.testing.assert_close(found.gap_variance, found.lower_variance)


def test_images_and_draws_of_the_posterior_belong_together() -> None:
    oracle, count = LinearGaussian(2, 3), 20_000
    batch, z = simulated(oracle.model, BlockDraws(3, count))
    x = batch.x.flatten(1)
    q = oracle.model.infer(batch.x)
    white = torch.linalg.solve(torch.linalg.cholesky(oracle.covariance), (z - q.mean).unsqueeze(-1))
    white = white.squeeze(-1).detach()
    assert (white.T @ white / count - torch.eye(2)).abs().max() < 4.5 * (2 / count) ** 0.5
    assert (white.T @ (x - x.mean(0)) / count).abs().max() < 4.5 * x.std() / count**0.5
    assert x.isfinite().all()


def test_uniform_numbers_that_are_zero_make_no_pixel_at_the_far_end() -> None:
    class Zeros(BlockDraws):
        def uniform(self, purpose: str, shape: object, repetition: int = 0) -> Tensor:
            return torch.zeros(self.num_images, *shape)  # pyright: ignore[reportGeneralTypeIssues]

    oracle = LinearGaussian(2, 3)
    batch, z = simulated(oracle.model, Zeros(0, 4))
    mean = z @ oracle.weight.T + oracle.bias
    assert ((batch.x.flatten(1) - mean).abs() < 6 * 0.4).all()


@pytest.mark.parametrize("kind", ["hierarchical", "ladder", "top_down"])
def test_models_of_several_layers(kind: str) -> None:
    """Both bounds meet with many steps: simulated layers and log p(x, z) are of one model."""
    model, draws = pixel_model(kind), BlockDraws(0, 100)
    found = bdmc(model, draws, Annealing(num_chains=16, num_steps=16, leapfrog_steps=3))
    gap, error = mean_and_error(found.gap)
    assert -3 * error < gap < 0.05 + 3 * error
    assert error < 0.05
    assert len(set(draws.asked)) == len(draws.asked), "noise was taken twice"


def test_forwards_and_backwards_have_the_acceptance_they_were_adapted_to() -> None:
    oracle, seen = LinearGaussian(10, 12, "scaled"), []
    found = bdmc(oracle.model, BlockDraws(1, 20), Annealing(num_chains=8, num_steps=80, leapfrog_steps=3),
                 progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    for acceptance in (found.acceptance_forwards, found.acceptance_backwards):
        assert (acceptance.mean() - 0.65).abs() < 0.1
    assert seen == [(done, 240) for done in range(1, 241)]


def test_models_with_many_dimensions_are_refused_by_name() -> None:
    oracle = LinearGaussian(201, 2, num_images=1)
    with pytest.raises(SettingError, match="estimator=bdmc"):
        bdmc(oracle.model, BlockDraws(0, 1), Annealing())


def test_the_noise_of_the_upper_bound_is_not_known() -> None:
    """All backward chains of an image begin with one draw of its posterior: only other images show what another draw gives."""
    oracle = LinearGaussian(2, 3)
    estimator = BidirectionalEstimator(num_chains=4, num_steps=4, leapfrog_steps=2)
    numbers = estimator.numbers(estimator(oracle.model, oracle.batch, BlockDraws(0, len(oracle.batch.x))))
    known = {number.metric: number.estimate.se_mc is not None for number in numbers}
    assert known == {"log_px_lower": True, "log_px_upper": False, "log_px_gap": False}
    assert all(number.estimate.se_images is not None for number in numbers)
    assert all(number.acceptance is not None for number in numbers)


@pytest.mark.parametrize("estimator", [AnnealedEstimator, BidirectionalEstimator])
@pytest.mark.parametrize("share, warned", [(0.2, True), (0.65, False), (float("nan"), False)])
def test_chains_that_hardly_move_are_told(estimator: Any, share: float, warned: bool) -> None:
    columns = dict.fromkeys(
        ("log_px", "log_px_variance", "log_px_lower", "log_px_lower_variance", "log_px_upper", "log_px_gap"),
        torch.zeros(4),
    )
    columns |= dict.fromkeys(
        ("acceptance", "acceptance_forwards", "acceptance_backwards"), torch.full((4,), share)
    )
    numbers = estimator().numbers({**columns, "ess": torch.full((4,), 16.0)})
    assert all(("trajectories were accepted" in str(number.warning)) is warned for number in numbers)
