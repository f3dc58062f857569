"""M2 and M1 + M2 against a mixture of linear-Gaussian models, whose evidence is known, and against sums over classes that are written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from given import Given
from oracles import Flat
from vaelab.batch import Batch
from vaelab.build import DataShape, build_model
from vaelab.errors import SettingError
from vaelab.evidence import BoundEstimator, ImportanceEstimator, bound_of
from vaelab.evidence.accuracy import AccuracyEstimator
from vaelab.likelihoods import GaussianLikelihood
from vaelab.models import Model, SemiSupervisedVAE
from vaelab.models.semi_supervised import Pairs
from vaelab.noise import ImageDraws, Noise, Split
from vaelab.objectives import Classification, SemiSupervised
from vaelab.posteriors import NormalPosterior
from vaelab.priors import StandardNormalPrior
from vaelab.training.step import OptimisationStep, StepSettings

PIXELS, D, C, B, SIGMA = 3, 2, 3, 6, 0.4


class Concatenated(nn.Module):
    """Features of an image with the class behind them, one hot."""

    def forward(self, features: Tensor, pairs: Pairs) -> Tensor:
        return torch.cat([features[pairs.image], F.one_hot(pairs.label, C).to(features)], -1)


class Linear(nn.Module):
    """W z + V_y."""

    def __init__(self, weight: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(weight), nn.Parameter(shift)

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        return (z @ self.weight.T + context @ self.shift)[..., None, None, :]


class Logits(nn.Module):
    """log q(y|x), linear in x before it is normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(PIXELS, C).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)).log_softmax(-1)


class Mixture:
    """p(y) = 1/C, p(z) = N(0, I), p(x|z, y) = N(W z + V_y, SIGMA^2 I), W with orthogonal columns: p(x|y) is Gaussian, p(z|x, y) diagonal.

    Attributes:
        model: with the exact q(z|x, y), unless ``stretch`` makes its variance another, and a q(y|x) that is not p(y|x).
        log_pxy: log p(x, y) of the images and each class ``[B, C]``.
        batch: without labels.
    """

    def __init__(self, stretch: float = 1.0) -> None:
        draw = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        weight = torch.linalg.qr(torch.randn(PIXELS, D, generator=draw, dtype=torch.float64)).Q
        shift = torch.randn(C, PIXELS, generator=draw, dtype=torch.float64)
        posterior = NormalPosterior(PIXELS + C, D).double()
        precision = 1 + 1 / SIGMA**2
        gain = weight.T / SIGMA**2 / precision
        with torch.no_grad():
            posterior.mean.weight.copy_(torch.cat([gain, -gain @ shift.T], 1))
            posterior.mean.bias.zero_()
            posterior.log_variance.weight.zero_()
            posterior.log_variance.bias.fill_(-math.log(precision) + math.log(stretch))
        likelihood = GaussianLikelihood(
            (1, 1, PIXELS), (0.0, 1.0), 256, variance="constant", sigma=SIGMA, sigma_floor=0.0
        ).double()
        prior = StandardNormalPrior(D).double()
        self.model = SemiSupervisedVAE(
            Logits(), Flat(PIXELS), Concatenated(), posterior, prior, Linear(weight, shift), likelihood, C
        )
        x = torch.randn(B, PIXELS, generator=draw, dtype=torch.float64)
        covariance = weight @ weight.T + SIGMA**2 * torch.eye(PIXELS, dtype=torch.float64)
        of_classes = [MultivariateNormal(mean, covariance).log_prob(x) for mean in shift]
        self.log_pxy = torch.stack(of_classes, -1) - math.log(C)
        index = torch.arange(B)
        self.batch = Batch(x[:, None, None, :], torch.full_like(index, -1), index)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_with_the_exact_posterior_of_z_every_weight_is_the_evidence() -> None:
    mixture = Mixture()
    log_w = mixture.model(mixture.batch, noise(3, B, D)).log_w
    torch.testing.assert_close(log_w, mixture.log_pxy.logsumexp(-1).expand(3, -1))


