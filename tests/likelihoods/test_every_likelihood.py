"""What holds for every likelihood: masses of one, expectations, draws, gradients, shapes; every entry of the group, in float64."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from vaelab.build import build
from vaelab.data.protocol import protocol
from vaelab.errors import SettingError
from vaelab.experiments.cards import bits_per_dim

CONFIGS = Path(__file__).parents[2] / "configs" / "likelihood"
VARIANTS: dict[str, dict[str, Any]] = {
    **{entry.stem: {} for entry in sorted(CONFIGS.glob("*.yaml"))},
    "gaussian:learned": {"variance": "learned"},
    "gaussian:constant": {"variance": "constant"},
    "laplace:learned": {"scale": "learned"},
    "laplace:constant": {"scale": "constant"},
    "logistic_mixture:1": {"components": 1},
}
SUPPORTS = {
    "bernoulli": "binary",
    "beta": "density",
    "categorical": "levels",
    "continuous_bernoulli": "density",
    "discretized_logistic": "levels",
    "gaussian": "density",
    "laplace": "density",
    "logistic_mixture": "levels",
}
EDGE = 24 * math.log(2)  # log(x / (1 - x)) at the ends of what the beta likelihood clamps to
UNIT_ONLY = ("bernoulli", "beta", "continuous_bernoulli")


def make(
    variant: str,
    image_shape: tuple[int, ...] = (1, 1, 1),
    pixel_range: tuple[float, float] = (0.0, 1.0),
    num_levels: int = 256,
    **settings: Any,
) -> Any:
    """The likelihood of ``configs/likelihood``, with the settings of the variant, in float64."""
    node = yaml.safe_load((CONFIGS / f"{variant.partition(':')[0]}.yaml").read_text())
    return build(
        node | VARIANTS[variant] | settings, "likelihood",
        image_shape=image_shape, pixel_range=pixel_range, num_levels=num_levels,
    ).double()  # fmt: skip


def normal(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    return size * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def kind(variant: str) -> str:
    return variant.partition(":")[0]


def range_of(variant: str) -> tuple[float, float]:
    """A range other than [0, 1], where the likelihood takes one."""
    return (0.0, 1.0) if kind(variant) in UNIT_ONLY else (-1.0, 1.0)


def points(variant: str, parameters: Tensor, num_levels: int = 256) -> tuple[Tensor, Tensor]:
    """All the values of a pixel with weights, ``[N, points]``: the levels with 1, or nodes of a rule of integration for parameters ``[N, P]``."""
    support, (low, high) = SUPPORTS[kind(variant)], range_of(variant)
    if support != "density":
        x = torch.linspace(low, high, 2 if support == "binary" else num_levels, dtype=torch.float64)
        weights = torch.ones_like(x)
    elif kind(variant) == "continuous_bernoulli":
        x = torch.linspace(0, 1, 20_001, dtype=torch.float64)
        weights = torch.full_like(x, 1 / 20_000)
    elif (
        kind(variant) == "beta"
    ):  # poles at 0 and 1: even steps in log(x / (1 - x)), up to where the likelihood clamps
        v = torch.linspace(-EDGE, EDGE, 20_001, dtype=torch.float64)
        x = torch.sigmoid(v).clamp(2.0**-24, 1 - 2.0**-24)
        weights = x * (1 - x) * (v[1] - v[0])
        weights[[0, -1]] /= 2
        margin = torch.tensor([2.0**-24], dtype=torch.float64)  # within which the density is constant
        return (
            torch.cat([margin / 2, x, 1 - margin / 2]).expand(len(parameters), -1),
            torch.cat([margin, weights, margin]).expand(len(parameters), -1),
        )
    else:  # steps that grow with the distance from the location
        v = torch.linspace(-14, 14, 20_001, dtype=torch.float64)
        x = parameters[:, :1] + 1e-3 * torch.sinh(v)
        weights = 1e-3 * torch.cosh(v) * (v[1] - v[0])
    if support == "density":
        weights[[0, -1]] /= 2
    return x.expand(len(parameters), -1), weights.expand(len(parameters), -1)


def masses(likelihood: Any, parameters: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """Mass ``[N, points]`` of each value of one pixel, from parameters ``[N, P]``."""
    q = likelihood(parameters.view(len(parameters), 1, -1, 1, 1))
    p = q.log_prob(x[..., None, None, None]).detach().exp() * weights
    return p


def pixel(variant: str, size: float = 1.0) -> tuple[Any, Tensor]:
    """A likelihood of one pixel, and parameters ``[12, P]`` for it; the first are 0."""
    likelihood = make(variant, pixel_range=range_of(variant))
    parameters = normal(12, likelihood.params_per_pixel, size=size)
    parameters[0] = 0
    return likelihood, parameters


def test_the_list_of_supports_is_complete() -> None:
    assert {entry.stem for entry in CONFIGS.glob("*.yaml")} == SUPPORTS.keys()
    assert {name: make(name).support for name in SUPPORTS} == SUPPORTS


@pytest.mark.parametrize("size", [1.0, 4.0])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_pixel_has_mass_one(variant: str, size: float) -> None:
    likelihood, parameters = pixel(variant, size)
    total = masses(likelihood, parameters, *points(variant, parameters)).sum(-1)
    tolerance = 1e-5 if SUPPORTS[kind(variant)] == "density" else 1e-12
    torch.testing.assert_close(total, torch.ones_like(total), atol=tolerance, rtol=0)


@pytest.mark.parametrize("num_levels", [2, 3])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if SUPPORTS[kind(v)] == "levels"])
def test_all_images_of_few_levels_have_mass_one(variant: str, num_levels: int) -> None:
    likelihood = make(variant, (1, 2, 2), (-1.0, 1.0), num_levels)
    values = torch.linspace(-1, 1, num_levels).tolist()
    x = torch.tensor(list(itertools.product(values, repeat=4)), dtype=torch.float64).view(-1, 1, 2, 2)
    log_p = likelihood(normal(likelihood.params_per_pixel, 2, 2, size=3.0)).log_prob(x)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_mean_is_the_expectation(variant: str) -> None:
    likelihood, parameters = pixel(variant)
    x, weights = points(variant, parameters)
    expected = (masses(likelihood, parameters, x, weights) * x).sum(-1)
    mean = likelihood(parameters.view(12, -1, 1, 1)).mean.flatten().detach()
    torch.testing.assert_close(
        mean, expected, atol=1e-5 if SUPPORTS[kind(variant)] == "density" else 1e-12, rtol=0
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_draws_have_mean_and_spread(variant: str) -> None:
    likelihood, parameters = pixel(variant)
    x, weights = points(variant, parameters)
    p = masses(likelihood, parameters, x, weights)
    n = 2_000 if variant == "beta" else 5_000  # the inverse of the incomplete beta function is slow
    uniform = torch.rand(n, 12, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = likelihood.draw(likelihood(parameters.view(12, -1, 1, 1)), uniform).view(n, 12).detach()
    for power in (1, 2):
        moment = (p * x**power).sum(-1)
        error = ((p * x ** (2 * power)).sum(-1) - moment.square()).clamp_min(0).sqrt() / math.sqrt(n)
        assert ((drawn**power).mean(0) - moment).abs().le(4 * error + 1e-5).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_draw_inverts_the_cumulative_distribution(variant: str) -> None:
    likelihood, parameters = pixel(variant)
    x, weights = points(variant, parameters)
    p = masses(likelihood, parameters, x, weights)
    uniform = torch.linspace(0.0101, 0.9903, 99, dtype=torch.float64)
    shaped = uniform.view(-1, 1, 1, 1, 1)
    drawn = likelihood.draw(likelihood(parameters.view(12, -1, 1, 1)), shaped).view(99, 12).detach()
    if SUPPORTS[kind(variant)] == "binary":  # one where the uniform number is below its probability
        assert (drawn.diff(dim=0) <= 0).all()
        assert torch.equal(drawn, (uniform[:, None] < p[:, 1]).double())
        return
    assert (drawn.diff(dim=0) >= 0).all()
    cumulative = p.cumsum(-1)
    if SUPPORTS[kind(variant)] == "levels":
        level = (cumulative[:, :-1] <= uniform[:, None, None]).sum(-1)
        torch.testing.assert_close(drawn, x[0, level], atol=1e-12, rtol=0)
        return
    position = torch.searchsorted(x.contiguous(), drawn.T.contiguous())
    share = (cumulative - p / 2).gather(1, position.clamp(0, x.shape[1] - 1))
    assert (share - uniform).abs().max().item() < 2e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_draws_at_the_ends_of_the_uniform_are_pixels(variant: str) -> None:
    low, high = range_of(variant)
    likelihood = make(variant, pixel_range=(low, high)).float()
    q = likelihood(normal(12, likelihood.params_per_pixel, 1, 1, size=4.0).float())
    for u in (0.0, 1 - 2.0**-24):
        drawn = likelihood.draw(q, torch.full((12, 1, 1, 1), u))
        assert drawn.dtype == torch.float32
        assert drawn.isfinite().all()
        if kind(variant) not in ("gaussian", "laplace"):
            assert ((drawn >= low) & (drawn <= high)).all()


def extreme_parameters(per_pixel: int) -> Tensor:
    """Every combination of -10^4, 0 and 10^4, or 64 of them."""
    if per_pixel <= 2:
        return torch.tensor(list(itertools.product((-1e4, 0.0, 1e4), repeat=per_pixel)))
    return 1e4 * torch.randint(-1, 2, (64, per_pixel), generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_finite_and_differentiable_at_the_ends(variant: str, dtype: torch.dtype) -> None:
    likelihood = make(variant).to(dtype)
    parameters = extreme_parameters(likelihood.params_per_pixel).to(dtype)
    parameters = parameters.view(len(parameters), 1, -1, 1, 1).requires_grad_()
    q = likelihood(parameters)
    log_p = q.log_prob(torch.tensor([0.0, 1.0], dtype=dtype).view(-1, 1, 1, 1))
    (gradient,) = torch.autograd.grad(log_p.sum() + q.mean.sum(), parameters)
    assert log_p.shape == (len(parameters), 2)
    assert log_p.isfinite().all()
    assert gradient.isfinite().all()
    assert q.mean.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_is_that_of_finite_differences(variant: str) -> None:
    low, high = range_of(variant)
    likelihood = make(variant, (1, 2, 2), (low, high), 5)
    x = torch.linspace(low, high, 5, dtype=torch.float64)[:4].view(1, 1, 2, 2)
    if SUPPORTS[kind(variant)] == "density":
        x = x + 0.03
    elif SUPPORTS[kind(variant)] == "binary":
        x = x.round()
    parameters = normal(3, likelihood.params_per_pixel, 2, 2, size=0.5)
    parameters[0] = 0
    assert torch.autograd.gradcheck(lambda p: likelihood(p).log_prob(x), parameters.requires_grad_())
    assert torch.autograd.gradcheck(lambda p: likelihood(p).mean, parameters)


def image(variant: str, *shape: int) -> Tensor:
    """Images that the likelihood holds, of 256 levels in its range."""
    low, high = range_of(variant)
    top = 1 if SUPPORTS[kind(variant)] == "binary" else 255
    k = torch.randint(0, top + 1, shape, generator=torch.Generator().manual_seed(2)).double()
    return low + (high - low) * k / top


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_and_parameters_broadcast(variant: str) -> None:
    K, B, C, H, W = 2, 3, 3, 2, 2
    likelihood = make(variant, (C, H, W), range_of(variant))
    parameters = normal(K, B, likelihood.params_per_pixel * C, H, W)
    x = image(variant, B, C, H, W)
    q = likelihood(parameters)
    assert q.batch_shape == (K, B)
    assert q.event_shape == (C, H, W)
    assert q.mean.shape == (K, B, C, H, W)
    assert likelihood.draw(q, torch.full((K, B, C, H, W), 0.5, dtype=torch.float64)).shape == (K, B, C, H, W)
    log_p = q.log_prob(x)
    assert log_p.shape == (K, B)
    for k, b in itertools.product(range(K), range(B)):
        torch.testing.assert_close(log_p[k, b], likelihood(parameters[k, b]).log_prob(x[b]))
    one = likelihood(parameters[0, 0])
    torch.testing.assert_close(one.log_prob(x), torch.stack([one.log_prob(image) for image in x]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_laid_out_with_channels_innermost(variant: str) -> None:
    C, shape = 3, (3, 2, 2)
    likelihood, grey = make(variant, shape, range_of(variant)), make(variant, (1, 2, 2), range_of(variant))
    parameters = normal(4, likelihood.params_per_pixel * C, 2, 2)
    x, uniform = image(variant, 4, *shape), normal(4, *shape, seed=3).sigmoid()
    q = likelihood(parameters)
    channels = [grey(parameters[:, c::C]) for c in range(C)]
    of_channels = sum(channels[c].log_prob(x[:, c : c + 1]) for c in range(C))
    torch.testing.assert_close(q.log_prob(x), of_channels)
    torch.testing.assert_close(q.mean, torch.cat([channel.mean for channel in channels], 1))
    drawn = [grey.draw(channels[c], uniform[:, c : c + 1]) for c in range(C)]
    torch.testing.assert_close(likelihood.draw(q, uniform), torch.cat(drawn, 1))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if SUPPORTS[kind(v)] == "density"])
def test_dequantised_density_bounds_the_masses_of_the_levels(variant: str) -> None:
    """E over u of log p((k + u) / L), less log L, is at most the log mass of the k-th of L intervals (Theis et al. 2016)."""
    L, n = 16, 2_000
    likelihood = make(variant, num_levels=L)
    parameters = normal(6, likelihood.params_per_pixel, size=0.5)
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x = (torch.arange(L, dtype=torch.float64)[:, None] + u) / L
    log_p = likelihood(parameters.view(6, 1, -1, 1, 1)).log_prob(x.view(-1, 1, 1, 1)).detach()
    p = log_p.exp().view(6, L, n)
    bound, log_mass = p.log().mean(-1) - math.log(L), p.mean(-1).log() - math.log(L)
    assert (bound <= log_mass + 1e-12).all()
    assert (bound.exp().sum(-1) < 1 + 1e-12).all()
    if kind(variant) in UNIT_ONLY:
        torch.testing.assert_close(p.mean((1, 2)), torch.ones(6, dtype=torch.float64), atol=1e-2, rtol=0)


@pytest.mark.parametrize("variant", ["beta", "continuous_bernoulli", "categorical"])
def test_a_uniform_model_takes_eight_bits_a_pixel(variant: str) -> None:
    """Parameters of 0 are the uniform density or the uniform masses: log 256 nats a pixel of any image."""
    likelihood = make(variant, (1, 4, 4))
    rules = protocol(256, likelihood.support)
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (5, 1, 4, 4), generator=generator).to(torch.uint8)
    stored[0], stored[1] = 0, 255
    noise = torch.rand(5, 1, 4, 4, generator=generator)
    x = rules.scale(rules.levels(stored), noise).double()
    log_p = likelihood(torch.zeros(5, likelihood.params_per_pixel, 4, 4, dtype=torch.float64)).log_prob(x)
    for nats in log_p.tolist():
        assert bits_per_dim(-nats, rules.record(), 16) == pytest.approx(8, abs=1e-6)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if SUPPORTS[kind(v)] == "levels"])
def test_levels_are_those_of_the_data(variant: str) -> None:
    """float32 pixels, as the data module scales them, hit their levels; what is drawn are such pixels."""
    stored = torch.arange(256).to(torch.uint8).view(256, 1, 1, 1)
    for pixel_range in ((0.0, 1.0), (-1.0, 1.0), (-0.3, 0.7)):
        likelihood = make(variant, pixel_range=pixel_range)
        rules = protocol(256, likelihood.support, pixel_range=pixel_range)
        pixels = rules.scale(rules.levels(stored))
        q = likelihood(normal(likelihood.params_per_pixel, 1, 1))
        exact = torch.linspace(*pixel_range, 256, dtype=torch.float64).view(256, 1, 1, 1)
        assert torch.equal(q.log_prob(pixels.double()), q.log_prob(exact))
        drawn = likelihood.draw(q, torch.linspace(0, 0.999, 100).view(-1, 1, 1, 1))
        assert torch.isin(drawn.float(), pixels).all()


LEFT_TO_AUTOCAST = ("bernoulli", "gaussian", "laplace")


@pytest.mark.parametrize("variant", [v for v in VARIANTS if kind(v) not in LEFT_TO_AUTOCAST])
def test_parameters_of_sixteen_bits_are_computed_with_in_float32(variant: str) -> None:
    likelihood = make(variant, (1, 4, 4), range_of(variant)).float()
    parameters = normal(2, likelihood.params_per_pixel, 4, 4).to(torch.bfloat16)
    x = image(variant, 2, 1, 4, 4).float()
    torch.testing.assert_close(likelihood(parameters).log_prob(x), likelihood(parameters.float()).log_prob(x))


@pytest.mark.parametrize("variant", UNIT_ONLY)
@pytest.mark.parametrize("pixel_range", [(-1.0, 1.0), (0.0, 255.0)])
def test_pixels_outside_the_support_are_refused(variant: str, pixel_range: tuple[float, float]) -> None:
    with pytest.raises(
        SettingError, match=rf"^data.pixel_range=.*likelihood={variant} takes pixels in \[0, 1\]"
    ):
        make(variant, pixel_range=pixel_range)


@pytest.mark.parametrize("variant", [v for v in SUPPORTS if SUPPORTS[v] == "levels"])
def test_one_level_is_refused(variant: str) -> None:
    with pytest.raises(SettingError, match=r"^data.num_levels=1: must be an integer >= 2"):
        make(variant, num_levels=1)


WRONG = [
    *(
        (variant, setting, value)
        for variant, mode, scale in [("gaussian", "variance", "sigma"), ("laplace", "scale", "b")]
        for setting, value in [
            (mode, "pixel"), (mode, None), (scale, 0.0), (scale, -1.0), (scale, "x"), (scale, True), (scale, math.inf), (scale, None),
            (f"{scale}_floor", -0.1), (f"{scale}_floor", "x"), (f"{scale}_floor", True), (f"{scale}_floor", math.nan),
        ]
    ),
    *(("beta", "least", value) for value in (0, 1, -0.1, "auto", True, math.nan, None)),
    *(("beta", "most", value) for value in (1, 0.5, "x", True, math.inf, None)),
    *((v, "scale_floor", value) for v in ("discretized_logistic", "logistic_mixture") for value in (0, -1, "x", True, math.nan, None)),
    *(("logistic_mixture", "components", value) for value in (0, -1, 2.0, "x", True, None)),
]  # fmt: skip


@pytest.mark.parametrize("variant, setting, value", WRONG)
def test_wrong_settings_are_refused_by_name(variant: str, setting: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"^likelihood\.{setting}=.*: must be"):
        make(variant, **{setting: value})
