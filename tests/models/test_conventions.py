"""What every model has to keep: an image's terms are its own, and samples are made from the model's prior."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from vaelab.batch import Batch
from vaelab.build import DataShape, build_model
from vaelab.models import Model
from vaelab.models.model import Inference

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
IMAGE, D, B, K, CLASSES = (1, 4, 5), 2, 4, 3, 3
#: the shipped settings, made small
SMALL: dict[str, Any] = {
    "hidden": [8], "channels": [4], "num_features": 8, "num_components": 3, "lower_dims": [3], "num_transforms": 1,
    "layers": [1, 2], "z_channels": 2, "blocks": 1,
}  # fmt: skip
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
PRIORS = sorted(path.stem for path in (CONFIGS / "prior").glob("*.yaml"))
REFUSED = [("conditional", "vamp"), ("hierarchical", "vamp"), ("semi_supervised", "vamp")]
LEARNED = [
    (model, prior)
    for model, prior in product(MODELS, PRIORS)
    if prior != "standard_normal" and model != "m1_m2" and (model, prior) not in REFUSED  # m1_m2 has its own
]


def make(model: str, prior: str = "standard_normal", network: str = "mlp") -> Model:
    """A model in float64, in training mode, with all its weights moved: some start as zero and hide what follows."""
    config: dict[str, Any] = {"seed": 0, "latent_dim": D}
    chosen = {"model": model, "prior": prior, "encoder": network, "decoder": network}
    for group, entry in {**chosen, "posterior": "normal", "likelihood": "bernoulli"}.items():
        node = yaml.safe_load((CONFIGS / group / f"{entry}.yaml").read_text())
        config[group] = {key: SMALL.get(key, value) for key, value in node.items()}
    if model == "top_down":
        config["model"]["channels"] = [4, 8]
    built = build_model(config, DataShape(IMAGE, 2, (0.0, 1.0), CLASSES)).double()
    assert isinstance(built, Model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return built.train()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def images() -> Batch:
    x = torch.rand(B, *IMAGE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return Batch(x, torch.arange(B) % CLASSES, torch.arange(B))


@pytest.mark.parametrize(
    "model, network",
    [(m, "mlp") for m in MODELS] + [("vae", n) for n in ("conv", "gated_conv", "gated_mlp", "resnet")],
)
def test_the_terms_of_an_image_do_not_depend_on_the_images_beside_it(model: str, network: str) -> None:
    """With statistics of a batch anywhere, p(x|z) or q(z|x) would be a distribution of no single image."""
    built, batch = make(model, network=network), images()
    eps = normal(K, B, built.noise_dim)
    together = built(batch, eps)
    for b in range(B):
        own = slice(b, b + 1)
        alone = built(Batch(batch.x[own], batch.y[own], batch.index[own]), eps[:, own])
        torch.testing.assert_close(alone.log_w, together.log_w[:, own], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(alone.log_px, together.log_px[:, own], rtol=1e-10, atol=1e-10)
        if together.has_closed_form_kl:
            pairs = zip(alone.rates(True), together.rates(True)[..., own], strict=True)
            assert all(torch.allclose(a, t, rtol=1e-10, atol=1e-10) for a, t in pairs)


@pytest.mark.parametrize("model, prior", LEARNED)
def test_samples_are_made_from_the_prior_that_the_bound_is_made_of(model: str, prior: str) -> None:
    built, y = make(model, prior), torch.arange(B) % CLASSES
    own: Any = built.prior
    eps = normal(B, built.prior_noise_dim)
    gradients = torch.autograd.grad(
        built.sample(eps, y).mean.sum(), list(own.parameters()), materialize_grads=True
    )
    moved = [name for (name, _), g in zip(own.named_parameters(), gradients, strict=True) if g.any()]
    assert moved, "the prior's parameters say nothing about the samples"
    in_the_bound = torch.autograd.grad(
        built(images(), normal(1, B, built.noise_dim)).log_w.sum(),
        list(own.parameters()),
        materialize_grads=True,
    )
    assert all(g.any() for g in in_the_bound), "a parameter of the prior says nothing about the bound"


@pytest.mark.parametrize("prior", PRIORS)
def test_the_code_of_a_sample_is_a_draw_of_the_prior(prior: str) -> None:
    built: Any = make("vae", prior)
    codes: list[Tensor] = []
    built.decoder.register_forward_pre_hook(lambda decoder, inputs: codes.append(inputs[0]))
    eps = normal(B, built.prior_noise_dim)
    built.sample(eps)
    infer = Inference(built.encoder, built.posterior)
    torch.testing.assert_close(codes[0], built.prior.draw(eps, infer=infer))


@pytest.mark.parametrize("model", MODELS)
def test_under_mixed_precision_the_terms_are_those_of_32_bits(model: str) -> None:
    """The networks' outputs have 16 bits; densities, KL and z are computed from them in 32."""
    made, batch, eps = make(model).float(), images(), normal(K, B, make(model).noise_dim).float()
    batch = Batch(batch.x.float(), batch.y, batch.index)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        terms = made(batch, eps)
        for layer in terms.layers:
            for term in (layer.z, layer.log_p, layer.log_q, *([] if layer.kl is None else [layer.kl])):
                assert term.dtype == torch.float32
            torch.testing.assert_close(layer.log_q_stopped, layer.log_q, rtol=0, atol=2e-2)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("prior", ["standard_normal", "normal", "flow"])
def test_simulated_layers_have_the_density_that_log_joint_says(model: str, prior: str) -> None:
    """z is a smooth function of as much noise: log p(z) = log N(eps; 0, I) - log |det dz/deps|, which log p(x, z) - log p(x|z) has to be, whatever x."""
    built, batch = make(model, prior), images()
    eps = normal(B, built.prior_noise_dim)
    drawn = built.simulate(eps, batch.y)
    joint = built.log_joint(batch, drawn.z.unsqueeze(0))[0]
    if built.infers_labels:
        joint = joint + math.log(CLASSES)  # log p(x, y, z), y given
    for b in range(B):
        own = slice(b, b + 1)
        jacobian = torch.autograd.functional.jacobian(
            lambda noise, own=own: built.simulate(noise.unsqueeze(0), batch.y[own]).z[0], eps[b]
        )
        assert isinstance(jacobian, Tensor)
        dims = len(jacobian)  # what is left of the noise draws a class, where none is given
        log_normal = torch.distributions.Normal(0.0, 1.0).log_prob(eps[b, :dims]).sum()
        log_prior = log_normal - torch.linalg.slogdet(jacobian[:, :dims]).logabsdet
        torch.testing.assert_close(joint[b] - drawn.p_x.log_prob(batch.x)[b], log_prior)
    torch.testing.assert_close(built.sample(eps, batch.y).mean, drawn.p_x.mean)