def test_the_weights_of_any_q_have_the_evidence_for_their_mean() -> None:
    mixture, k = Mixture(stretch=1.5), 20_000
    weights = mixture.model(mixture.batch, noise(k, B, D)).log_w.exp().detach()
    error = weights.std(0) / k**0.5
    evidence = mixture.log_pxy.logsumexp(-1).exp()
    assert ((weights.mean(0) - evidence).abs() < 4 * error).all()
    assert (error < 0.01 * evidence).all()


def test_the_bound_falls_short_of_the_evidence_by_what_the_classifier_is_off() -> None:
    """log p(x) - KL(q(y|x) || p(y|x)): nothing is left to chance where q(z|x, y) is exact."""
    mixture = Mixture()
    terms = mixture.model(mixture.batch, noise(2, B, D))
    log_px, log_q = mixture.log_pxy.logsumexp(-1), mixture.model.classify(mixture.batch.x)
    off = (log_q.exp() * (log_q - (mixture.log_pxy - log_px.unsqueeze(-1)))).sum(-1)
    assert (off > 0.01).all()
    torch.testing.assert_close(terms.log_px - terms.rates(closed_form=False), (log_px - off).expand(2, -1))
    many = mixture.model(mixture.batch, noise(20_000, B, D))
    closed = many.log_px - many.rates(closed_form=True)
    error = closed.std(0) / 20_000**0.5
    assert ((closed.mean(0) - (log_px - off)).abs() < 4 * error).all()


def test_a_given_label_makes_it_a_bound_on_the_image_with_its_label() -> None:
    mixture = Mixture()
    y = torch.arange(B) % C
    batch = Batch(mixture.batch.x, y, mixture.batch.index)
    terms = mixture.model.train()(batch, noise(2, B, D))
    joint = mixture.log_pxy.gather(1, y[:, None]).squeeze(1).expand(2, -1)
    torch.testing.assert_close(terms.log_w, joint)
    torch.testing.assert_close(terms.log_px - terms.rates(closed_form=False), joint)
    of_label = mixture.model.classify(batch.x).gather(1, y[:, None]).squeeze(1)
    torch.testing.assert_close(terms.log_q_label, of_label.expand(2, -1))
    evaluated = mixture.model.eval()(batch, noise(2, B, D))
    torch.testing.assert_close(evaluated.log_w, mixture.log_pxy.logsumexp(-1).expand(2, -1))


def test_the_moments_of_a_code_are_those_over_classes_and_of_the_likeliest_one_where_it_is_encoded() -> None:
    mixture, k = Mixture(), 40_000
    model, batch = mixture.model.eval(), mixture.batch
    layer = model(batch, noise(1, B, D)).layers[1]
    chosen = torch.multinomial(
        model.classify(batch.x).exp(), k, replacement=True, generator=torch.Generator().manual_seed(4)
    ).T
    features = torch.cat([batch.x.flatten(1).expand(k, -1, -1), F.one_hot(chosen, C).double()], -1)
    z = model.posterior(features.flatten(0, 1), noise(1, k * B, D)).z[0].unflatten(0, (k, B))
    error = z.std(0) / k**0.5
    assert ((z.mean(0) - layer.mean).abs() < 5 * error).all()
    torch.testing.assert_close(z.std(0), layer.stddev, rtol=0.03, atol=0)
    code, width = model.encode(batch), (1 + 1 / SIGMA**2) ** -0.5
    torch.testing.assert_close(code.stddev, torch.full((B, D), width, dtype=torch.float64))
    assert (layer.stddev > 1.01 * width).any(), "classes have other means"


def test_the_log_joint_sums_over_classes() -> None:
    mixture, z = Mixture(), noise(4, B, D)
    model = mixture.model.eval()
    by_hand = torch.stack(
        [
            StandardNormalPrior(D).double()().log_prob(z)
            + model.decode(z, torch.full((4, B), label)).log_prob(mixture.batch.x)
            - math.log(C)
            for label in range(C)
        ]
    ).logsumexp(0)
    torch.testing.assert_close(model.log_joint(mixture.batch, z), by_hand)


