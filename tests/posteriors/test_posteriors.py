"""What every posterior promises: its sample, its density and its moments belong together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.distributions import Independent, Normal

from vaelab.build import build
from vaelab.errors import SettingError
from vaelab.posteriors import FlowPosterior

CONFIGS = Path(__file__).parents[2] / "configs" / "posterior"
F, D, K, B = 5, 2, 3, 4
#: settings of an entry that are other mathematics
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "full_normal": [{}, {"diagonal": "softplus"}],
    "low_rank_normal": [{"rank": 1}, {"rank": 3}],
    "flow": [{"kind": kind, "hidden": [8]} for kind in FlowPosterior.KINDS],
}
CASES = [
    pytest.param(path.stem, settings, id=" ".join([path.stem, *map(str, settings.values())]))
    for path in sorted(CONFIGS.glob("*.yaml"))
    for settings in VARIANTS.get(path.stem, [{}])
]
every_posterior = pytest.mark.parametrize("entry, settings", CASES)


def make(entry: str, settings: dict[str, Any], latent_dim: int = D) -> Any:
    """The posterior of a configuration in float64, away from its initial weights."""
    node = yaml.safe_load((CONFIGS / f"{entry}.yaml").read_text()) | settings
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        posterior = build(node, "posterior", num_features=F, latent_dim=latent_dim).double()
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return posterior


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_standard_normal(eps: Tensor) -> Tensor:
    return -0.5 * (eps.square() + math.log(2 * math.pi)).sum(-1)


@every_posterior
@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_log_q_of_the_sample_is_the_density_of_the_distribution(
    entry: str, settings: dict[str, Any], latent_dim: int
) -> None:
    posterior = make(entry, settings, latent_dim)
    assert posterior.noise_dim >= latent_dim
    sample = posterior(normal(B, F), normal(K, B, posterior.noise_dim, seed=1))
    assert sample.z.shape == (K, B, latent_dim)
    assert sample.distribution.batch_shape == (B,)
    assert sample.distribution.event_shape == (latent_dim,)
    assert sample.log_q.shape == (K, B)
    torch.testing.assert_close(sample.log_q, sample.distribution.log_prob(sample.z))
    torch.testing.assert_close(sample.log_q, posterior.distribution(normal(B, F)).log_prob(sample.z))


@every_posterior
def test_each_image_has_its_own_features(entry: str, settings: dict[str, Any]) -> None:
    posterior = make(entry, settings)
    features, eps = normal(B, F), normal(K, B, posterior.noise_dim, seed=1)
    whole = posterior(features, eps)
    for k in range(K):
        for b in range(B):
            one = posterior(features[b : b + 1], eps[k : k + 1, b : b + 1])
            torch.testing.assert_close(one.z, whole.z[k : k + 1, b : b + 1])
            torch.testing.assert_close(one.log_q, whole.log_q[k : k + 1, b : b + 1])


@every_posterior
@pytest.mark.parametrize("num_samples", [1, K])
def test_features_may_differ_from_sample_to_sample(
    entry: str, settings: dict[str, Any], num_samples: int
) -> None:
    posterior = make(entry, settings)
    features, eps = normal(num_samples, B, F), normal(num_samples, B, posterior.noise_dim, seed=1)
    sample = posterior(features, eps)
    assert sample.z.shape == (num_samples, B, D)
    for k in range(num_samples):
        one = posterior(features[k], eps[k : k + 1])
        for name in ("z", "log_q", *(["log_q_stopped"] if posterior.fast_density else [])):
            torch.testing.assert_close(getattr(sample, name)[k], getattr(one, name)[0])


@every_posterior
def test_no_randomness_but_the_noise_given(entry: str, settings: dict[str, Any]) -> None:
    posterior, features = make(entry, settings), normal(B, F)
    eps, state = normal(K, B, posterior.noise_dim), torch.random.get_rng_state()
    assert torch.equal(posterior(features, eps).z, posterior(features, eps).z)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(posterior(features, eps).z, posterior(features, eps + 1).z)


@every_posterior
def test_the_gradient_of_the_sample_is_that_of_finite_differences(
    entry: str, settings: dict[str, Any]
) -> None:
    posterior = make(entry, settings)
    eps, names = normal(K, 2, posterior.noise_dim, seed=1), [name for name, _ in posterior.named_parameters()]

    def sample(features: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.func.functional_call(
            posterior, dict(zip(names, parameters, strict=True)), (features, eps)
        )
        return found.z, found.log_q

    assert all(parameter.requires_grad for parameter in posterior.parameters())
    parameters = [parameter.detach().requires_grad_() for parameter in posterior.parameters()]
    features = normal(2, F).requires_grad_()
    assert torch.autograd.gradcheck(sample, (features, *parameters), fast_mode=True)
    z, log_q = sample(features, *parameters)
    gradients = torch.autograd.grad(z.sum() + log_q.sum(), parameters)
    assert all((gradient != 0).any() for gradient in gradients)


@every_posterior
def test_log_q_stopped_depends_on_z_alone(entry: str, settings: dict[str, Any]) -> None:
    posterior, features = make(entry, settings), normal(B, F).requires_grad_()
    sample = posterior(features, normal(K, B, posterior.noise_dim, seed=1))
    if not posterior.fast_density:
        with pytest.raises(SettingError, match=r"^posterior\.kind=inverse_autoregressive: .* use coupling"):
            _ = sample.log_q_stopped
        return
    torch.testing.assert_close(sample.log_q_stopped, sample.log_q)
    leaf = sample.z.detach().requires_grad_()
    (expected,) = torch.autograd.grad(posterior.distribution(features).log_prob(leaf).sum(), leaf)
    (by_z,) = torch.autograd.grad(sample.log_q_stopped.sum(), sample.z, retain_graph=True)
    torch.testing.assert_close(by_z, expected)
    # to anything else there is no way but through z
    inputs = [features, *posterior.parameters()]
    all_ways = torch.autograd.grad(
        sample.log_q_stopped.sum(), inputs, retain_graph=True, materialize_grads=True
    )
    through_z = torch.autograd.grad(sample.z, inputs, by_z, retain_graph=True, materialize_grads=True)
    torch.testing.assert_close(all_ways, through_z)
    full = torch.autograd.grad(sample.log_q.sum(), inputs, materialize_grads=True)
    assert any(not torch.allclose(a, b) for a, b in zip(all_ways, full, strict=True))


@every_posterior
def test_mean_and_stddev_are_those_of_many_samples(entry: str, settings: dict[str, Any]) -> None:
    posterior, n = make(entry, settings), 200_000
    with torch.no_grad():
        sample = posterior(normal(2, F), normal(n, 2, posterior.noise_dim, seed=1))
    assert (entry != "flow") == (sample.mean is not None) == (sample.stddev is not None)
    if sample.mean is None:
        return
    assert sample.mean.shape == sample.stddev.shape == (2, D)
    assert ((sample.z.mean(0) - sample.mean).abs() < 4 * sample.stddev / math.sqrt(n)).all()
    assert ((sample.z.std(0) - sample.stddev).abs() < 4 * sample.stddev / math.sqrt(2 * n)).all()


@every_posterior
def test_the_density_integrates_to_one(entry: str, settings: dict[str, Any]) -> None:
    posterior, features = make(entry, settings), normal(1, F)
    with torch.no_grad():
        z = posterior(features, normal(10_000, 1, posterior.noise_dim, seed=1)).z[:, 0]
        axes = [
            torch.linspace(-10, 10, 401, dtype=torch.float64) * s + m for m, s in zip(z.mean(0), z.std(0))
        ]
        grid = torch.cartesian_prod(*axes).unsqueeze(1)
        area = math.prod((axis[1] - axis[0]).item() for axis in axes)
        total = posterior.distribution(features).log_prob(grid).exp().sum() * area
    assert total.item() == pytest.approx(1, abs=1e-3)


@every_posterior
def test_log_q_counts_the_volume_that_the_map_from_noise_to_z_takes(
    entry: str, settings: dict[str, Any]
) -> None:
    posterior, features = make(entry, settings, latent_dim=3), normal(1, F)
    if posterior.noise_dim != 3:
        pytest.skip("more noise than dimensions: the map has no inverse")
    for eps in normal(5, 3, seed=1):
        jacobian: Any = torch.autograd.functional.jacobian(
            lambda e: posterior(features, e.view(1, 1, 3)).z.view(3), eps
        )
        log_q = posterior(features, eps.view(1, 1, 3)).log_q.squeeze()
        torch.testing.assert_close(log_q, log_standard_normal(eps) - jacobian.slogdet().logabsdet)


@every_posterior
def test_a_loaded_posterior_is_the_saved_one(entry: str, settings: dict[str, Any], tmp_path: Path) -> None:
    posterior, features = make(entry, settings), normal(B, F)
    eps = normal(K, B, posterior.noise_dim)
    torch.save(posterior.state_dict(), tmp_path / "weights")
    other = build(
        yaml.safe_load((CONFIGS / f"{entry}.yaml").read_text()) | settings, "posterior",
        num_features=F, latent_dim=D,
    ).double()  # fmt: skip
    assert not torch.equal(other(features, eps).z, posterior(features, eps).z)
    other.load_state_dict(torch.load(tmp_path / "weights"))
    assert torch.equal(other(features, eps).z, posterior(features, eps).z)
    assert torch.equal(other(features, eps).log_q, posterior(features, eps).log_q)


@pytest.mark.parametrize("kind", FlowPosterior.KINDS)
@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_a_flow_is_undone_by_its_inverse(kind: str, latent_dim: int) -> None:
    posterior = make("flow", {"kind": kind}, latent_dim)
    features, eps = normal(B, F), normal(K, B, latent_dim, seed=1)
    to_noise: Any = posterior.distribution(features)
    z = posterior(features, eps).z
    torch.testing.assert_close(to_noise.transform(z), eps)
    torch.testing.assert_close(to_noise.transform.inv(eps), z)


@pytest.mark.parametrize("kind", FlowPosterior.KINDS)
def test_every_dimension_of_a_flow_depends_on_every_other(kind: str) -> None:
    posterior, features = make("flow", {"kind": kind}, latent_dim=4), normal(1, F)
    jacobian: Any = torch.autograd.functional.jacobian(
        lambda eps: posterior(features, eps.view(1, 1, 4)).z.view(4), normal(4, seed=1)
    )
    assert (jacobian != 0).sum() >= 12  # all but, for two halves, those of the half that is moved last


@pytest.mark.parametrize(
    "entry, kind", [("full_normal", "exp"), *(("flow", kind) for kind in FlowPosterior.KINDS)]
)
def test_q_starts_as_a_diagonal_gaussian(entry: str, kind: str) -> None:
    posterior: Any = build(
        {**yaml.safe_load((CONFIGS / f"{entry}.yaml").read_text()), "diagonal" if entry == "full_normal" else "kind": kind},
        "posterior", num_features=F, latent_dim=D,
    ).double()  # fmt: skip
    features, eps = normal(B, F), normal(K, B, D, seed=1)
    heads = posterior if entry == "full_normal" else posterior.flow
    raw = posterior.factor(features)[:, :D] if entry == "full_normal" else heads.log_variance(features)
    q = Independent(Normal(heads.mean(features), torch.exp(0.5 * raw)), 1)
    sample = posterior(features, eps)
    torch.testing.assert_close(sample.z, q.base_dist.mean + q.base_dist.stddev * eps)
    torch.testing.assert_close(sample.log_q, q.log_prob(sample.z))


@pytest.mark.parametrize("entry", ["full_normal", "low_rank_normal"])
def test_correlations_are_in_parts_of_the_standard_deviations(entry: str) -> None:
    """A small sigma is not drowned in what correlates it: both heads' numbers scale with it."""
    posterior, features = make(entry, {}), normal(1, F)
    head = posterior.factor if entry == "full_normal" else posterior.log_variance
    before = posterior.distribution(features).covariance_matrix
    with torch.no_grad():
        head.bias[:D] -= 2 * math.log(100)  # log sigma^2
    torch.testing.assert_close(posterior.distribution(features).covariance_matrix, before / 1e4)


