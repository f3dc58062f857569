"""Annealed importance sampling: chains that are valid, weights whose mean is p(x), errors that cover."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from oracles import BlockDraws, LinearGaussian, Oracle, pixel_model, repeated
from vaelab.batch import Batch
from vaelab.errors import SettingError
from vaelab.evidence import AnnealedEstimate, Annealing, Draws, ais, check_dimensions
from vaelab.evidence.ais import MOMENT_SAMPLES, STDDEV_FLOOR, Point, annealed_path, leapfrog
from vaelab.likelihoods import BernoulliLikelihood
from vaelab.models import VAE, Model
from vaelab.networks import MLPDecoder, MLPEncoder
from vaelab.noise import ImageDraws, Noise, Split
from vaelab.posteriors import NormalPosterior
from vaelab.priors import StandardNormalPrior


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def slope(point: Point, t: Tensor) -> Tensor:
    """Gradient of log f_t in u: what a step of size 1 adds to a momentum of 0."""
    return point.kick(torch.zeros_like(point.u), t, torch.ones_like(point.u[..., :1]))


def bent(u: Tensor) -> Point:
    """A target that is no Gaussian, with the gradient in closed form, so that autograd can go through it."""
    log_p = -0.25 * u.pow(4).sum(-1) + torch.sin(u).prod(-1)
    sines = torch.sin(u)
    others = torch.stack([sines[..., 1] * sines[..., 2], sines[..., 0] * sines[..., 2], sines[..., 0] * sines[..., 1]], -1)  # fmt: skip
    return Point(u, log_p, -u.pow(3) + torch.cos(u) * others)


def test_leapfrog_is_reversible() -> None:
    u, p, step = normal(4, 2, 3), normal(4, 2, 3, seed=1), 0.05 + 0.1 * torch.rand(4, 2, 1).double()
    t = scalar(0.7)
    end, q = leapfrog(bent, bent(u), p, t, step, 12)
    back, r = leapfrog(bent, end, -q, t, step, 12)
    assert (end.u - u).abs().max() > 0.3
    torch.testing.assert_close(back.u, u, rtol=0, atol=1e-10)
    torch.testing.assert_close(-r, p, rtol=0, atol=1e-10)


def test_leapfrog_preserves_volume_and_nearly_energy() -> None:
    t, step = scalar(0.6), torch.full((1, 1, 1), 0.1, dtype=torch.float64)

    def flow(state: Tensor) -> Tensor:
        u, p = state.view(2, 1, 1, 3)
        end, q = leapfrog(bent, bent(u), p, t, step, 7)
        return torch.cat([end.u.flatten(), q.flatten()])

    def energy(state: Tensor) -> Tensor:
        u, p = state.view(2, 3)
        return 0.5 * p.square().sum() - (0.6 * bent(u).log_p - 0.4 * 0.5 * u.square().sum())

    state = normal(6)
    jacobian = torch.autograd.functional.jacobian(flow, state)
    assert isinstance(jacobian, Tensor)
    torch.testing.assert_close(torch.linalg.det(jacobian), scalar(1.0), rtol=1e-10, atol=0)
    assert (jacobian - torch.eye(6)).abs().max() > 0.1
    assert (energy(flow(state)) - energy(state)).abs() < 0.01 * (flow(state) - state).norm()


def test_gradients_are_those_of_finite_differences() -> None:
    oracle = Oracle(exact=False)
    with annealed_path(oracle.model, oracle.batch, BlockDraws(0, 7), Annealing(num_steps=3)) as path:
        u, way = normal(5, 7, 2), normal(5, 7, 2, seed=1)
        point, t = path.at(u), scalar(0.3)
        sides = [path.log_f(path.at(u + side * way), t) for side in (1e-5, -1e-5)]
        torch.testing.assert_close(
            (sides[0] - sides[1]) / 2e-5, (slope(point, t) * way).sum(-1), rtol=1e-6, atol=1e-6
        )
        z = path.mean + path.stddev * u
        gaussian = torch.distributions.Normal(path.mean, path.stddev).log_prob(z).sum(-1)
        torch.testing.assert_close(path.log_ratio(point), oracle.model.log_joint(oracle.batch, z) - gaussian)


def test_a_trajectory_leaves_the_posterior_as_it_is() -> None:
    """With steps so large that many are refused: draws of the posterior stay draws of it, in mean, covariance and energy."""
    oracle, chains = LinearGaussian(2, 3, num_images=3), 40_000
    draws = BlockDraws(1, 3)
    with annealed_path(oracle.model, oracle.batch, draws, Annealing(num_steps=4, leapfrog_steps=3)) as path:
        q = oracle.model.infer(oracle.batch.x)
        z = q.rsample(torch.Size([chains]))  # pyright: ignore[reportAttributeAccessIssue]
        point = path.at((z - path.mean) / path.stddev)
        log_step = torch.full((3,), math.log(1.3), dtype=torch.float64)
        moved, probability = path.move(point, 4, log_step, "annealing", 4)
    assert 0.3 < probability.mean() < 0.85
    after = path.mean + path.stddev * moved.u
    white = torch.linalg.solve(torch.linalg.cholesky(oracle.covariance), (after - q.mean).unsqueeze(-1))
    white = white.squeeze(-1)
    assert white.mean(0).abs().max() < 4.5 / chains**0.5
    squares = torch.einsum("cbi,cbj->bij", white, white) / chains
    assert (squares - torch.eye(2)).abs().max() < 4.5 * (2 / chains) ** 0.5
    # all of this would be right if they stood still
    share = ((after - z).abs().sum(-1) > 1e-9).double().mean()
    assert (share - probability.mean()).abs() < 4 * 0.5 / (3 * chains) ** 0.5


def test_temperatures_rise_from_0_to_1() -> None:
    for spacing in Annealing.SPACINGS:
        t = Annealing(num_steps=50, spacing=spacing).temperatures()
        assert t.shape == (51,)
        assert (t[0], t[-1]) == (0, 1)
        assert (t.diff() > 0).all()
        torch.testing.assert_close(t + t.flip(0), torch.ones(51, dtype=torch.float64))
    bend = Annealing(num_steps=50).temperatures().diff()
    assert bend[0] < 0.2 * bend[25]
    raw = [1 / (1 + math.exp(-4 * (2 * k / 50 - 1))) for k in (0, 10, 50)]
    assert Annealing(num_steps=50).temperatures()[10] == pytest.approx((raw[1] - raw[0]) / (raw[2] - raw[0]))


@pytest.mark.parametrize("start", Annealing.STARTS)
def test_one_step_is_importance_sampling_with_the_gaussian_of_the_start(start: str) -> None:
    oracle, draws = Oracle(exact=False), BlockDraws(0, 7)
    result = ais(oracle.model, oracle.batch, draws, Annealing(num_chains=50, num_steps=1, start=start))
    mean, stddev = torch.zeros(7, 2).double(), torch.ones(7, 2).double()
    if start == "posterior":
        q = oracle.model.infer(oracle.batch.x)
        samples = q.mean + q.stddev * draws.normal("adaptation", (MOMENT_SAMPLES, 2)).transpose(0, 1)
        mean, stddev = samples.mean(0), samples.std(0)
    z = mean + stddev * draws.normal("annealing", (50, 2)).transpose(0, 1)
    log_normal = torch.distributions.Normal(mean, stddev).log_prob(z).sum(-1)
    log_w = oracle.model.log_joint(oracle.batch, z).detach() - log_normal
    torch.testing.assert_close(result.log_w, log_w)
    torch.testing.assert_close(result.log_px, log_w.logsumexp(0) - math.log(50))
    w = log_w.exp()
    torch.testing.assert_close(result.variance, w.var(0, correction=0) / w.mean(0).square() / 50)
    assert result.acceptance.isnan().all()


def test_a_dimension_that_q_leaves_at_a_point_gets_the_floor() -> None:
    oracle = Oracle(exact=False)
    with torch.no_grad():
        oracle.model.posterior.log_variance.bias.fill_(-40.0)
    with annealed_path(oracle.model, oracle.batch, BlockDraws(0, 7), Annealing()) as path:
        assert (path.stddev == STDDEV_FLOOR).all()


def repetitions(oracle: LinearGaussian, times: int, settings: Annealing, dtype: torch.dtype) -> Tensor:
    """Estimates and their variances ``[2, times, images]``, of as many independent runs."""
    batch = repeated(oracle.batch, times)
    model = copy.deepcopy(oracle.model).to(dtype)
    found = []
    for first in range(0, len(batch.x), 100):  # what a cache holds
        own = slice(first, first + 100)
        part = Batch(batch.x[own].to(dtype), batch.y[own], batch.index[own])
        block = BlockDraws(first, len(part.x), dtype)
        result = ais(model, part, block, settings)
        found.append(torch.stack([result.log_px, result.variance]))
    return torch.cat(found, dim=1).view(2, times, -1)


def covers(oracle: LinearGaussian, settings: Annealing, times: int, dtype: torch.dtype) -> None:
    log_px, variance = repetitions(oracle, times, settings, dtype)
    error = log_px - oracle.log_px
    of_the_mean = error.mean(1).abs() <= 2 * variance.sum(1).sqrt() / error.shape[1]
    of_each = error.abs() <= 2 * variance.sqrt()
    assert 0.930 <= of_the_mean.double().mean() <= 0.975
    assert 0.930 <= of_each.double().mean() <= 0.975
    assert error.mean() < 3 * error.std() / error.numel() ** 0.5, "a lower bound in expectation"
    unbiased = error.exp()
    assert (unbiased.mean() - 1).abs() < 3.5 * unbiased.std() / error.numel() ** 0.5


def test_two_standard_errors_cover_the_evidence_of_a_small_model() -> None:
    oracle = LinearGaussian(2, 3, "scaled")
    settings = Annealing(num_chains=64, num_steps=6, leapfrog_steps=2, spacing="linear")
    covers(oracle, settings, 1000, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("latent_dim, num_pixels, num_steps, leapfrog_steps", [(10, 12, 20, 3), (50, 60, 40, 2)])  # fmt: skip
def test_two_standard_errors_cover_the_evidence(
    latent_dim: int, num_pixels: int, num_steps: int, leapfrog_steps: int
) -> None:
    oracle = LinearGaussian(latent_dim, num_pixels, "scaled")
    settings = Annealing(64, num_steps, leapfrog_steps, spacing="linear", target_acceptance=0.8)
    covers(oracle, settings, 1000, torch.float32)


@pytest.mark.parametrize("start", Annealing.STARTS)
def test_the_weights_have_mean_p_x_whatever_the_path(start: str) -> None:
    """Few steps and few chains: the estimate is a bound and far from tight, and its exponential is right in the mean all the same."""
    oracle = LinearGaussian(2, 3, "mean_field", num_images=4)
    batch = repeated(oracle.batch, 500)
    settings = Annealing(num_chains=2, num_steps=3, leapfrog_steps=2, start=start)
    result = ais(oracle.model, batch, BlockDraws(3, len(batch.x)), settings)
    error = result.log_px.view(500, 4) - oracle.log_px
    w = (result.log_w - oracle.log_px.repeat(500)).exp()
    means = w.mean(0)  # chains of one image of one repetition have their step sizes in common
    assert (means.mean() - 1).abs() < 4 * means.std() / len(means) ** 0.5
    if start == "prior":
        assert error.mean() < -4 * error.std() / error.numel() ** 0.5, "the test would see no bias"


@pytest.mark.parametrize("start", Annealing.STARTS)
def test_the_spread_of_the_log_weights_halves_as_the_steps_double(start: str) -> None:
    oracle = LinearGaussian(2, 3, "scaled")
    spread = []
    for num_steps in (16, 32, 64):
        settings = Annealing(400, num_steps, 2, spacing="linear", start=start)
        result = ais(oracle.model, oracle.batch, BlockDraws(5, 10), settings)
        spread.append(result.log_w.var(0).mean().item())
    for few, many in pairwise(spread):
        assert 0.3 < many / few < 0.75


@pytest.mark.parametrize("kind", ["vae", "hierarchical", "ladder", "top_down"])
def test_models_of_several_layers_against_the_integral(kind: str) -> None:
    model = pixel_model(kind)
    x = torch.tensor([-0.6, 0.3, 1.4], dtype=torch.float64).view(3, 1, 1, 1)
    batch = Batch(x, torch.full((3,), -1), torch.arange(3))
    line = torch.linspace(-6, 6, 49, dtype=torch.float64)
    dims = {"vae": 1, "top_down": 3}.get(kind, 2)
    grid = torch.cartesian_prod(*[line] * dims).view(-1, 1, dims).expand(-1, 3, -1)
    with torch.no_grad():
        joint = torch.cat([model.log_joint(batch, part) for part in grid.split(10_000)])
    exact = joint.logsumexp(0) + dims * math.log(line[1] - line[0])
    result = ais(model, batch, BlockDraws(2, 3), Annealing(num_chains=500, num_steps=16, leapfrog_steps=3))
    assert (result.variance.sqrt() < 0.1).all()
    assert ((result.log_px - exact).abs() < 4 * result.variance.sqrt()).all()


def bernoulli(dtype: torch.dtype) -> tuple[Model, Batch]:
    torch.manual_seed(0)
    shape = (1, 6, 6)
    encoder = MLPEncoder(shape, [20], "tanh")
    model = VAE(
        encoder,
        NormalPosterior(20, 4),
        StandardNormalPrior(4),
        MLPDecoder(4, shape, [20], "tanh"),
        BernoulliLikelihood(shape, (0.0, 1.0), 2),
    )
    with torch.no_grad():
        model.decoder.output.weight.mul_(4)
    x = (torch.rand(9, *shape) > 0.6).to(dtype)
    return model.to(dtype), Batch(x, torch.full((9,), -1), torch.arange(9))


def in_parts(model: Model, batch: Batch, draws: Draws, settings: Annealing, size: int) -> AnnealedEstimate:
    parts = []
    for first in range(0, len(batch.x), size):
        own = slice(first, first + size)
        parts.append(ais(model, Batch(batch.x[own], batch.y[own], batch.index[own]), draws[own], settings))
    names = ("log_px", "ess", "variance", "acceptance", "log_w")
    return AnnealedEstimate(*(torch.cat([getattr(p, n) for p in parts], dim=-1) for n in names))


# in float32 a product of matrices is rounded differently with another number of rows; what that does to one image is not what it does to the next
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-9)])
def test_nothing_depends_on_the_images_beside(dtype: torch.dtype, tolerance: float) -> None:
    model, batch = bernoulli(dtype)
    draws = ImageDraws(Noise(4), Split.test, batch.index, dtype)
    settings = Annealing(num_chains=6, num_steps=10, leapfrog_steps=3)
    whole = ais(model, batch, draws, settings)
    assert 0.3 < whole.acceptance.mean() < 0.95
    for size in (1, 4):
        parts = in_parts(model, batch, draws, settings, size)
        torch.testing.assert_close(parts.log_px.mean(), whole.log_px.mean(), rtol=tolerance, atol=0)
        torch.testing.assert_close(parts.log_w, whole.log_w, rtol=30 * tolerance, atol=0)


def test_step_sizes_are_found_for_each_image_by_itself() -> None:
    """Images whose chains need very different steps, side by side: each comes near its target."""
    oracle = LinearGaussian(4, 6, num_images=2)
    settings = Annealing(num_steps=150, leapfrog_steps=3, start="prior", target_acceptance=0.8)

    class Sharper(VAE):
        """log p(x, z) of the second image is multiplied: a narrower posterior."""

        def log_joint(self, batch: Batch, z: Tensor) -> Tensor:
            return super().log_joint(batch, z) * torch.where(batch.index == 1, 25.0, 1.0)

    oracle.model.__class__ = Sharper
    with annealed_path(oracle.model, oracle.batch, BlockDraws(0, 2), settings) as path:
        log_steps = path.adapt(lambda done: None)
        _, acceptance = path.forwards(log_steps, lambda done: None)
    assert ((acceptance - 0.8).abs() < 0.1).all()
    assert (log_steps[-2, 0] - log_steps[-2, 1]) > math.log(2.5)


def test_chains_that_count_have_noise_of_their_own() -> None:
    oracle, draws = Oracle(exact=False), BlockDraws(0, 7)
    settings = Annealing(num_chains=4, num_steps=6, leapfrog_steps=2)
    first = ais(oracle.model, oracle.batch, draws, settings)
    assert len(set(draws.asked)) == len(draws.asked), "a call was made twice"
    assert {purpose for _, purpose, _ in draws.asked} == {"adaptation", "annealing"}

    class Other(BlockDraws):
        """Other noise for the chains that count."""

        def _generator(self, *call: object) -> torch.Generator:
            return super()._generator(*call, *(["other"] if call[1] == "annealing" else []))

    with annealed_path(oracle.model, oracle.batch, Other(0, 7), settings) as path:
        again = path.adapt(lambda done: None)
    with annealed_path(oracle.model, oracle.batch, draws, settings) as path:
        torch.testing.assert_close(path.adapt(lambda done: None), again, rtol=0, atol=0)
    assert (ais(oracle.model, oracle.batch, Other(0, 7), settings).log_w != first.log_w).all()


def test_the_model_is_left_as_it_was_and_progress_is_told() -> None:
    oracle, seen = Oracle(exact=False), []
    oracle.model.decoder.bias.requires_grad_(False)
    before = copy.deepcopy(oracle.model.state_dict())
    needs = {name: p.requires_grad for name, p in oracle.model.named_parameters()}
    ais(oracle.model, oracle.batch, BlockDraws(0, 7), Annealing(num_steps=5, leapfrog_steps=2),
        lambda done, total: seen.append((done, total)))  # fmt: skip
    assert seen == [(done, 10) for done in range(1, 11)]
    assert needs == {name: p.requires_grad for name, p in oracle.model.named_parameters()}
    assert all(p.grad is None for p in oracle.model.parameters())
    for name, value in oracle.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_trajectory_out_of_bounds_is_refused_and_not_taken() -> None:
    oracle, draws = Oracle(exact=False), BlockDraws(0, 7)
    with annealed_path(oracle.model, oracle.batch, draws, Annealing(num_steps=4)) as path:
        point = path.at(normal(5, 7, 2))
        moved, probability = path.move(point, 2, torch.full((7,), 200.0).double(), "annealing", 2)
    assert (probability == 0).all()
    assert torch.equal(moved.u, point.u)
    assert torch.equal(moved.gradient, point.gradient)


@pytest.mark.parametrize("latent_dim, refused", [(200, False), (201, True)])
def test_models_with_many_dimensions_are_refused_by_name(latent_dim: int, refused: bool) -> None:
    oracle = LinearGaussian(latent_dim, 2, num_images=1)
    if not refused:
        check_dimensions(oracle.model)
        return
    with pytest.raises(SettingError, match=r"estimator=ais: .*at most 200.*has 201"):
        check_dimensions(oracle.model)
    with pytest.raises(SettingError, match="estimator=ais"):
        ais(oracle.model, oracle.batch, BlockDraws(0, 1), Annealing())


@pytest.mark.parametrize(
    "setting, value",
    [("num_chains", 1), ("num_steps", 0), ("leapfrog_steps", 0), ("leapfrog_steps", 2.5), ("adaptation_chains", 0),
     ("spacing", "cosine"), ("start", "sigmoid"), ("target_acceptance", 1.0), ("target_acceptance", "high")],
)  # fmt: skip
def test_settings_are_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(SettingError) as error:
        Annealing(**{setting: value})  # pyright: ignore[reportArgumentType]
    assert error.value.setting == f"estimator.{setting}"
