"""Objectives on linear-Gaussian models, whose evidence is known, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from oracles import Oracle, pixel_model
from vaelab.batch import Batch
from vaelab.errors import SettingError
from vaelab.models import Terms, Traits
from vaelab.objectives import (
    CIWAE,
    DIP,
    ELBO,
    IWAE,
    MIWAE,
    MMD,
    PIWAE,
    STL,
    BetaTC,
    CapacitySchedule,
    CyclicalSchedule,
    DReG,
    FreeBits,
    Objective,
)
from vaelab.objectives.disentangled import minibatch_weights, mmd_to_standard_normal, stratified_weights

N = 100  # training images


def terms(oracle: Oracle, num_samples: int, repetition: int = 0) -> Terms:
    return oracle.model(oracle.batch, oracle.eps(num_samples, repetition))


def value(objective: Objective, oracle: Oracle, repetition: int = 0) -> Tensor:
    return objective(terms(oracle, objective.num_samples, repetition), 0, N).value


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_more_samples_a_bound_never_loosen_it() -> None:
    same = terms(Oracle(exact=False), 60)
    bounds = [MIWAE(60, 60 // k)(same, 0, N).value.mean() for k in (1, 2, 4, 12, 60)]
    assert all(later >= earlier for earlier, later in itertools.pairwise(bounds))
    torch.testing.assert_close(bounds[-1], IWAE(60)(same, 0, N).value.mean())
    torch.testing.assert_close(bounds[0], ELBO(1, 60, "monte_carlo")(same, 0, N).value.mean())


def test_importance_weighted_bounds_lie_below_the_evidence_and_close_in_on_it() -> None:
    oracle, gaps = Oracle(exact=False), []
    for k in (1, 5, 25):
        blocks = 100_000 // k
        draws = MIWAE(k * blocks, blocks)
        log_w = oracle.model(oracle.batch, oracle.eps(k * blocks)).log_w
        each = torch.logsumexp(log_w.unflatten(0, (blocks, k)), 1) - np.log(k)
        standard_error = each.std(0) / blocks**0.5
        assert (each.mean(0) <= oracle.log_px + 3 * standard_error).all()
        torch.testing.assert_close(each.mean(0), draws(terms(oracle, k * blocks), 0, N).value)
        gaps.append((oracle.log_px - each.mean(0)).mean().item())
    assert gaps[0] > 3 * gaps[1] > 3 * gaps[2] > 0


@pytest.mark.parametrize(
    "objective",
    [ELBO(kl="monte_carlo"), IWAE(7), MIWAE(8, 2), PIWAE(8, 2), CIWAE(0.3, 4), STL(), DReG(5)],
    ids=lambda o: type(o).__name__,
)
def test_at_the_exact_posterior_every_bound_is_the_evidence(objective: Objective) -> None:
    oracle = Oracle(exact=True)
    torch.testing.assert_close(value(objective, oracle), oracle.log_px, rtol=0, atol=1e-9)


def test_the_mixed_bound_lies_between_its_ends() -> None:
    same = terms(Oracle(exact=False), 10)
    elbo, iwae = CIWAE(1.0, 10)(same, 0, N).value, CIWAE(0.0, 10)(same, 0, N).value
    torch.testing.assert_close(elbo, ELBO(1, 10, "monte_carlo")(same, 0, N).value)
    torch.testing.assert_close(iwae, IWAE(10)(same, 0, N).value)
    torch.testing.assert_close(CIWAE(0.25, 10)(same, 0, N).value, 0.25 * elbo + 0.75 * iwae)


def test_free_bits_cost_nothing_and_the_rest_costs_its_kl() -> None:
    same = terms(Oracle(exact=False), 1)
    (kl,) = same.kls
    least, most = kl.min().item(), kl.max().item()
    torch.testing.assert_close(FreeBits(least / 2)(same, 0, N).value, ELBO()(same, 0, N).value)
    floor = FreeBits(2 * most)(same, 0, N)
    torch.testing.assert_close(floor.value, same.log_px[0] - 2 * 2 * most)
    between = (least + most) / 2
    torch.testing.assert_close(
        FreeBits(between)(same, 0, N).value, same.log_px[0] - kl[0].clamp(min=between).sum(-1)
    )


def test_a_capacity_is_charged_on_both_sides() -> None:
    same = terms(Oracle(exact=False), 1)
    schedule = CapacitySchedule(end=2.0, warmup_epochs=10)
    got = ELBO(beta=3.0, schedule=schedule)(same, 5, N).value
    torch.testing.assert_close(got, same.log_px[0] - 3 * (same.rate(True) - 1.0).abs())


def test_the_cycle_begins_again() -> None:
    schedule = CyclicalSchedule(cycle_epochs=2, rise=0.5, steps_per_epoch=10)
    assert [schedule(step) for step in (0, 5, 10, 19, 20, 25)] == [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [ELBO(2.0), ELBO(1.5, 3, "monte_carlo"), FreeBits(0.3), IWAE(4), MIWAE(4, 2), CIWAE(0.3, 4), BetaTC(3.0), BetaTC(3.0, sampling="weighted"), DIP("i"), DIP("ii"), MMD(scale=5.0)],
    ids=lambda o: type(o).__name__,
)  # fmt: skip
def test_the_gradient_is_that_of_finite_differences(objective: Objective) -> None:
    oracle = Oracle(exact=False)

    def loss() -> Tensor:
        result = objective(terms(oracle, objective.num_samples), 0, N)
        return result.surrogate.sum() - (0 if result.penalty is None else result.penalty)

    parameters = list(oracle.model.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for place in itertools.islice(itertools.product(*map(range, parameter.shape)), 3):
            kept, sides = parameter.data[place].item(), []
            for side in (1e-6, -1e-6):
                parameter.data[place] = kept + side
                sides.append(loss().item())
            parameter.data[place] = kept
            assert gradient[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5, abs=1e-6)


def quadrature(dims: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Points ``[n, dims]`` and weights ``[n]`` that integrate polynomials against N(0, I)."""
    points, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(nodes))
    grid = torch.cartesian_prod(*[points] * dims).view(-1, dims)
    return grid, torch.cartesian_prod(*[weights / weights.sum()] * dims).view(-1, dims).prod(1)


