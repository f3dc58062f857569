"""Numbers in few bits: what mixed precision and float32 must not cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.distributions import Beta

from vaelab.build import build
from vaelab.likelihoods.beta import BetaImage
from vaelab.posteriors import FlowPosterior

CONFIGS = Path(__file__).parents[2] / "configs"
IMAGE = (1, 28, 28)


@pytest.mark.parametrize("a, b", [(1, 500), (0.9, 511), (1, 5000), (1, 60000), (30000, 30000), (60000, 60000), (2000, 60000), (60000, 1)])  # fmt: skip
def test_a_beta_density_in_float32_is_that_in_float64(a: float, b: float) -> None:
    torch.manual_seed(0)
    x = Beta(torch.tensor(a).double(), torch.tensor(b).double()).sample(torch.Size(IMAGE)).float()
    parameters = [torch.full(IMAGE, float(value)) for value in (a, b)]
    single = BetaImage(*parameters).log_prob(x)
    double = BetaImage(*(p.double() for p in parameters)).log_prob(x.double())
    assert (single - double).abs() < 0.01  # nats an image


@pytest.mark.parametrize("lead, images", [((), ()), ((4, 3), (3,)), ((4, 1), (1,))])
@pytest.mark.parametrize("entry", sorted(path.stem for path in (CONFIGS / "likelihood").glob("*.yaml")))
def test_a_density_is_computed_in_32_bits_whatever_the_decoder_gives(
    entry: str, lead: tuple[int, ...], images: tuple[int, ...]
) -> None:
    node = yaml.safe_load((CONFIGS / "likelihood" / f"{entry}.yaml").read_text())
    likelihood: Any = build(node, "likelihood", image_shape=IMAGE, pixel_range=(0.0, 1.0), num_levels=256)
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(*lead, likelihood.params_per_pixel, 28, 28, generator=generator).bfloat16()
    x = torch.randint(0, 256 if likelihood.support != "binary" else 2, (*images, *IMAGE), generator=generator)
    x = x / (255 if likelihood.support != "binary" else 1)
    x = x * 0.99 + 0.003 if likelihood.support == "density" else x
    with torch.autocast("cpu", torch.bfloat16):
        mixed = likelihood(parameters).log_prob(x)
    torch.testing.assert_close(mixed, likelihood(parameters.float()).log_prob(x), rtol=1e-5, atol=0)


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("normal", {}), ("full_normal", {}), ("low_rank_normal", {}), *(("flow", {"kind": kind}) for kind in FlowPosterior.KINDS)
]  # fmt: skip


@pytest.mark.parametrize("entry, settings", KINDS)
def test_under_mixed_precision_log_q_is_the_density_of_z(entry: str, settings: dict[str, Any]) -> None:
    node = yaml.safe_load((CONFIGS / "posterior" / f"{entry}.yaml").read_text()) | settings
    torch.manual_seed(0)
    posterior: Any = build(node, "posterior", num_features=32, latent_dim=16)
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    features, eps = torch.randn(9, 32), torch.randn(2, 9, posterior.noise_dim)
    with torch.autocast("cpu", torch.bfloat16):
        sample = posterior(features, eps)
        assert sample.z.dtype == sample.log_q.dtype == torch.float32
        log_q = sample.distribution.log_prob(sample.z)

    def error(other: Tensor) -> float:
        return (sample.log_q - other).abs().max().item()

    # zuko's flows evaluate their networks, in 16 bits, at z where the sample did at eps
    assert error(log_q) < (0.5 if entry == "flow" else 1e-3)
    if sample.mean is not None:
        assert sample.mean.dtype == torch.float32


@pytest.mark.parametrize("size", [0.1, 3.0, 40.0, 1000.0])
@pytest.mark.parametrize("shape, image", [((50, 3), (3,)), ((50, 1), (1,)), ((50, 3), ()), ((3,), (3,)), ((), ()), ((50, 3), (50, 3)), ((3,), (50, 3))])  # fmt: skip
@pytest.mark.parametrize("grey", [False, True])
def test_the_log_likelihood_of_many_samples_is_that_with_a_gradient(
    shape: tuple[int, ...], image: tuple[int, ...], size: float, grey: bool
) -> None:
    likelihood: Any = build({"_target_": "vaelab.likelihoods.BernoulliLikelihood"}, "likelihood", image_shape=(1, 5, 7), pixel_range=(0.0, 1.0), num_levels=2)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    logits = size * torch.randn(*shape, 1, 5, 7, generator=generator)
    x = torch.rand(*image, 1, 5, 7, generator=generator)
    x = x if grey else x.round()
    kept = logits.clone()
    with torch.no_grad():
        many = likelihood(logits).log_prob(x)
        exact = likelihood(logits.double()).log_prob(x.double())
    assert torch.equal(logits, kept), "the parameters stay"
    with_gradient = likelihood(logits.double().requires_grad_()).log_prob(x.double())
    torch.testing.assert_close(exact, with_gradient, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(many.double(), with_gradient, rtol=2e-6, atol=1e-5)
