"""What every prior promises: its density and its draws belong together."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from vaelab.build import build
from vaelab.errors import SettingError
from vaelab.models import closed_form_kl
from vaelab.posteriors import LogVarianceNormal, NormalPosterior
from vaelab.priors import FlowPrior, VampPrior
from vaelab.priors.mixture import Mixture, choose

CONFIGS = Path(__file__).parents[2] / "configs"
D, C, K, B = 2, 3, 4, 5
IMAGE_SHAPE, PIXEL_RANGE = (1, 2, 3), (-1.0, 1.0)
NUM_FEATURES = 6
#: settings of an entry that are other mathematics, or quicker
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "mixture": [{"num_components": 3}],
    "vamp": [
        {"num_components": 4},
        {"num_components": 4, "learned_weights": True},
        {"num_components": 4, "init": "data"},
    ],
    "flow": [{"kind": kind, "hidden": [8]} for kind in FlowPrior.KINDS],
}
PRIORS = [path.stem for path in sorted((CONFIGS / "prior").glob("*.yaml"))]
POSTERIORS = [path.stem for path in sorted((CONFIGS / "posterior").glob("*.yaml"))]
CONDITIONAL = ("normal", "mixture", "flow")
CASES = [
    pytest.param(entry, settings, context_dim, id=" ".join([entry, *map(str, settings.values()), *given]))
    for entry in PRIORS
    for settings in VARIANTS.get(entry, [{}])
    for context_dim, given in ((0, []), (C, ["context"]))
    if context_dim == 0 or entry in CONDITIONAL
]
every_prior = pytest.mark.parametrize("entry, settings, context_dim", CASES)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def node(group: str, entry: str, settings: dict[str, Any]) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / group / f"{entry}.yaml").read_text()) | settings


def perturbed(module: Any, size: float = 0.3) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


class Infer(nn.Module):
    """A linear encoder with a posterior."""

    def __init__(self, posterior: str = "normal", latent_dim: int = D) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Linear(math.prod(IMAGE_SHAPE), NUM_FEATURES).double()
            self.posterior: Any = build(
                node("posterior", posterior, {}),
                "posterior",
                num_features=NUM_FEATURES,
                latent_dim=latent_dim,
            ).double()
        self.noise_dim = self.posterior.noise_dim
        perturbed(self)

    def forward(self, x: Tensor) -> Any:
        return self.posterior.distribution(self.encoder(x.flatten(1)))

    def sample(self, x: Tensor, eps: Tensor) -> Any:
        return self.posterior(self.encoder(x.flatten(1)), eps)


class LogDensity(nn.Module):
    """z -> log p(z)."""

    def __init__(self, prior: Any) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, z: Tensor, infer: Any, context: Tensor | None) -> Tensor:
        return self.prior(infer=infer, context=context).log_prob(z)


def fresh(
    entry: str, settings: dict[str, Any], context_dim: int = 0, infer: Any = None, latent_dim: int = D
) -> Any:
    """The prior of a configuration in float64, with its initial weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(
            node("prior", entry, settings), "prior",
            latent_dim=latent_dim, context_dim=context_dim, image_shape=IMAGE_SHAPE, pixel_range=PIXEL_RANGE,
            posterior_noise_dim=infer.noise_dim if infer else latent_dim,
        ).double()  # fmt: skip


def make(entry: str, *args: Any, **kwargs: Any) -> Any:
    """The same, away from its initial weights."""
    prior = fresh(entry, *args, **kwargs)
    if getattr(prior, "num_images_wanted", 0):
        prior.initialise(torch.tanh(normal(*prior.raw.shape, seed=3)))
    return perturbed(prior, 0.1 if entry == "flow" else 0.3)  # a grid misses the far tails of wilder flows


def context_for(context_dim: int, n: int) -> Tensor | None:
    return normal(n, C, seed=7) if context_dim else None