@pytest.mark.parametrize("kind, objective, nodes", [
    ("vae", STL(), 40), ("vae", DReG(1), 40), ("vae", DReG(3), 24), ("vae", PIWAE(4, 2), 12), ("vae", DReG(3, beta=0.4), 24), ("vae", STL(beta=0.4), 40),
    ("hierarchical", STL(), 40), ("hierarchical", DReG(2), 16), ("hierarchical", PIWAE(2, 2), 16),
])  # fmt: skip
def test_surrogates_have_the_gradient_of_their_bound_in_expectation(
    kind: str, objective: Objective, nodes: int
) -> None:
    """The expectation over all noise is an integral, taken exactly enough by quadrature: a node stands for an image."""
    model, k = pixel_model(kind), objective.num_samples
    grid, weights = quadrature(model.noise_dim * k, nodes)
    eps = grid.unflatten(1, (k, model.noise_dim)).transpose(0, 1)
    index = torch.zeros(len(grid), dtype=torch.int64)
    batch = Batch(torch.full((len(grid), 1, 1, 1), 0.8, dtype=torch.float64), index, index)
    result = objective(model(batch, eps), 0, N)
    bound: dict[str, Callable[[], Tensor]] = {
        "PIWAE": lambda: MIWAE(k, objective.num_bounds)(model(batch, eps), 0, N).value,  # pyright: ignore[reportAttributeAccessIssue]
    }
    of_q = bound.get(type(objective).__name__, lambda: result.value)()
    surrogate_of_q = result.surrogate if result.inference_surrogate is None else result.inference_surrogate
    for surrogate, exact, parameters in (
        (surrogate_of_q, of_q, model.inference_parameters()),
        (result.surrogate, result.value, model.generative_parameters()),
    ):
        close(
            gradient(surrogate @ weights, parameters := list(parameters)),
            gradient(exact @ weights, parameters),
        )


