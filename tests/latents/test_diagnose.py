from typing import Any

import pytest
import torch

from oracles import PIXELS, Flat, Oracle, pixel_model
from vaelab.batch import Batch
from vaelab.errors import SettingError
from vaelab.latents import change_by_cutting, codes, diagnose, information, linear_probe
from vaelab.models import VAE
from vaelab.posteriors import FlowPosterior, FullNormalPosterior, LowRankNormalPosterior, NormalPosterior
from vaelab.priors import MixturePrior, NormalPrior, StandardNormalPrior, VampPrior

N = 60
NAMES = ("rate", "mutual_information", "aggregate_kl", "total_correlation", "dimension_wise_kl")


def batches(pixels=PIXELS, sizes=(25, 25, 10), labelled=True, seed=0):
    n = sum(sizes)
    x = torch.randn(n, 1, 1, pixels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y = (x.flatten(1)[:, 0] > 0).long() if labelled else torch.full((n,), -1)
    parts = zip(x.split(sizes), y.split(sizes), torch.arange(n).split(sizes), strict=True)
    return [Batch(*part) for part in parts]


def noise_of(model, K=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(K, N, model.noise_dim, generator=generator, dtype=torch.float64)
    return lambda index: eps[:, index]


def model_of(posterior, prior=None):
    torch.manual_seed(0)
    oracle = Oracle(exact=False).model
    made = posterior(PIXELS, 2).double()
    prior = StandardNormalPrior(2) if prior is None else prior(made)
    return VAE(Flat(), made, prior.double(), oracle.decoder, oracle.likelihood)


def test_a_diagnosis_is_what_the_parts_say():
    model = Oracle(exact=False).model
    test, train = batches(), batches(seed=5)
    said = []
    found = diagnose(
        model, test, noise_of(model), num_samples=50, train_batches=train, cut_noise=noise_of(model, 20, 2),
        threshold=0.9, progress=lambda *what: said.append(what),
    )  # fmt: skip
    code = codes(model, test, noise_of(model))
    draws = code.draws(50)
    assert code.stddev is not None
    expected = information(code.mean, code.stddev, draws.z, draws.source, draws.log_p)
    for name in NAMES:
        assert getattr(found.information, name) == getattr(expected, name)
    assert not found.missing
    assert found.num_images == N
    (rate,), (activity,), (active,) = found.rates, found.activities, found.active
    assert rate.per_dimension is not None
    assert activity is not None
    assert active is not None
    torch.testing.assert_close(activity, code.mean.var(0, correction=1))
    assert torch.equal(active, activity > 0.9)
    assert 0 < int(active.sum()) < 2
    assert found.moments is not None
    torch.testing.assert_close(found.moments.mean, code.mean.mean(0))
    fitted = codes(model, train)
    assert found.linear is not None
    assert found.linear == linear_probe(fitted.mean, fitted.labels, code.mean, code.labels)
    assert found.linear.accuracy > 0.7
    assert found.nearest is not None
    assert found.nearest.num_train == N
    assert found.cut == change_by_cutting(model, ~active, test, noise_of(model, 20, 2))
    assert {what for what, _, _ in said} == {
        "codes", "log q(z)", "log q(z_d)", "probes", "nll without the inactive dimensions",
    }  # fmt: skip
    assert ("codes", 3, 3) in said


@pytest.mark.parametrize("sizes", [(60,), (1, 59), (20, 20, 20)])
def test_nothing_depends_on_the_batches(sizes):
    model = model_of(FullNormalPosterior)
    first = diagnose(model, batches(), noise_of(model))
    other = diagnose(model, batches(sizes=sizes), noise_of(model), at_once=100)
    for name in ("rate", "mutual_information", "aggregate_kl"):
        a, b = getattr(first.information, name), getattr(other.information, name)
        assert a.value == pytest.approx(b.value, rel=1e-9)
        assert a.se == pytest.approx(b.se, rel=1e-9)
    assert first.rates[0].total.value == pytest.approx(other.rates[0].total.value, rel=1e-12)


def test_the_general_way_is_the_way_of_diagonal_gaussians():
    """A full covariance that starts without correlations, given the heads of a diagonal one."""
    full, diagonal = model_of(FullNormalPosterior), model_of(NormalPosterior)
    with torch.no_grad():
        diagonal.posterior.mean.weight.copy_(full.posterior.mean.weight)
        diagonal.posterior.mean.bias.copy_(full.posterior.mean.bias)
        diagonal.posterior.log_variance.weight.copy_(full.posterior.factor.weight[:2])
        diagonal.posterior.log_variance.bias.copy_(full.posterior.factor.bias[:2])
    a, b = (diagnose(model, batches(), noise_of(model)) for model in (full, diagonal))
    for name in ("rate", "mutual_information", "aggregate_kl"):
        x, y = getattr(a.information, name), getattr(b.information, name)
        assert x.value == pytest.approx(y.value, rel=1e-9)
    assert a.rates[0].per_dimension is None
    assert a.rates[0].closed_form
    assert a.rates[0].total.value == pytest.approx(b.rates[0].total.value, rel=1e-9)
    assert set(a.missing) == {
        "total_correlation", "dimension_wise_kl", "moments", "linear", "nearest", "cut",
    }  # fmt: skip


def coupling(features, dim):
    return FlowPosterior(features, dim, kind="coupling")


@pytest.mark.parametrize(
    "posterior, prior, gone",
    [
        (NormalPosterior, lambda q: NormalPrior(2), set()),
        (NormalPosterior, lambda q: MixturePrior(2, 3), {"dimension_wise_kl"}),
        (NormalPosterior, lambda q: VampPrior(2, (1, 1, PIXELS), (0.0, 1.0), q.noise_dim, 4), {"dimension_wise_kl"}),
        (LowRankNormalPosterior, None, {"total_correlation", "dimension_wise_kl"}),
        (coupling, None, {"total_correlation", "dimension_wise_kl"}),
        (FlowPosterior, None, set(NAMES)),
    ],
)  # fmt: skip
def test_every_posterior_and_prior(posterior, prior, gone):
    model = model_of(posterior, prior)
    found = diagnose(model, batches(), noise_of(model, 40))
    for name in NAMES:
        assert (getattr(found.information, name) is None) == (name in gone)
        assert (name in found.missing) == (name in gone)
    if "rate" not in gone:
        term = found.information.rate
        assert term is not None
        total = found.rates[0].total
        assert term.num_samples == 2000
        assert abs(term.value - total.value) < 4 * (term.se + (total.se_mc or 0))
    assert (found.activities[0] is None) == ("activities" in found.missing)


@pytest.mark.parametrize("kind", ["vae", "hierarchical", "ladder", "top_down"])
def test_every_model(kind):
    model = pixel_model(kind)
    found = diagnose(
        model, batches(1), noise_of(model, 30), train_batches=batches(1, seed=3), cut_noise=noise_of(model, 5)
    )
    layers = {"vae": 1, "hierarchical": 2, "ladder": 2, "top_down": 3}[kind]
    assert len(found.rates) == len(found.activities) == len(found.active) == layers
    assert found.linear is not None
    assert ("activities" in found.missing) == (layers > 1)
    if kind == "hierarchical":
        assert "samples of other layers" in found.missing["mutual_information"]
    else:
        term = found.information.rate  # of the code
        assert term is not None
        assert abs(term.value - found.rates[-1].total.value) < 4 * term.se
    if kind != "vae":
        assert "cut" in found.missing


def test_no_probe_without_labels():
    model = Oracle(exact=True).model
    found = diagnose(model, batches(labelled=False), noise_of(model), train_batches=batches())
    assert found.linear is None
    assert found.missing["linear"] == "no image has a label"


def test_no_probe_of_a_single_class():
    model = Oracle(exact=True).model
    alike = [Batch(b.x, torch.zeros_like(b.y), b.index) for b in batches()]
    found = diagnose(model, batches(), noise_of(model), train_batches=alike)
    assert found.linear is found.nearest is None
    assert found.missing["nearest"] == "the training images have fewer than two classes"


def test_what_cannot_be_is_refused_at_once():
    model = Oracle(exact=True).model
    with pytest.raises(ValueError, match="more than once"):
        diagnose(model, iter(batches()), noise_of(model))
    with pytest.raises(ValueError, match="no batches"):
        diagnose(model, [], noise_of(model))
    wrong: list[dict[str, Any]] = [{"num_samples": 0}, {"neighbours": 0}, {"threshold": -1.0}, {"at_once": 0}]
    for settings in wrong:
        with pytest.raises(SettingError, match=next(iter(settings))):
            diagnose(model, batches(), noise_of(model), **settings)
    with pytest.raises(SettingError, match=r"neighbours=61: must be at most .* training images, 60"):
        diagnose(model, batches(), noise_of(model), train_batches=batches(), neighbours=61)
