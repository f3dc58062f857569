"""The terms of the bound: closed forms against sampling, exact evidence of a linear-Gaussian model."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from oracles import D, Oracle
from vaelab.evidence import RowLimit, bound_of, importance, streamed
from vaelab.models import Terms, closed_form_kl
from vaelab.objectives import ELBO
from vaelab.posteriors import LogVarianceNormal, NormalPosterior
from vaelab.priors import StandardNormalPrior


def test_with_the_exact_posterior_every_weight_is_the_evidence() -> None:
    oracle = Oracle(exact=True)
    log_w = oracle.model(oracle.batch, oracle.eps(50)).log_w
    torch.testing.assert_close(log_w, oracle.log_px.expand(50, -1), rtol=0, atol=1e-9)


def test_the_bound_lies_below_the_evidence_by_the_kl_to_the_true_posterior() -> None:
    oracle, exact = Oracle(exact=False), Oracle(exact=True)
    q, p = (o.model.infer(oracle.batch.x) for o in (oracle, exact))
    gap = torch.distributions.kl_divergence(q, p)
    values = bound_of(oracle.model(oracle.batch, oracle.eps(20_000)), closed_form=True)
    assert values.elbo_variance is not None
    assert ((values.elbo - (oracle.log_px - gap)).abs() < 4.5 * values.elbo_variance.sqrt()).all()
    assert (gap > 0.01).all(), "the test would not see a missing term"


def log_w(oracle: Oracle, num_samples: int, max_rows: int) -> Tensor:
    eps = oracle.eps(num_samples)
    return streamed(oracle.model, oracle.batch, eps, RowLimit(max_rows), lambda terms: terms.log_w)


def test_importance_weighting_closes_the_gap() -> None:
    oracle = Oracle(exact=False)
    one = bound_of(oracle.model(oracle.batch, oracle.eps(1000)), closed_form=True).elbo
    estimate = importance(log_w(oracle, 5000, max_rows=1000))
    error = (estimate.log_px - oracle.log_px).abs()
    assert (error < 4.5 * estimate.variance.sqrt() + 1e-12).all()
    assert (error < 0.1 * (oracle.log_px - one)).all()


def test_the_error_of_the_estimate_is_that_of_the_mean_weight() -> None:
    estimate = importance(torch.tensor([[1.0], [3.0]], dtype=torch.float64).log())
    # mean 2, variance 1: the mean of two has relative variance 1 / 2**2 / 2
    torch.testing.assert_close(estimate.variance, torch.tensor([0.125], dtype=torch.float64))
    torch.testing.assert_close(estimate.ess, torch.tensor([1.6], dtype=torch.float64))


def test_importance_does_not_depend_on_the_parts_it_comes_in() -> None:
    oracle = Oracle(exact=False)
    whole = importance(log_w(oracle, 100, max_rows=10_000))
    parts = importance(log_w(oracle, 100, max_rows=7 * 13))
    for name in ("log_px", "ess", "variance"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kl", ["closed_form", "monte_carlo"])
def test_the_gradient_is_that_of_finite_differences(kl: str) -> None:
    oracle = Oracle(exact=False)
    objective, eps = ELBO(beta=1.7, num_samples=3, kl=kl), oracle.eps(3)
    parameters = [p for p in oracle.model.parameters() if p.requires_grad]

    def value() -> Tensor:
        return objective(oracle.model(oracle.batch, eps), 0, 7).value.sum()

    gradients = torch.autograd.grad(value(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        numeric = torch.zeros_like(gradient)
        for place in itertools.product(*map(range, parameter.shape)):
            kept, sides = parameter.data[place].item(), []
            for side in (1e-6, -1e-6):
                parameter.data[place] = kept + side
                sides.append(value().item())
            parameter.data[place] = kept
            numeric[place] = (sides[0] - sides[1]) / 2e-6
        torch.testing.assert_close(gradient, numeric, rtol=1e-5, atol=1e-6)


def test_closed_form_kl_is_the_mean_of_log_q_minus_log_p() -> None:
    sigma = torch.tensor([[0.3, 1.8]]).double()
    q = Independent(LogVarianceNormal(torch.tensor([[0.5, -1.0]]).double(), 2 * sigma.log()), 1)
    p = StandardNormalPrior(2).double()()
    kl = closed_form_kl(q, p)
    assert kl is not None
    mu, var = q.base_dist.mean, q.base_dist.variance
    torch.testing.assert_close(kl, -0.5 * (1 + var.log() - mu.square() - var))
    torch.testing.assert_close(kl, closed_form_kl(Independent(Normal(mu, sigma), 1), p))
    z = q.base_dist.mean + q.base_dist.stddev * torch.randn(
        1_000_000, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    draws = q.log_prob(z) - p.log_prob(z)
    standard_error = draws.std() / 1000
    assert (draws.mean() - kl.sum()).abs() < 4 * standard_error


def test_the_rate_in_closed_form_is_never_negative() -> None:
    features = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    kl = closed_form_kl(NormalPosterior(4, 6).distribution(5 * features), StandardNormalPrior(6)())
    assert kl is not None
    assert (kl >= 0).all()
    assert kl.shape == (500, 6)


def test_log_q_of_the_sample_is_the_density_of_the_distribution() -> None:
    posterior = NormalPosterior(4, 6).double()
    eps = torch.randn(3, 5, 6, dtype=torch.float64)
    sample = posterior(torch.randn(5, 4, dtype=torch.float64), eps)
    torch.testing.assert_close(sample.log_q, sample.distribution.log_prob(sample.z))


def test_log_joint_is_log_p_of_z_and_x() -> None:
    oracle = Oracle(exact=False)
    z = torch.randn(4, 7, D, dtype=torch.float64, requires_grad=True)
    log_joint = oracle.model.log_joint(oracle.batch, z)
    decoded = oracle.model.decode(z).log_prob(oracle.batch.x)
    torch.testing.assert_close(log_joint, decoded - 0.5 * z.square().sum(-1) - math.log(2 * math.pi))
    (gradient,) = torch.autograd.grad(log_joint.sum(), z)
    assert gradient.abs().min() > 0


def test_inference_and_generative_parameters_are_all_and_apart() -> None:
    model = Oracle(exact=False).model
    inference, generative = (
        {id(p) for p in ps} for ps in (model.inference_parameters(), model.generative_parameters())
    )
    assert not inference & generative
    assert inference | generative == {id(p) for p in model.parameters()}


def test_terms_without_a_closed_form_take_the_rate_from_the_samples() -> None:
    oracle = Oracle(exact=False)
    terms = oracle.model(oracle.batch, oracle.eps(5))
    (layer,) = terms.layers
    assert terms.has_closed_form_kl
    torch.testing.assert_close(terms.rate(closed_form=False), (layer.log_q - layer.log_p).mean(0))
    sampled = bound_of(Terms(terms.log_px, terms.layers), closed_form=False)
    torch.testing.assert_close(sampled.elbo, terms.log_w.mean(0))
