import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from oracles import PIXELS, SIGMA, Flat, LinearDecoder, Oracle, pixel_model
from vaelab.batch import Batch
from vaelab.errors import SettingError
from vaelab.evidence import RowLimit, importance, log_weights
from vaelab.latents import change_by_cutting, cut
from vaelab.likelihoods import GaussianLikelihood
from vaelab.models import VAE
from vaelab.posteriors import FullNormalPosterior, NormalPosterior
from vaelab.priors import MixturePrior, NormalPrior, StandardNormalPrior

ODD = torch.tensor([False, True, False])  # the dimension that the decoder ignores


def model_with_an_inactive_unit(prior=None) -> VAE:
    """The oracle with a third dimension between its two: the decoder ignores it, and q is the standard normal prior."""
    small = Oracle(exact=False).model
    D = 3
    posterior = NormalPosterior(PIXELS, D).double()
    weight = torch.zeros(PIXELS, D, dtype=torch.float64)
    with torch.no_grad():
        for head, old in (
            (posterior.mean, small.posterior.mean),
            (posterior.log_variance, small.posterior.log_variance),
        ):
            head.weight.zero_()
            head.bias.zero_()
            head.weight[~ODD] = old.weight
            head.bias[~ODD] = old.bias
        weight[:, ~ODD] = small.decoder.weight
    likelihood = GaussianLikelihood(
        (1, 1, PIXELS), (0.0, 1.0), 256, variance="constant", sigma=SIGMA, sigma_floor=0.0
    ).double()
    prior = StandardNormalPrior(D).double() if prior is None else prior
    return VAE(Flat(), posterior, prior, LinearDecoder(weight, small.decoder.bias.detach()), likelihood)