@every_prior
def test_density_integrates_to_one_and_draws_have_its_moments(
    entry: str, settings: dict[str, Any], context_dim: int
) -> None:
    prior, infer, n = make(entry, settings, context_dim), Infer(), 50_000
    context = context_for(context_dim, 1)
    with torch.no_grad():
        z = prior.draw(normal(n, prior.noise_dim), infer=infer, context=context)
        assert z.shape == (n, D)
        axes = [torch.linspace(-8, 8, 241, dtype=torch.float64) * s + m for m, s in zip(z.mean(0), z.std(0))]
        grid = torch.cartesian_prod(*axes)
        area = math.prod((axis[1] - axis[0]).item() for axis in axes)
        mass = prior(infer=infer, context=context).log_prob(grid).exp() * area
        assert mass.sum().item() == pytest.approx(1, abs=1e-3)
        for powers in ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2)):
            moment = z.pow(torch.tensor(powers)).prod(-1)
            expected = (grid.pow(torch.tensor(powers)).prod(-1) * mass).sum()
            assert (moment.mean() - expected).abs() < 4 * moment.std() / math.sqrt(n) + 2e-3 * expected.abs()


@every_prior
@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_shapes_and_finite_densities_of_draws(
    entry: str, settings: dict[str, Any], context_dim: int, latent_dim: int
) -> None:
    infer = Infer(latent_dim=latent_dim)
    prior = make(entry, settings, context_dim, infer=infer, latent_dim=latent_dim)
    context = context_for(context_dim, B)
    p = prior(infer=infer, context=context)
    assert p.event_shape == (latent_dim,)
    assert p.batch_shape == ((B,) if context_dim else ())
    for lead in ((B,), (K, B), (2, K, B)):
        z = prior.draw(3 * normal(*lead, prior.noise_dim), infer=infer, context=context)
        assert z.shape == (*lead, latent_dim)
        assert p.log_prob(z).shape == lead
        assert p.log_prob(z).isfinite().all()


@every_prior
def test_each_image_has_its_own_context(entry: str, settings: dict[str, Any], context_dim: int) -> None:
    prior, infer, z = make(entry, settings, context_dim), Infer(), normal(K, B, D)
    context, eps = context_for(context_dim, B), normal(K, B, prior.noise_dim, seed=1)
    draws = prior.draw(eps, infer=infer, context=context)
    log_p = prior(infer=infer, context=context).log_prob(z)
    for k, b in itertools.product(range(K), range(B)):
        own = None if context is None else context[b]
        torch.testing.assert_close(prior.draw(eps[k, b], infer=infer, context=own), draws[k, b])
        torch.testing.assert_close(prior(infer=infer, context=own).log_prob(z[k, b]), log_p[k, b])
    if context is not None:
        assert not torch.allclose(prior(context=context + 1).log_prob(z), log_p)
        assert not torch.allclose(prior.draw(eps, context=context + 1), draws)
        with pytest.raises(ValueError, match="context is missing"):
            prior()
        with pytest.raises(ValueError, match=r"context is of shape \[5, 4\]"):
            prior.draw(eps, context=normal(B, C + 1))


@every_prior
def test_no_randomness_but_the_noise_given(entry: str, settings: dict[str, Any], context_dim: int) -> None:
    prior = make(entry, settings, context_dim)
    draw = partial(prior.draw, infer=Infer(), context=context_for(context_dim, B))
    eps, state = normal(B, prior.noise_dim), torch.random.get_rng_state()
    assert torch.equal(draw(eps), draw(eps))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(draw(eps), draw(eps + 1))