def test_full_and_low_rank_normal_have_correlations() -> None:
    for entry in ("full_normal", "low_rank_normal"):
        covariance = make(entry, {}).distribution(normal(1, F)).covariance_matrix
        assert covariance[0, 0, 1].abs() > 0.05


def test_full_normal_starts_as_a_diagonal_gaussian() -> None:
    posterior = build(
        {"_target_": "vaelab.posteriors.FullNormalPosterior"}, "posterior", num_features=F, latent_dim=4
    )
    covariance = posterior.distribution(normal(B, F).float()).covariance_matrix
    assert torch.equal(covariance, torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1)))


def test_log_variance_normal_is_normal() -> None:
    posterior, z = make("normal", {}), normal(K, B, D, seed=2)
    q = posterior.distribution(normal(B, F))
    same = Independent(Normal(q.base_dist.mean, q.base_dist.stddev), 1)
    torch.testing.assert_close(q.log_prob(z), same.log_prob(z))


def test_torch_validates_its_distributions_as_before() -> None:
    with pytest.raises(ValueError, match="scale"):
        Normal(0.0, -1.0)


@pytest.mark.parametrize(
    "entry, key, value",
    [
        ("full_normal", "diagonal", "relu"),
        ("low_rank_normal", "rank", 0),
        ("low_rank_normal", "rank", 1.5),
        ("low_rank_normal", "rank", True),
        ("flow", "kind", "radial"),
        ("flow", "num_transforms", 0),
        ("flow", "hidden", []),
        ("flow", "hidden", [0]),
    ],
)
def test_wrong_settings_are_refused(entry: str, key: str, value: object) -> None:
    with pytest.raises(SettingError, match=rf"^posterior\.{key}="):
        make(entry, {key: value})