@pytest.mark.parametrize("kind", ["ladder", "top_down"])
def test_the_path_derivative_where_q_and_p_share_parameters(kind: str) -> None:
    model = pixel_model(kind)
    grid, weights = quadrature(model.noise_dim, 40 if model.noise_dim == 2 else 24)
    index = torch.zeros(len(grid), dtype=torch.int64)
    batch = Batch(torch.full((len(grid), 1, 1, 1), 0.8, dtype=torch.float64), index, index)
    result = STL()(model(batch, grid.unsqueeze(0)), 0, N)
    parameters = list(model.parameters())
    close(gradient(result.surrogate @ weights, parameters), gradient(result.value @ weights, parameters))
    plain = ELBO(kl="closed_form")(model(batch, grid.unsqueeze(0)), 0, N)
    close(gradient(plain.surrogate @ weights, parameters), gradient(result.value @ weights, parameters))


@pytest.mark.parametrize("kind", ["vae", "hierarchical", "ladder", "top_down"])
def test_the_evidence_is_the_same_from_q_and_from_the_prior(kind: str) -> None:
    """E_q w = E_p p(x|z) = p(x), integrals over the noise: inference, densities and sampling speak of one model."""
    model = pixel_model(kind)
    x = torch.full((1, 1, 1), 0.8, dtype=torch.float64)
    nodes = 60 if model.noise_dim < 3 else 40
    grid, weights = quadrature(model.noise_dim, nodes)
    index = torch.zeros(len(grid), dtype=torch.int64)
    log_w = model(Batch(x.expand(len(grid), 1, 1, 1), index, index), grid.unsqueeze(0)).log_w[0]
    grid_p, weights_p = quadrature(model.prior_noise_dim, nodes)
    evidence = weights_p @ model.sample(grid_p).log_prob(x).exp()
    torch.testing.assert_close(weights @ log_w.exp(), evidence, rtol=1e-5, atol=0)
    assert (log_w - evidence.log()).abs().max() > 0.1, "an exact q would show nothing"


def test_log_q_with_constant_parameters_moves_with_z_alone() -> None:
    """In expectation a gradient through the parameters of q adds nothing, so that no bound would show it: here z = mu + sigma eps, sample by sample."""
    model: Any = pixel_model("top_down")
    index = torch.zeros(5, dtype=torch.int64)
    batch = Batch(torch.full((5, 1, 1, 1), 0.8, dtype=torch.float64), index, index)
    eps = torch.linspace(-2, 2, 15, dtype=torch.float64).view(1, 5, 3)
    lowest = model(batch, eps).layers[0]
    torch.testing.assert_close(lowest.log_q_stopped, lowest.log_q)
    bias = model.path.scales[0][-1].posterior.rest[-1].bias  # mu, log sigma^2
    (of_mean, of_log_variance) = gradient(lowest.log_q_stopped.sum(), [bias])[0]
    score = -eps[..., :1] / lowest.posterior.stddev  # d log q / dz
    torch.testing.assert_close(of_mean, score.sum())
    torch.testing.assert_close(of_log_variance, (score * lowest.posterior.stddev * eps[..., :1] / 2).sum())


def gradient(loss: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(parameters), retain_graph=True))