@every_prior
def test_every_parameter_gets_the_gradient_of_finite_differences(
    entry: str, settings: dict[str, Any], context_dim: int
) -> None:
    prior, infer, z = make(entry, settings, context_dim), Infer(), normal(K, B, D).requires_grad_()
    context, density = context_for(context_dim, B), LogDensity(prior)
    names = [name for name, _ in density.named_parameters()]

    def log_p(z: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(density, given, (z, infer, context))

    assert all(parameter.requires_grad for parameter in prior.parameters())
    inputs = (z, *(parameter.detach().requires_grad_() for parameter in prior.parameters()))
    assert torch.autograd.gradcheck(log_p, inputs, fast_mode=True)
    gradients = torch.autograd.grad(log_p(*inputs).sum(), inputs)
    assert all((gradient != 0).any() for gradient in gradients)


@every_prior
def test_a_loaded_prior_is_the_saved_one(
    entry: str, settings: dict[str, Any], context_dim: int, tmp_path: Path
) -> None:
    prior, other = make(entry, settings, context_dim), fresh(entry, settings, context_dim)
    infer, context, z = Infer(), context_for(context_dim, B), normal(K, B, D)
    eps = normal(B, prior.noise_dim)
    torch.save(prior.state_dict(), tmp_path / "weights")
    other.load_state_dict(torch.load(tmp_path / "weights"))
    given = {"infer": infer, "context": context}
    assert torch.equal(other(**given).log_prob(z), prior(**given).log_prob(z))
    assert torch.equal(other.draw(eps, **given), prior.draw(eps, **given))


@every_prior
def test_a_prior_says_whether_it_needs_inference(
    entry: str, settings: dict[str, Any], context_dim: int
) -> None:
    prior, context = make(entry, settings, context_dim), context_for(context_dim, B)
    if prior.needs_inference:
        with pytest.raises(ValueError, match="needs `infer`"):
            prior(context=context)
    else:
        assert prior(context=context).log_prob(normal(K, B, D)).shape == (K, B)


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("entry, context_dim", [("standard_normal", 0), ("normal", 0), ("normal", C)])
def test_closed_form_kl_is_the_mean_of_log_q_minus_log_p(
    posterior: str, entry: str, context_dim: int
) -> None:
    infer, n, x = Infer(posterior), 1_000_000, normal(2, *IMAGE_SHAPE)
    p = make(entry, {}, context_dim)(context=context_for(context_dim, 2))
    if posterior == "flow":
        with pytest.raises(NotImplementedError):
            kl_divergence(infer(x), p)
        assert closed_form_kl(infer(x), p) is None
        return
    with torch.no_grad():
        sample = infer.sample(x, normal(n, 2, infer.noise_dim, seed=1))
        kl, draws = kl_divergence(sample.distribution, p), sample.log_q - p.log_prob(sample.z)
        assert kl.shape == (2,)
        assert ((draws.mean(0) - kl).abs() < 4 * draws.std(0) / math.sqrt(n)).all()
        ours = closed_form_kl(sample.distribution, p)
        assert ours is not None
        assert ours.shape == (2, D if posterior == "normal" else 1)
        torch.testing.assert_close(ours.sum(-1), kl)


def test_kl_per_dimension_is_that_of_torch_and_is_zero_at_the_prior() -> None:
    mean, log_variance, m, s = (
        normal(K, 4, seed=1),
        normal(K, 4, seed=2),
        normal(4, seed=3),
        normal(4, seed=4),
    )
    q, p = LogVarianceNormal(mean, log_variance), LogVarianceNormal(m, s)
    plain = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(m, (s / 2).exp()))
    torch.testing.assert_close(kl_divergence(q, p), plain)
    torch.testing.assert_close(kl_divergence(p, p), torch.zeros_like(m))


@pytest.mark.parametrize("context_dim", [0, C])
def test_a_learned_normal_starts_at_the_standard_normal(context_dim: int) -> None:
    p = fresh("normal", {}, context_dim)(context=context_for(context_dim, B))
    standard = fresh("standard_normal", {})()
    z = normal(K, B, D)
    torch.testing.assert_close(p.log_prob(z), standard.log_prob(z))


