"""p(x|z), each likelihood against its own equation and against torch and scipy; the floors of the scales."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from scipy.special import betainc
from torch import Tensor

import vaelab.likelihoods
from vaelab.errors import SettingError
from vaelab.likelihoods import (
    BernoulliLikelihood,
    BetaLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    LaplaceLikelihood,
    LogisticMixtureLikelihood,
)

UNIT = {"image_shape": (1, 2, 2), "pixel_range": (0.0, 1.0), "num_levels": 256}
ONE = {**UNIT, "image_shape": (1, 1, 1)}


def uniform64(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def normal64(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_public_names_are_the_likelihoods() -> None:
    assert all(hasattr(getattr(vaelab.likelihoods, name), "support") for name in vaelab.likelihoods.__all__)


def test_bernoulli_sums_to_one_over_every_binary_image() -> None:
    logits = torch.randn(1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64).view(16, 1, 2, 2)
    log_p = BernoulliLikelihood(**UNIT)(logits).log_prob(x)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_bernoulli_on_grey_pixels_is_minus_the_binary_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, x = 30 * torch.randn(5, 1, 2, 2, generator=generator), torch.rand(5, 1, 2, 2, generator=generator)
    expected = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
    torch.testing.assert_close(BernoulliLikelihood(**UNIT)(logits).log_prob(x), expected)


def test_bernoulli_refuses_pixels_outside_its_support() -> None:
    with pytest.raises(SettingError, match=r"data.pixel_range=\[-1.0, 1.0\].*\[0, 1\]"):
        BernoulliLikelihood((1, 2, 2), pixel_range=(-1.0, 1.0), num_levels=256)


@pytest.mark.parametrize("variance", GaussianLikelihood.VARIANCES)
def test_gaussian_integrates_to_one(variance: str) -> None:
    likelihood = GaussianLikelihood((1, 1, 1), (0.0, 1.0), 256, variance=variance).double()
    parameters = torch.tensor([0.3, -0.4][: likelihood.params_per_pixel], dtype=torch.float64).view(-1, 1, 1)
    x = torch.linspace(-5, 6, 200_001, dtype=torch.float64).view(-1, 1, 1, 1)
    density = likelihood(parameters).log_prob(x).exp()
    assert torch.trapezoid(density, x.flatten()).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("variance", GaussianLikelihood.VARIANCES)
def test_gaussian_starts_at_sigma_and_never_goes_below_its_floor(variance: str) -> None:
    likelihood = GaussianLikelihood((1, 2, 2), (0.0, 1.0), 17, variance=variance, sigma=0.25)
    p = likelihood.params_per_pixel
    torch.testing.assert_close(likelihood(torch.zeros(p, 2, 2)).stddev.detach(), torch.full((1, 2, 2), 0.25))
    if likelihood.raw_sigma is not None:
        torch.nn.init.constant_(likelihood.raw_sigma, -1e4)
    smallest = likelihood(torch.full((p, 2, 2), -1e4)).stddev.min().item()
    assert smallest == pytest.approx(0.25 if variance == "constant" else 0.5 / 17)


def test_only_the_decoder_mode_has_a_variance_a_pixel() -> None:
    likelihood = GaussianLikelihood(**UNIT)
    scale = likelihood(torch.stack([torch.zeros(2, 2), torch.arange(4.0).view(2, 2)])).stddev.flatten()
    assert (scale.diff() > 0).all()
    assert [GaussianLikelihood(**UNIT, variance=v).params_per_pixel for v in ("learned", "constant")] == [
        1,
        1,
    ]
    assert len(list(GaussianLikelihood(**UNIT, variance="learned").parameters())) == 1


def test_draws_have_the_distribution() -> None:
    uniform = torch.rand(200_000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    bernoulli = BernoulliLikelihood(**UNIT)
    p = bernoulli(torch.tensor([[[-2.0, 0.0], [0.5, 3.0]]]))
    torch.testing.assert_close(bernoulli.draw(p, uniform).mean(0), p.mean, atol=5e-3, rtol=0)
    gaussian = GaussianLikelihood(**UNIT)
    q = gaussian(torch.arange(8.0).view(2, 2, 2) / 8)
    drawn = gaussian.draw(q, uniform)
    torch.testing.assert_close(drawn.mean(0), q.mean, atol=8e-3, rtol=0)
    torch.testing.assert_close(drawn.std(0), q.stddev, rtol=1e-2, atol=0)
    assert gaussian.draw(q, torch.zeros(1, 1, 2, 2)).isfinite().all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"variance": "pixel"},
        {"sigma": 0.0},
        {"sigma": -1.0},
        {"sigma": "x"},
        {"sigma_floor": -0.1},
        {"sigma_floor": "x"},
    ],
)
def test_gaussian_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError, match=f"likelihood.{next(iter(wrong))}"):
        GaussianLikelihood(**UNIT, **wrong)  # pyright: ignore[reportArgumentType]


def test_gaussian_log_prob_by_hand() -> None:
    likelihood = GaussianLikelihood((1, 1, 1), (0.0, 1.0), 256, variance="constant", sigma=0.5)
    log_p = likelihood(torch.full((1, 1, 1), 0.2)).log_prob(torch.full((1, 1, 1), 0.9)).item()
    assert log_p == pytest.approx(
        -0.5 * (0.7 / 0.5) ** 2 - math.log(0.5) - 0.5 * math.log(2 * math.pi), rel=1e-6
    )


@pytest.mark.parametrize("scale", LaplaceLikelihood.SCALES)
def test_laplace_starts_at_b_and_never_goes_below_its_floor(scale: str) -> None:
    likelihood = LaplaceLikelihood((1, 2, 2), (0.0, 1.0), 17, scale=scale, b=0.25)
    p = likelihood.params_per_pixel
    expected = torch.full((1, 2, 2), math.sqrt(2) * 0.25)
    torch.testing.assert_close(likelihood(torch.zeros(p, 2, 2)).stddev.detach(), expected)
    if likelihood.raw_b is not None:
        torch.nn.init.constant_(likelihood.raw_b, -1e4)
    smallest = likelihood(torch.full((p, 2, 2), -1e4)).stddev.min().item()
    assert smallest == pytest.approx(math.sqrt(2) * (0.25 if scale == "constant" else 0.5 / 17))


def test_laplace_log_prob_by_hand() -> None:
    likelihood = LaplaceLikelihood(**ONE, scale="constant", b=0.5)
    log_p = likelihood(torch.full((1, 1, 1), 0.2)).log_prob(torch.full((1, 1, 1), 0.9)).item()
    assert log_p == pytest.approx(-0.7 / 0.5 - math.log(2 * 0.5), rel=1e-6)


def test_continuous_bernoulli_is_that_of_torch() -> None:
    logits, x = torch.linspace(-9, 9, 50, dtype=torch.float64), uniform64(50)
    theirs = torch.distributions.ContinuousBernoulli(logits=logits, lims=(0.4999, 0.5001))
    ours = ContinuousBernoulliLikelihood(**ONE)(logits.view(50, 1, 1, 1))
    torch.testing.assert_close(ours.log_prob(x.view(50, 1, 1, 1)), theirs.log_prob(x), atol=1e-10, rtol=0)
    torch.testing.assert_close(ours.mean.flatten(), theirs.mean, atol=1e-10, rtol=0)
    drawn = ContinuousBernoulliLikelihood(**ONE).draw(ours, x.view(50, 1, 1, 1))
    torch.testing.assert_close(drawn.flatten(), theirs.icdf(x), atol=1e-10, rtol=0)


def test_continuous_bernoulli_is_bernoulli_with_a_normaliser() -> None:
    logits, x = (
        torch.tensor([-3.0, 1e-4, 2.0]).view(3, 1, 1, 1),
        torch.tensor([0.1, 0.5, 0.7]).view(3, 1, 1, 1),
    )
    difference = ContinuousBernoulliLikelihood(**ONE)(logits).log_prob(x) - BernoulliLikelihood(**ONE)(
        logits
    ).log_prob(x)
    log_normaliser = [
        math.log(2 * math.atanh(1 - 2 * p) / (1 - 2 * p))
        for p in torch.sigmoid(logits.double()).flatten().tolist()
    ]
    torch.testing.assert_close(difference, torch.tensor(log_normaliser), atol=1e-5, rtol=0)


def test_beta_is_that_of_scipy() -> None:
    p, x = BetaLikelihood(**ONE)(6 * normal64(200, 2, 1, 1)), uniform64(200, 1, 1, 1)
    a, b = p.a.flatten().numpy(), p.b.flatten().numpy()
    expected = torch.as_tensor(stats.beta.logpdf(x.flatten().numpy(), a, b))
    torch.testing.assert_close(p.log_prob(x), expected, atol=1e-8, rtol=1e-9)
    torch.testing.assert_close(p.mean.flatten(), torch.as_tensor(stats.beta.mean(a, b)))


def test_beta_stays_between_least_and_most_and_starts_at_one() -> None:
    p = BetaLikelihood(**ONE, least=0.2, most=50.0)(
        torch.tensor([[-1e4, 1e4], [0.0, 0.0]], dtype=torch.float64).view(2, 2, 1, 1)
    )
    torch.testing.assert_close(p.a.flatten(), torch.tensor([0.2, 1.0], dtype=torch.float64))
    torch.testing.assert_close(p.b.flatten(), torch.tensor([50.0, 1.0], dtype=torch.float64))


def test_beta_in_float32_keeps_its_digits_where_it_is_narrow() -> None:
    """log B(a, b) alone is 10^4 a pixel here, which float32 knows to 0.001 at best."""
    p = BetaLikelihood((1, 28, 28), (0.0, 1.0), 256)(9 + 0.1 * normal64(2, 28, 28).float())
    x = (0.5 + 0.003 * normal64(1, 28, 28)).float()
    exact = stats.beta.logpdf(x.double().numpy(), p.a.double().numpy(), p.b.double().numpy()).sum()
    assert p.log_prob(x).item() == pytest.approx(exact, abs=0.05)


def test_beta_has_the_mean_density_of_the_margin_at_the_ends_only() -> None:
    p = BetaLikelihood(**ONE)(torch.tensor([-1.0, 2.0], dtype=torch.float64).view(2, 1, 1))
    at = lambda x: p.log_prob(torch.tensor(x, dtype=torch.float64).view(1, 1, 1)).item()  # noqa: E731
    a, b, margin = p.a.item(), p.b.item(), 2.0**-24
    assert at(0.0) == at(margin / 2) == pytest.approx(math.log(betainc(a, b, margin) / margin), abs=1e-6)
    assert at(1.0) == at(1 - margin / 2) == pytest.approx(math.log(betainc(b, a, margin) / margin), abs=1e-6)
    assert at(margin) == pytest.approx(
        torch.distributions.Beta(a, b).log_prob(torch.tensor(margin)).item(), rel=1e-5
    )


@pytest.mark.parametrize("pixel_range", [(0.0, 1.0), (-1.0, 1.0)])
def test_discretized_logistic_is_a_difference_of_sigmoids(pixel_range: tuple[float, float]) -> None:
    low, high = pixel_range
    likelihood = DiscretizedLogisticLikelihood((1, 1, 1), pixel_range, 5, scale_floor=1e-9)
    location, log_scale, d = 0.1, 0.7, (high - low) / 4
    p = likelihood(torch.tensor([location, log_scale], dtype=torch.float64).view(2, 1, 1))
    mu, s = (low + high) / 2 + location, 0.1 * (high - low) * math.exp(log_scale)
    edges = [-math.inf, *(low + d * (k + 0.5) for k in range(4)), math.inf]
    F = [torch.sigmoid(torch.tensor((edge - mu) / s, dtype=torch.float64)).item() for edge in edges]
    x = torch.linspace(low, high, 5, dtype=torch.float64).view(5, 1, 1, 1)
    expected = [F[k + 1] - F[k] for k in range(5)]
    assert p.log_prob(x).exp().tolist() == pytest.approx(expected, rel=1e-7)


def test_discretized_logistic_far_from_its_location() -> None:
    """Where sigmoid(b) - sigmoid(a) is 1 - 1 in floating point, the log mass still falls in a line."""
    likelihood = DiscretizedLogisticLikelihood(**ONE)
    p = likelihood(torch.tensor([50.0, -2.0]).view(2, 1, 1))
    log_p = p.log_prob(torch.linspace(0, 1, 256).view(256, 1, 1, 1))
    slope = log_p[1:-1].diff()
    torch.testing.assert_close(
        slope, torch.full_like(slope, 1 / 255 / p.log_scale.exp().item()), rtol=1e-2, atol=0
    )


def test_scale_floor_lets_a_level_have_all_mass_but_ten_to_the_minus_four() -> None:
    likelihood = DiscretizedLogisticLikelihood(**ONE)
    p = likelihood(torch.tensor([100 / 255 - 0.5, -1e4], dtype=torch.float64).view(2, 1, 1))
    mass = p.log_prob(torch.full((1, 1, 1), 100 / 255, dtype=torch.float64)).exp().item()
    assert 0 < 1 - mass < 1e-4


def test_mixture_of_one_is_the_discretized_logistic() -> None:
    parameters = normal64(4, 9, 2, 2)
    shape, x = {**UNIT, "image_shape": (3, 2, 2)}, uniform64(4, 3, 2, 2).mul(255).round() / 255
    mixture = LogisticMixtureLikelihood(**shape, components=1).double()(parameters)
    single = DiscretizedLogisticLikelihood(**shape)(parameters[:, 3:])
    torch.testing.assert_close(mixture.log_prob(x), single.log_prob(x))
    torch.testing.assert_close(mixture.mean, single.mean)


def test_mixture_is_the_weighted_sum_of_its_components() -> None:
    likelihood = LogisticMixtureLikelihood(**ONE, components=2).double()
    logits, location, log_scale = torch.tensor([[0.3, -1.0], [0.2, -0.1], [-2.0, 1.0]], dtype=torch.float64)
    x = (torch.arange(256, dtype=torch.float64) / 255).view(256, 1, 1, 1)
    p = likelihood(torch.cat([logits, location, log_scale]).view(6, 1, 1)).log_prob(x).exp()
    single = DiscretizedLogisticLikelihood(**ONE)
    expected = torch.zeros(256, dtype=torch.float64)
    for weight, start, loc, scale in zip(
        logits.softmax(0), (-0.25, 0.25), location, log_scale
    ):  # a quarter and three quarters of the range
        expected += weight * single(torch.stack([loc + start, scale]).view(2, 1, 1)).log_prob(x).exp()
    torch.testing.assert_close(p, expected)


def test_categorical_is_cross_entropy() -> None:
    likelihood = CategoricalLikelihood((3, 2, 2), (-1.0, 1.0), 7)
    parameters = normal64(4, 21, 2, 2)
    level = uniform64(4, 3, 2, 2).mul(7).long()
    expected = -F.cross_entropy(parameters.view(4, 7, 3, 2, 2), level, reduction="none").sum((1, 2, 3))
    torch.testing.assert_close(likelihood(parameters).log_prob(level / 3 - 1), expected)