def close(got: list[Tensor], expected: list[Tensor]) -> None:
    assert max(g.abs().max() for g in expected) > 0.01, "nothing to see"
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_at_the_exact_posterior_the_path_derivative_has_no_variance() -> None:
    oracle = Oracle(exact=True)
    inference = list(oracle.model.inference_parameters())
    for repetition in range(3):
        stl = STL()(terms(oracle, 1, repetition), 0, N).surrogate.sum()
        plain = ELBO(kl="monte_carlo")(terms(oracle, 1, repetition), 0, N).surrogate.sum()
        assert max(g.abs().max() for g in gradient(stl, inference)) < 1e-9
        assert max(g.abs().max() for g in gradient(plain, inference)) > 0.1


def test_signal_to_noise_grows_with_samples_for_dreg_and_falls_for_iwae() -> None:
    oracle = Oracle(exact=False)
    weight = oracle.model.posterior.mean.weight

    def snr(kind: type[IWAE] | type[DReG], k: int) -> float:
        draws = []
        for repetition in range(400):
            result = kind(k)(terms(oracle, k, repetition), 0, N)
            loss = result.value if result.inference_surrogate is None else result.inference_surrogate
            draws.append(gradient(loss.sum(), [weight])[0].flatten())
        stacked = torch.stack(draws)
        return (stacked.mean(0).abs() / stacked.std(0)).mean().item()

    assert snr(DReG, 64) > 1.5 * snr(DReG, 4)
    assert snr(IWAE, 64) < 0.8 * snr(IWAE, 4)


# -- the aggregate posterior -------------------------------------------------------------------------------------------


def test_stratified_weights_give_the_aggregate_posterior_on_average_over_minibatches() -> None:
    num_images, batch_size = 5, 3
    q = torch.rand(num_images, dtype=torch.float64)  # q(z|x_n) at one z, which comes from image 0
    weights = stratified_weights(batch_size, num_images)
    for place in range(batch_size):  # of image 0 in the batch
        estimates = []
        for order in itertools.permutations(range(1, num_images), batch_size - 1):
            batch = [*order[:place], 0, *order[place:]]
            estimates.append((weights[place] * q[batch]).sum())
        torch.testing.assert_close(torch.stack(estimates).mean(), q.mean())


def test_weighted_minibatches_are_right_when_they_hold_every_image() -> None:
    q = torch.rand(4, dtype=torch.float64)
    # each image stands for N of N: 1 / (N B) summed over B of N images is 1 / N of their mean
    torch.testing.assert_close((minibatch_weights(4, 4)[0] * q).sum() * 4, q.mean())


def test_the_kl_taken_apart_adds_up_to_itself() -> None:
    oracle = Oracle(exact=False)
    same = terms(oracle, 1)
    torch.testing.assert_close(BetaTC(1.0)(same, 0, N).value, ELBO(kl="monte_carlo")(same, 0, N).value)
    (layer,) = same.layers
    assert layer.mean is not None
    assert layer.stddev is not None
    q = Normal(layer.mean, layer.stddev)
    z = layer.z[0]
    brute = torch.stack([q.log_prob(z[i]) for i in range(len(z))])  # [i, j, D]
    weights = stratified_weights(len(z), N)
    log_qz = (weights * brute.sum(-1).exp()).sum(1).log()
    log_product = (weights[..., None] * brute.exp()).sum(1).log().sum(-1)
    extra = BetaTC(3.0)(same, 0, N).value - BetaTC(1.0)(same, 0, N).value
    torch.testing.assert_close(extra, -2 * (log_qz - log_product))
    extra = BetaTC(1.0, mutual_information=2.0)(same, 0, N).value - BetaTC(1.0)(same, 0, N).value
    torch.testing.assert_close(extra, -(layer.log_q[0] - log_qz))


