import pytest
import torch
from torch.distributions import Independent, Normal

from oracles import Oracle, pixel_model
from vaelab.batch import Batch
from vaelab.errors import SettingError
from vaelab.latents import RateAccumulator, rate_per_dimension
from vaelab.priors import MixturePrior


def pixel_batch(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 1, 1, generator=generator, dtype=torch.float64)
    return Batch(x, torch.zeros(n, dtype=torch.int64), torch.arange(n))


def noise(K, n, dim, seed=1):
    return torch.randn(K, n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rates(model, batch, eps, parts):
    accumulator = RateAccumulator()
    first = 0
    with torch.no_grad():
        for count in parts:
            rows = slice(first, first + count)
            accumulator.update(model(Batch(batch.x[rows], batch.y[rows], batch.index[rows]), eps[:, rows]))
            first += count
    return accumulator.compute()


def test_rates_of_dimensions_are_the_integrals_of_log_q_minus_log_p():
    mean = torch.tensor([[0.3, -1.0], [0.0, 2.0]], dtype=torch.float64)
    stddev = torch.tensor([[0.5, 1.0], [1.5, 0.2]], dtype=torch.float64)
    z = torch.linspace(-15, 15, 60_001, dtype=torch.float64).view(-1, 1, 1)
    for prior in (None, Independent(Normal(torch.tensor([0.5, -0.5]), torch.tensor([2.0, 0.7])), 1)):
        p = Normal(torch.zeros(2), torch.ones(2)) if prior is None else prior.base_dist
        q = Normal(mean, stddev)
        integral = torch.trapezoid(q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z)), z, dim=0)
        torch.testing.assert_close(
            rate_per_dimension(mean, stddev, prior), integral.mean(0), rtol=0, atol=1e-7
        )


def test_a_prior_without_closed_form_is_refused():
    with pytest.raises(SettingError, match="Mixture"):
        rate_per_dimension(torch.zeros(3, 2), torch.ones(3, 2), MixturePrior(2, 3)())


@pytest.mark.parametrize("parts", [[7], [3, 3, 1], [1, 6]])
def test_the_rate_of_a_model_is_the_mean_over_images_whatever_the_batches(parts):
    oracle = Oracle(exact=False)
    (found,) = rates(oracle.model, oracle.batch, oracle.eps(1), parts)
    layer = oracle.model.encode(oracle.batch)
    mean, stddev = layer.mean, layer.stddev
    assert mean is not None
    assert stddev is not None
    assert found.per_dimension is not None
    torch.testing.assert_close(found.per_dimension, rate_per_dimension(mean, stddev))
    assert found.closed_form
    assert found.total.num_images == 7
    assert found.total.value == pytest.approx(found.per_dimension.sum().item(), rel=1e-12)
    assert found.total.se_mc is None  # nothing was sampled


@pytest.mark.parametrize(
    "kind, closed_form", [("vae", [True]), ("hierarchical", [False, True]), ("ladder", [True, True])]
)
def test_each_layer_says_whether_its_rate_has_a_closed_form(kind, closed_form):
    model, batch = pixel_model(kind), pixel_batch(5)
    found = rates(model, batch, noise(3, 5, model.noise_dim), [2, 3])
    assert [layer.closed_form for layer in found] == closed_form
    assert [layer.per_dimension is not None for layer in found] == closed_form
    # given samples of the layer above, the closed form has noise; that of the topmost one has none
    sampled = {"vae": [False], "hierarchical": [True, True], "ladder": [True, False]}[kind]
    assert [layer.total.se_mc is not None for layer in found] == sampled


def test_a_rate_by_samples_is_the_closed_form_within_its_error():
    model, batch = pixel_model("ladder"), pixel_batch(4)
    K = 20_000
    eps = noise(K, 4, model.noise_dim)
    exact = rates(model, batch, eps, [4])
    with torch.no_grad():
        terms = model(batch, eps)
    for layer, known in zip(terms.layers, exact, strict=True):
        samples = (layer.log_q - layer.log_p).mean(1)
        se = samples.std().item() / K**0.5
        assert abs(samples.mean().item() - known.total.value) < 4 * se
    bottom = rates(pixel_model("hierarchical"), batch, eps, [4])[0]
    halves = [rates(pixel_model("hierarchical"), batch, part, [4])[0].total for part in eps.chunk(2)]
    assert bottom.total.se_mc is not None
    assert abs(halves[0].value - halves[1].value) < 4 * 2 * bottom.total.se_mc
    assert bottom.total.se_mc < 0.02


def test_no_terms_no_rate():
    with pytest.raises(ValueError, match="no terms"):
        RateAccumulator().compute()