def noise(K, D, n=7, seed=2):
    return torch.randn(K, n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def test_cutting_an_inactive_unit_changes_nothing():
    batch = Oracle(exact=False).batch
    model = model_with_an_inactive_unit()
    eps = noise(50, 3)
    whole, left = model(batch, eps), cut(model, ODD)(batch, eps)
    torch.testing.assert_close(left.log_w, whole.log_w, rtol=0, atol=1e-9)
    torch.testing.assert_close(left.log_px, whole.log_px, rtol=0, atol=1e-12)
    # it is the model without that dimension, given that noise
    small = Oracle(exact=False).model(batch, eps[..., ~ODD])
    for one, other in zip(left.log_ratios, small.log_ratios, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    torch.testing.assert_close(left.layers[0].z, small.layers[0].z)
    torch.testing.assert_close(left.kls[0], small.kls[0])
    found = change_by_cutting(model, ODD, [batch], lambda index: eps[:, index])
    assert abs(found.change.value) < 1e-9
    assert (found.num_samples, found.num_cut) == (50, 1)


@torch.no_grad()
def test_cutting_an_active_unit_leaves_a_smaller_model_whose_evidence_is_known():
    oracle = Oracle(exact=False)
    batch, model = oracle.batch, model_with_an_inactive_unit()
    first = torch.tensor([True, False, False])
    eps = noise(20_000, 3)
    found = change_by_cutting(model, first, [batch], lambda index: eps[:, index])
    assert found.change.value > 0.25  # worse
    assert found.nll_cut.value - found.nll.value == pytest.approx(found.change.value, abs=1e-9)
    assert found.nll_cut.se_mc is not None
    W, b = model.decoder.weight[:, 1:], model.decoder.bias
    covariance = W @ W.T + SIGMA**2 * torch.eye(PIXELS, dtype=torch.float64)
    exact = -MultivariateNormal(b, covariance).log_prob(oracle.x).mean().item()
    assert abs(found.nll_cut.value - exact) < 4 * found.nll_cut.se_mc
    assert found.nll_cut.se_mc < 0.02
    assert found.nll.se_mc is not None
    assert abs(found.nll.value + oracle.log_px.mean().item()) < 4 * found.nll.se_mc


def test_the_change_is_paired_and_does_not_depend_on_batches_or_chunks():
    batch, model = Oracle(exact=False).batch, model_with_an_inactive_unit()
    parts = [Batch(batch.x[i], batch.y[i], batch.index[i]) for i in (slice(0, 4), slice(4, 7))]
    eps = noise(40, 3)
    last = torch.tensor([False, False, True])
    whole = change_by_cutting(model, last, [batch], lambda index: eps[:, index])
    other = change_by_cutting(model, last, parts, lambda index: eps[:, index], max_rows=20)
    for name in ("nll", "nll_cut", "change"):
        a, b = getattr(whole, name), getattr(other, name)
        assert a.value == pytest.approx(b.value, rel=1e-12)
        assert a.se_images == pytest.approx(b.se_images, rel=1e-9)
    images = cut(model, last)
    whole_px, cut_px = (importance(log_weights(m, batch, eps, RowLimit(100))).log_px for m in (model, images))
    expected = whole_px - cut_px
    assert whole.change.value == pytest.approx(expected.mean().item(), rel=1e-12)
    assert whole.change.se_images == pytest.approx(expected.std().item() / 7**0.5, rel=1e-9)


@torch.no_grad()
def test_a_dimension_that_is_cut_stands_at_the_mean_of_its_prior():
    prior = NormalPrior(3).double()
    prior.mean.bias.copy_(torch.tensor([0.4, -0.3, 0.2]))
    prior.log_variance.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    model = model_with_an_inactive_unit(prior)
    batch, eps = Oracle(exact=False).batch, noise(4, 3)
    for left_out in ([True, False, True], [True, True, True], [False, False, False]):
        inactive = torch.tensor(left_out)
        found = cut(model, inactive)(batch, eps)
        whole = model(batch, eps)
        z = torch.where(inactive, prior.mean.bias, whole.layers[0].z)
        expected = model.likelihood(model.decoder(z)).log_prob(batch.x)
        torch.testing.assert_close(found.log_px, expected)
        assert found.layers[0].z.shape == (4, 7, 3 - sum(left_out))
        kl = whole.layers[0].kl
        assert kl is not None
        assert found.layers[0].kl is not None
        torch.testing.assert_close(found.layers[0].kl, kl[:, ~inactive])
    torch.testing.assert_close(found.log_w, whole.log_w)  # nothing was cut


def test_noise_of_the_dimensions_that_are_cut_is_not_looked_at():
    batch, eps = Oracle(exact=False).batch, noise(4, 3)
    smaller = cut(model_with_an_inactive_unit(), ODD)
    other = eps.clone()
    other[..., ODD] = 7.0
    torch.testing.assert_close(smaller(batch, eps).log_w, smaller(batch, other).log_w, rtol=0, atol=0)
    assert smaller.noise_dim == 3


class LabelledEncoder(Flat):
    def forward(self, x, context):
        return super().forward(x) + 0.1 * context @ torch.arange(6.0).view(2, 3).double()


class LabelledDecoder(LinearDecoder):
    def forward(self, z, context):
        return super().forward(z) + (0.2 * context[:, :1]).unsqueeze(-1).unsqueeze(-1)


@torch.no_grad()
def test_labels_reach_every_part():
    plain = model_with_an_inactive_unit()
    prior = NormalPrior(3, context_dim=2).double()
    assert prior.mean.weight is not None
    prior.mean.weight.copy_(torch.arange(6.0).view(3, 2) / 10)
    decoder = LabelledDecoder(plain.decoder.weight.detach(), plain.decoder.bias.detach())
    model = VAE(LabelledEncoder(), plain.posterior, prior, decoder, plain.likelihood, num_classes=2)
    batch = Oracle(exact=False).batch
    batch = Batch(batch.x, batch.index % 2, batch.index)
    eps = noise(4, 3)
    whole = model(batch, eps)
    torch.testing.assert_close(cut(model, torch.zeros(3, dtype=torch.bool))(batch, eps).log_w, whole.log_w)
    found = cut(model, ODD)(batch, eps)
    # the decoder ignores that dimension: only its share of log q - log p is gone
    torch.testing.assert_close(found.log_px, whole.log_px)
    kl, all_kl = found.layers[0].kl, whole.layers[0].kl
    assert kl is not None
    assert all_kl is not None
    torch.testing.assert_close(kl, all_kl[:, ~ODD])


def test_what_cannot_be_cut_is_refused_by_name():
    none = torch.zeros(3, dtype=torch.bool)
    model = model_with_an_inactive_unit()
    for kind in ("hierarchical", "ladder", "top_down"):
        with pytest.raises(SettingError, match=r"model=.*cannot be cut"):
            cut(pixel_model(kind), none)
    with pytest.raises(SettingError, match="model=Linear"):
        cut(nn.Linear(2, 2), none)
    full = VAE(Flat(), FullNormalPosterior(PIXELS, 3).double(), model.prior, model.decoder, model.likelihood)
    with pytest.raises(SettingError, match="posterior=FullNormalPosterior"):
        cut(full, none)
    with pytest.raises(SettingError, match="prior=MixturePrior"):
        cut(model_with_an_inactive_unit(MixturePrior(3, 4).double()), none)
    for wrong in (none[:2], torch.zeros(3)):
        with pytest.raises(ValueError, match="inactive must be bool"):
            cut(model, wrong)
    with pytest.raises(ValueError, match="no batches"):
        change_by_cutting(model, none, [], lambda index: index)