@pytest.mark.parametrize("kind", ["i", "ii"])
def test_the_covariance_is_that_over_images(kind: str) -> None:
    same = terms(Oracle(exact=False), 1)
    (layer,) = same.layers
    assert layer.mean is not None
    assert layer.stddev is not None
    covariance = np.cov(layer.mean.detach().numpy().T, bias=True)
    if kind == "ii":
        covariance = covariance + np.diag(layer.stddev.square().mean(0).detach().numpy())
    off = covariance - np.diag(np.diag(covariance))
    expected = 3 * (off**2).sum() + 5 * ((np.diag(covariance) - 1) ** 2).sum()
    penalty = DIP(kind, 3.0, 5.0)(same, 0, N).penalty
    assert penalty is not None
    assert penalty.item() == pytest.approx(expected, rel=1e-10)


def test_the_distance_to_the_standard_normal_is_that_of_many_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    z = 0.5 + 1.3 * torch.randn(60, 2, dtype=torch.float64, generator=generator)
    prior = torch.randn(4000, 2, dtype=torch.float64, generator=generator)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / (2 * 1.7))

    within = kernel(z, z)
    among = kernel(prior, prior)
    brute = (
        (within.sum() - within.diagonal().sum()) / (60 * 59)
        - 2 * kernel(z, prior).mean()
        + (among.sum() - among.diagonal().sum()) / (4000 * 3999)
    )
    assert mmd_to_standard_normal(z, 1.7).item() == pytest.approx(brute.item(), abs=5e-3)
    assert mmd_to_standard_normal(prior, 1.7).abs() < 2e-3 < mmd_to_standard_normal(z, 1.7)


# -- what means nothing ------------------------------------------------------------------------------------------------

REFUSED: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: ELBO(kl="closed_form", traits=Traits(closed_form_kl=False)), "objective.kl", "use auto or monte_carlo"),
    (lambda: FreeBits(traits=Traits(kl_per_dimension=False)), "objective", "use objective=elbo"),
    (lambda: STL(num_samples=2), "objective.num_samples", "use objective=dreg"),
    (lambda: STL(traits=Traits(fast_density=False)), "objective", "posterior.kind=coupling"),
    (lambda: DReG(traits=Traits(fast_density=False)), "objective", "posterior.kind=coupling"),
    (lambda: DReG(traits=Traits(parameters_apart=False)), "objective", "use objective=iwae"),
    (lambda: PIWAE(traits=Traits(parameters_apart=False)), "objective", "use objective=iwae"),
    (lambda: BetaTC(traits=Traits(moments=False)), "objective", "use posterior=normal"),
    (lambda: BetaTC(traits=Traits(standard_prior=False)), "objective", "prior=standard_normal"),
    (lambda: DIP(traits=Traits(moments=False)), "objective", "use posterior=normal"),
    (lambda: MMD(traits=Traits(standard_prior=False)), "objective", "prior=standard_normal"),
    (lambda: MMD(traits=Traits(layers=2)), "objective", "use model=vae"),
    (lambda: IWAE(schedule=CapacitySchedule()), "schedule", "only objective=elbo takes it"),
    (lambda: MIWAE(10, 3), "objective.num_bounds", "must divide objective.num_samples=10"),
    (lambda: CIWAE(1.5), "objective.share", "from 0 to 1"),
    (lambda: IWAE(0), "objective.num_samples", "positive integer"),
    (lambda: FreeBits(-1.0), "objective.free_nats", "nats >= 0"),
    (lambda: BetaTC(sampling="all"), "objective.sampling", "stratified, weighted"),
    (lambda: MMD(alpha=2.0), "objective.alpha", "at most 1"),
    (lambda: MMD(scale=0.5), "objective.scale", "at least 1"),
    (lambda: CyclicalSchedule(rise=0.0), "schedule.rise", "above 0"),
    (lambda: CapacitySchedule(end=-1.0), "schedule.end", "nats >= 0"),
]  # fmt: skip


@pytest.mark.parametrize("make, setting, rule", REFUSED)
def test_what_means_nothing_is_refused_with_what_to_choose(
    make: Callable[[], Any], setting: str, rule: str
) -> None:
    with pytest.raises(SettingError) as error:
        make()
    assert error.value.setting == setting
    assert rule in str(error.value)
