import pytest
import torch

from oracles import PIXELS, Flat, Oracle, pixel_model
from vaelab.batch import Batch
from vaelab.errors import SettingError
from vaelab.latents import ActivityAccumulator, Codes, codes
from vaelab.models import VAE
from vaelab.posteriors import FlowPosterior
from vaelab.priors import MixturePrior, NormalPrior


def in_parts(batch, *sizes):
    return [
        Batch(x, y, i)
        for x, y, i in zip(batch.x.split(sizes), batch.y.split(sizes), batch.index.split(sizes), strict=True)
    ]


@pytest.mark.parametrize("sizes", [(7,), (3, 3, 1)])
def test_codes_are_what_the_model_says_in_the_order_of_the_images(sizes):
    oracle = Oracle(exact=False)
    eps = oracle.eps(3)
    found = codes(oracle.model, in_parts(oracle.batch, *sizes), lambda index: eps[:, index])
    layer = oracle.model(oracle.batch, eps).layers[0]
    assert found.stddev is not None
    assert found.log_p is not None
    assert found.diagonal
    torch.testing.assert_close(found.mean, layer.mean.detach())
    torch.testing.assert_close(found.stddev, layer.stddev.detach())
    torch.testing.assert_close(found.z, layer.z.detach())
    torch.testing.assert_close(found.log_p.sum(-1), layer.log_p.detach())
    assert found.log_p.shape == (3, 7, 2)
    assert found.index.tolist() == list(range(7))
    assert not found.mean.requires_grad
    assert not found.z.requires_grad
    alone = codes(oracle.model, in_parts(oracle.batch, *sizes))
    torch.testing.assert_close(alone.mean, found.mean)
    assert alone.z.shape == (0, 7, 2)
    assert alone.log_p is None


def with_parts(posterior, prior):
    model = Oracle(exact=False).model
    return VAE(Flat(), posterior.double(), prior.double(), model.decoder, model.likelihood)


def test_priors_of_dependent_dimensions_give_one_number_and_flows_no_stddev():
    oracle = Oracle(exact=False)
    torch.manual_seed(0)
    eps = oracle.eps(2)
    found = codes(
        with_parts(oracle.model.posterior, MixturePrior(2, 3)), [oracle.batch], lambda index: eps[:, index]
    )
    assert found.log_p is not None
    assert found.log_p.shape == (2, 7, 1)
    assert found.diagonal
    flow = with_parts(FlowPosterior(PIXELS, 2), NormalPrior(2))
    found = codes(flow, [oracle.batch], lambda index: eps[:, index])
    assert found.stddev is None
    assert not found.diagonal
    torch.testing.assert_close(found.mean, flow.encode(oracle.batch).z[0].detach())


@pytest.mark.parametrize("kind, known", [("hierarchical", False), ("ladder", True), ("top_down", True)])
def test_the_code_is_the_topmost_layer(kind, known):
    model = pixel_model(kind)
    x = torch.linspace(0, 1, 4, dtype=torch.float64).view(4, 1, 1, 1)
    batch = Batch(x, torch.zeros(4, dtype=torch.int64), torch.arange(4))
    eps = torch.randn(1, 4, model.noise_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = codes(model, [batch], lambda index: eps[:, index])
    torch.testing.assert_close(found.z, model(batch, eps).layers[-1].z.detach())
    assert found.diagonal == known
    assert (found.stddev is not None) == known


def numbered(K, N):
    z = torch.arange(K * N, dtype=torch.float64).view(K, N, 1)  # z = k N + n
    return Codes(torch.zeros(N, 1), None, False, torch.zeros(N), torch.arange(N), z, 10 * z)


@pytest.mark.parametrize(
    "K, N, M", [(1, 10, 10), (1, 10, 4), (3, 10, 10), (3, 10, 30), (3, 10, 17), (2, 6, 3)]
)
def test_draws_are_of_images_spread_evenly(K, N, M):
    draws = numbered(K, N).draws(M)
    assert draws.z.shape == (M, 1)
    assert len(set(draws.z.flatten().tolist())) == M  # no sample twice
    assert torch.equal(draws.z.flatten() % N, draws.source.double())
    assert draws.log_p is not None
    torch.testing.assert_close(draws.log_p, 10 * draws.z)
    times = draws.source.bincount(minlength=N)
    assert times.max() - times.min() <= 1
    gaps = draws.source.diff()
    assert gaps.max() - gaps.min() <= 1


def test_draws_are_no_more_than_there_are():
    assert len(numbered(2, 5).draws(1000).z) == 10
    with pytest.raises(SettingError, match="num_samples=0"):
        numbered(2, 5).draws(0)
    with pytest.raises(ValueError, match="without noise"):
        numbered(0, 5).draws(3)
    with pytest.raises(ValueError, match="no batches"):
        codes(Oracle(exact=True).model, [])


@pytest.mark.parametrize("sizes", [(7,), (3, 3, 1)])
@torch.no_grad()
def test_the_activity_is_the_variance_of_the_means(sizes):
    oracle = Oracle(exact=False)
    accumulator = ActivityAccumulator()
    for batch in in_parts(oracle.batch, *sizes):
        accumulator.update(oracle.model(batch, torch.zeros(1, len(batch.x), 2, dtype=torch.float64)))
    mean = oracle.model.encode(oracle.batch).mean
    assert mean is not None
    (found,) = accumulator.compute()
    assert found is not None
    torch.testing.assert_close(found, mean.var(0, correction=1))


@torch.no_grad()
def test_the_activity_of_a_layer_inferred_from_samples_is_not_known():
    x = torch.linspace(0, 1, 4, dtype=torch.float64).view(4, 1, 1, 1)
    batch = Batch(x, torch.zeros(4, dtype=torch.int64), torch.arange(4))
    for kind, known in (("hierarchical", [True, False]), ("ladder", [False, True])):
        model = pixel_model(kind)
        accumulator = ActivityAccumulator()
        accumulator.update(model(batch, torch.zeros(1, 4, model.noise_dim, dtype=torch.float64)))
        assert [a is not None for a in accumulator.compute()] == known