def test_pairs_need_not_be_looked_for_where_labels_come_last() -> None:
    for given in ([-1, -1, 2, 0], [-1, -1], [1, 0, 2]):
        y = torch.tensor(given)
        told, looked = Pairs(y, C, sum(label < 0 for label in given)), Pairs(y, C)
        for times in (1, 2):
            again, found = told.repeated(times), looked.repeated(times)
            assert torch.equal(again.image, found.image)
            assert torch.equal(again.label, found.label)
    assert told.repeated(2).first_given == 0, "there is nothing to look for, either"


def test_a_part_of_a_batch_knows_where_its_labels_begin() -> None:
    batch = Batch(torch.zeros(6, 1), torch.tensor([-1, -1, -1, -1, 1, 0]), torch.arange(6), 4)
    for rows in (slice(0, 3), slice(3, 6), slice(5, None), slice(1, None, 2)):
        part = batch[rows]
        assert part.first_labelled is not None
        assert torch.equal(part.y >= 0, torch.arange(len(part.y)) >= part.first_labelled)


def test_without_a_label_samples_are_of_every_class_alike() -> None:
    model, n = Mixture().model, 9 * C
    quantiles = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    eps = torch.cat([torch.zeros(n, D, dtype=torch.float64), quantiles[:, None]], 1)
    drawn = model.sample(eps).mean
    of_labels = model.sample(eps, torch.arange(n) // 9).mean
    torch.testing.assert_close(drawn, of_labels)


IMAGE = (1, 4, 5)
CONFIG: dict[str, Any] = {
    "seed": 0,
    "latent_dim": 2,
    "encoder": {"_target_": "vaelab.networks.MLPEncoder", "hidden": [8]},
    "decoder": {"_target_": "vaelab.networks.MLPDecoder", "hidden": [8]},
    "posterior": {"_target_": "vaelab.posteriors.NormalPosterior"},
    "prior": {"_target_": "vaelab.priors.StandardNormalPrior"},
    "likelihood": {"_target_": "vaelab.likelihoods.BernoulliLikelihood"},
}
KINDS = {
    "m2": {"_target_": "vaelab.models.SemiSupervisedVAE"},
    "m1_m2": {
        "_target_": "vaelab.models.StackedSemiSupervisedVAE",
        "second_latent_dim": 3,
        "hidden": [6],
        "activation": "tanh",
    },
}


def make(kind: str) -> tuple[Any, Batch]:
    """A model with random weights, in training, and images of which half have a label."""
    model = build_model({**CONFIG, "model": KINDS[kind]}, DataShape(IMAGE, 2, (0.0, 1.0), C)).double()
    assert isinstance(model, Model)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.rand(B, *IMAGE, generator=generator, dtype=torch.float64).round()
    return model.train(), Batch(x, torch.tensor([0, -1, 1, -1, 2, -1]), torch.arange(B))


@pytest.mark.parametrize("kind", KINDS)
def test_the_terms_without_a_label_are_those_with_each_label_summed(kind: str) -> None:
    model, batch = make(kind)
    eps = noise(1, B, model.noise_dim)
    unlabelled = Batch(batch.x, torch.full((B,), -1), batch.index)
    terms = model(unlabelled, eps)
    of_labels = [model(Batch(batch.x, torch.full((B,), y), batch.index), eps) for y in range(C)]
    log_q = torch.stack([of.log_q_label[0] for of in of_labels], -1)  # pyright: ignore[reportOptionalSubscript]
    torch.testing.assert_close(log_q.logsumexp(-1), torch.zeros(B, dtype=torch.float64))
    for closed_form in [False, True][: 1 + (kind == "m2")]:
        bounds = torch.stack([bound_of(of, closed_form).elbo for of in of_labels], -1)
        summed = (log_q.exp() * (bounds - log_q)).sum(-1)
        torch.testing.assert_close(bound_of(terms, closed_form).elbo, summed)
    if kind == "m2":
        means = torch.stack([of.layers[1].mean for of in of_labels], 1)
        torch.testing.assert_close(terms.layers[1].mean, (log_q.exp().unsqueeze(-1) * means).sum(1))
    weights = torch.stack([of.log_w for of in of_labels]).logsumexp(0)
    torch.testing.assert_close(terms.log_w, weights)


@pytest.mark.parametrize("kind", KINDS)
def test_the_objective_is_that_of_equation_9_image_by_image(kind: str) -> None:
    model, batch = make(kind)
    terms = model(batch, noise(2, B, model.noise_dim))
    objective = SemiSupervised(classification_weight=7.0, kl="monte_carlo", traits=model.traits())
    log_q = model.classify(batch.x)
    value = objective(terms, 0, 100).value
    elbo = (terms.log_px - terms.rates(closed_form=False)).mean(0)
    alone = Classification(traits=model.traits())(terms, 0, 100).value
    for b, y in enumerate(batch.y.tolist()):
        if kind == "m2":  # of a code: q(y|z1) of a sample
            expected = 0.0 if y < 0 else log_q[b, y].item()
            assert alone[b].item() == pytest.approx(expected)
        assert value[b].item() == pytest.approx(elbo[b].item() + 7.0 * alone[b].item())
        assert (alone[b].item() == 0) == (y < 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences(kind: str) -> None:
    model, batch = make(kind)
    eps = noise(1, B, model.noise_dim)
    objective = SemiSupervised(classification_weight=3.0, traits=model.traits())

    def loss() -> Tensor:
        return objective(model(batch, eps), 0, 100).surrogate.sum()

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            ends = []
            for sign in (1, -1):
                parameter += sign * 1e-6 * direction
                ends.append(loss())
                parameter -= sign * 1e-6 * direction
            slope = (ends[0] - ends[1]) / 2e-6
            torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_estimators_measure_the_accuracy_beside_the_evidence(kind: str) -> None:
    model, batch = make(kind)
    labels = torch.tensor([0, 1, 1, 2, 2, 0])
    batch = Batch(batch.x, labels, batch.index)
    draws = ImageDraws(Noise(0), Split.test, batch.index, torch.float64)
    right = (model.eval().classify(batch.x).argmax(-1) == labels).double()
    for estimator in (BoundEstimator(2), ImportanceEstimator(4, 2), AccuracyEstimator()):
        columns = estimator(model, batch, draws)
        torch.testing.assert_close(columns["accuracy"], right)
        (number,) = [n for n in estimator.numbers(columns) if n.metric == "accuracy"]
        assert number.estimate.value == right.mean()
    hidden = BoundEstimator(2)(model, Batch(batch.x, torch.full_like(labels, -1), batch.index), draws)
    torch.testing.assert_close(BoundEstimator(2)(model, batch, draws)["elbo"], hidden["elbo"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_classes_needs_data_with_labels(kind: str) -> None:
    with pytest.raises(SettingError, match="needs labels, and these data have none"):
        build_model({**CONFIG, "model": KINDS[kind]}, DataShape(IMAGE, 2, (0.0, 1.0), 0))


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_share_labelled_and_other_images_of_a_step_as_one_takes_them(kind: str) -> None:
    model, batch = make(kind)
    objective = SemiSupervised(classification_weight=3.0, traits=model.traits())
    gradients = []
    for ranks in (1, 2):
        total: list[Tensor] = []
        for rank in range(ranks):
            step = OptimisationStep(
                model, objective, Given(lambda index, rows: Batch(batch.x[rows], batch.y[rows], index[rows])),
                100, Noise(0), StepSettings(), rank, ranks,
            )  # fmt: skip
            step(batch.index, 0, torch.optim.SGD(model.parameters(), 0.0), Tensor.backward)
            total.append(
                nn.utils.parameters_to_vector([p.grad for p in model.parameters() if p.grad is not None])
            )
        gradients.append(torch.stack(total).mean(0))
    torch.testing.assert_close(gradients[1], gradients[0])