def test_components_are_chosen_as_often_as_their_weights_say() -> None:
    logits, n = torch.tensor([0.3, -1.0, 1.2, -4.0], dtype=torch.float64), 400_000
    weights = logits.softmax(0)
    counts = torch.bincount(choose(logits, normal(n)), minlength=4)
    assert ((counts / n - weights).abs() < 4 * (weights * (1 - weights) / n).sqrt()).all()
    extremes = torch.tensor([-torch.inf, -40.0, 40.0, torch.inf], dtype=torch.float64)
    assert choose(logits, extremes).tolist() == [0, 0, 3, 3]
    assert choose(logits.float(), extremes.float()).tolist() == [0, 0, 3, 3]


def test_a_draw_of_the_mixture_is_of_the_component_that_was_chosen() -> None:
    prior = make("mixture", {"num_components": 3})
    with torch.no_grad():
        prior.mean.bias.copy_(torch.tensor([[-100.0, 0], [0, 100], [100, 0]]))
        prior.logits.copy_(torch.tensor([1.0, 2.0, 0.5]))
    n, weights = 100_000, prior.logits.softmax(0)
    z = prior.draw(normal(n, D + 1))
    nearest = torch.cdist(z, prior.mean.bias).argmin(-1)
    counts = torch.bincount(nearest, minlength=3)
    assert ((counts / n - weights).abs() < 4 * (weights * (1 - weights) / n).sqrt()).all()
    for m in range(3):
        scale = (z[nearest == m] - prior.mean.bias[m]).std(0)
        torch.testing.assert_close(scale, (prior.log_variance.bias[m] / 2).exp(), rtol=0.02, atol=0)


def test_the_mixture_is_exact_in_float32_where_components_are_narrow() -> None:
    prior = make("mixture", {"num_components": 50}, latent_dim=20)
    with torch.no_grad():
        prior.log_variance.bias.copy_(-12 + normal(50, 20))
        prior.mean.bias.mul_(3)
        z = prior.draw(normal(100, 21)).float()
        single = prior.float()().log_prob(z)
        p = prior.double()()
        plain = torch.logsumexp(
            p.mixture_distribution.logits + p.component_distribution.log_prob(z.double()[:, None]), -1
        )
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), plain, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("learned_weights", [False, True])
def test_vamp_is_the_mixture_of_posteriors(posterior: str, learned_weights: bool) -> None:
    infer = Infer(posterior)
    prior = make("vamp", {"num_components": 3, "learned_weights": learned_weights}, infer=infer)
    z, weights = normal(K, B, D), prior.logits.softmax(0)
    assert learned_weights or torch.equal(weights, torch.full_like(weights, 1 / 3))
    components = [infer(u.unsqueeze(0)).log_prob(z.reshape(-1, 1, D)).view(K, B) for u in prior.pseudo_inputs]
    density = torch.stack([w * log_q.exp() for w, log_q in zip(weights, components, strict=True)]).sum(0)
    torch.testing.assert_close(prior(infer=infer).log_prob(z), density.log())
    # a draw is a posterior's sample, of the pseudo-input that the last number chooses
    eps = normal(20, prior.noise_dim, seed=2)
    chosen = choose(prior.logits, eps[:, -1])
    for m, noise, draw in zip(chosen, eps, prior.draw(eps, infer=infer), strict=True):
        sample = infer.sample(prior.pseudo_inputs[m : m + 1], noise[:-1].view(1, 1, -1))
        torch.testing.assert_close(draw, sample.z.view(D))


def test_vamp_pseudo_inputs_stay_inside_the_pixel_range_and_start_at_images() -> None:
    prior = fresh("vamp", {"num_components": 4, "init": "data"})
    assert prior.num_images_wanted == 4
    assert fresh("vamp", {"num_components": 4}).num_images_wanted == 0
    images = torch.tanh(3 * normal(4, *IMAGE_SHAPE, seed=3))
    images[0] = PIXEL_RANGE[1]
    prior.initialise(images)
    torch.testing.assert_close(prior.pseudo_inputs, images.clamp(-0.98, 0.98))
    with torch.no_grad():
        prior.raw.mul_(1000)
    assert prior.pseudo_inputs.abs().max() <= 1
    with pytest.raises(ValueError, match=r"wants images of shape \[4, 1, 2, 3\], given are \[3, 1, 2, 3\]"):
        prior.initialise(images[:3])


