"""p(x|z): sums and integrals of one, equality with torch's own, the floor."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from vaelab.errors import SettingError
from vaelab.likelihoods import BernoulliLikelihood, GaussianLikelihood

UNIT = {"image_shape": (1, 2, 2), "pixel_range": (0.0, 1.0), "num_levels": 256}


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
    if variance == "learned":
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