def test_vamp_refuses_what_it_cannot_be_made_of() -> None:
    prior, infer = make("vamp", {"num_components": 4}), Infer()
    wide = Infer("low_rank_normal")
    for call in (lambda: prior(infer=wide), lambda: prior.draw(normal(B, D + 1), infer=wide)):
        with pytest.raises(ValueError, match="posterior_noise_dim=2, the posterior takes 4"):
            call()
    with pytest.raises(ValueError, match="no labels"):
        prior(infer=infer, context=normal(B, C))
    with pytest.raises(SettingError, match=r"^prior=vamp: .*no labels"):
        fresh("vamp", {}, C)


@pytest.mark.parametrize("context_dim", [0, C])
@pytest.mark.parametrize("kind", FlowPrior.KINDS)
def test_a_flow_is_undone_by_its_inverse_and_counts_its_volume(kind: str, context_dim: int) -> None:
    prior = make("flow", {"kind": kind, "hidden": [8]}, context_dim, latent_dim=3)
    context, eps = context_for(context_dim, B), 1.5 * normal(K, B, 3)
    z = prior.draw(eps, context=context)
    transform = prior(context=context).transform
    torch.testing.assert_close(transform(z), eps, rtol=1e-6, atol=1e-8)
    own = None if context is None else context[0]
    for point in z[:, 0]:
        noise, log_det = prior(context=own).transform.call_and_ladj(point)
        jacobian: Any = torch.autograd.functional.jacobian(prior(context=own).transform, point)
        torch.testing.assert_close(log_det, jacobian.slogdet().logabsdet)
        log_p = Independent(Normal(torch.zeros_like(noise), 1.0), 1).log_prob(noise) + log_det
        torch.testing.assert_close(prior(context=own).log_prob(point), log_p)


@pytest.mark.parametrize(
    "entry, key, value",
    [
        ("mixture", "num_components", 0),
        ("vamp", "num_components", 2.5),
        ("vamp", "init", "zeros"),
        ("vamp", "learned_weights", "yes"),
        ("flow", "kind", "glow"),
        ("flow", "num_transforms", 0),
        ("flow", "hidden", [8, -1]),
    ],
)
def test_wrong_settings_are_refused(entry: str, key: str, value: object) -> None:
    with pytest.raises(SettingError, match=rf"^prior\.{key}="):
        fresh(entry, {key: value})


def test_vamp_trains_its_pseudo_inputs_and_the_posterior() -> None:
    infer = Infer()
    prior = VampPrior(D, IMAGE_SHAPE, PIXEL_RANGE, infer.noise_dim, num_components=3).double()
    assert isinstance(infer.posterior, NormalPosterior)
    prior(infer=infer).log_prob(normal(K, B, D)).sum().backward()
    for parameter in (*prior.parameters(), *infer.parameters()):
        assert parameter.grad is not None
        assert (parameter.grad != 0).any()


def test_components_in_pieces_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    mean = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    factor = torch.eye(2, dtype=torch.float64).expand(4, 2, 2)
    z = torch.randn(3, 5, 2, dtype=torch.float64)

    def values() -> tuple[torch.Tensor, torch.Tensor]:
        mixture = Mixture(torch.zeros(4, dtype=torch.float64), MultivariateNormal(mean, scale_tril=factor))
        log_prob = mixture.log_prob(z)
        return log_prob.detach(), torch.autograd.grad(log_prob.sum(), mean)[0]

    whole = values()
    monkeypatch.setattr("vaelab.priors.mixture.AT_ONCE", 16)  # two of fifteen z at a time
    for a, b in zip(values(), whole, strict=True):
        torch.testing.assert_close(a, b)
