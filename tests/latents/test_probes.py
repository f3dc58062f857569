import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from vaelab.errors import SettingError
from vaelab.latents import linear_probe, nearest_neighbours_probe

PROBES = [linear_probe, nearest_neighbours_probe]


def clusters(n, classes=4, D=3, seed=0, spread=0.1):
    """Codes around the corners of a cube, one corner a class; float32, as codes come."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    corners = torch.tensor([[1.0 if (c >> d) & 1 else -1.0 for d in range(D)] for c in range(classes)])
    return corners[labels] + spread * torch.randn(n, D, generator=generator), labels


@pytest.mark.parametrize("probe", PROBES)
def test_classes_that_lie_apart_are_told_apart(probe):
    found = probe(*clusters(200), *clusters(100, seed=1))
    assert found.accuracy == 1
    assert found.se == 0
    assert (found.num_train, found.num_test) == (200, 100)
    assert found.warning is None


@pytest.mark.parametrize("probe", PROBES)
def test_shuffled_labels_are_guessed(probe):
    generator = torch.Generator().manual_seed(5)
    (train, y), (test, truth) = clusters(800), clusters(2000, seed=1)
    found = probe(
        train,
        y[torch.randperm(800, generator=generator)],
        test,
        truth[torch.randperm(2000, generator=generator)],
    )
    assert abs(found.accuracy - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 2000)
    assert found.se == pytest.approx(math.sqrt(found.accuracy * (1 - found.accuracy) / 2000))


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_is_a_function_of_the_labelled_images(probe):
    (train, y), (test, truth) = clusters(120, spread=0.8), clusters(80, seed=1, spread=0.8)
    first = probe(train, y, test, truth)
    assert 0.5 < first.accuracy < 1
    assert probe(train, y, test, truth) == first
    unlabelled = torch.full((3, 3), 0.5), torch.full((3,), -1)
    more = probe(
        torch.cat([unlabelled[0], train]), torch.cat([unlabelled[1], y]),
        torch.cat([test, unlabelled[0]]), torch.cat([truth, unlabelled[1]]),
    )  # fmt: skip
    assert more == first


def test_the_linear_probe_minimises_what_it_says():
    """Against a minimum found here, on the standardised features."""
    (train, labels), (test, truth) = clusters(90, 3, 2, spread=1.2), clusters(300, 3, 2, seed=1, spread=1.2)
    X, T, y = train.double().numpy(), test.double().numpy(), labels.numpy()
    X, T = (X - X.mean(0)) / X.std(0), (T - X.mean(0)) / X.std(0)
    C = 0.05  # small: the penalty matters

    def loss_and_slope(w):
        W, b = w[:6].reshape(3, 2), w[6:]
        logits = X @ W.T + b
        logits -= np.logaddexp.reduce(logits, axis=1, keepdims=True)
        error = np.exp(logits) - np.eye(3)[y]
        slope = np.concatenate([(error.T @ X + W / C).ravel(), error.sum(0)])
        return -logits[np.arange(90), y].sum() + (W**2).sum() / (2 * C), slope

    w = minimize(
        loss_and_slope, np.zeros(9), jac=True, method="BFGS", options={"gtol": 1e-8, "maxiter": 500}
    ).x
    said = (T @ w[:6].reshape(3, 2).T + w[6:]).argmax(1)
    expected = (said == truth.numpy()).mean()
    assert linear_probe(train, labels, test, truth, C=C).accuracy == pytest.approx(expected, abs=1.01 / 300)
    assert linear_probe(train, labels, test, truth, C=C).kind == "multinomial logistic regression, C=0.05"


def test_standardising_makes_the_unit_of_a_dimension_irrelevant():
    (train, y), (test, truth) = clusters(120, spread=0.8), clusters(80, seed=1, spread=0.8)
    scale = torch.tensor([1e3, 1.0, 1e-3])
    plain, scaled = linear_probe(train, y, test, truth), linear_probe(train * scale, y, test * scale, truth)
    assert scaled.accuracy == plain.accuracy


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 4, 10])
def test_the_neighbours_vote(metric, k):
    (train, y), (test, truth) = clusters(150, spread=0.9), clusters(100, seed=1, spread=0.9)
    train, test = train + 0.7, test + 0.7  # so that the origin is no centre
    if metric == "euclidean":
        distance = torch.cdist(test.double(), train.double())
    else:
        distance = 1 - torch.cosine_similarity(test.double().unsqueeze(1), train.double(), dim=-1)
    near = y[distance.topk(k, largest=False).indices]
    votes = torch.nn.functional.one_hot(near, 4).sum(1)
    expected = (votes.argmax(1) == truth).double().mean().item()
    found = nearest_neighbours_probe(train, y, test, truth, k=k, metric=metric)
    assert found.accuracy == pytest.approx(expected, abs=1e-12)
    assert found.kind == f"{k} nearest neighbours, {metric}"


def test_the_two_distances_are_two():
    train = torch.tensor([[10.0, 0.0], [0.6, 0.8]])
    test = torch.tensor([[1.0, 0.0]])  # in the direction of the first, next to the second
    y, truth = torch.tensor([0, 1]), torch.tensor([0])
    assert nearest_neighbours_probe(train, y, test, truth, k=1, metric="cosine").accuracy == 1
    assert nearest_neighbours_probe(train, y, test, truth, k=1).accuracy == 0


def test_too_few_steps_are_told():
    (train, y), (test, truth) = clusters(200, spread=1.0), clusters(50, spread=1.0)
    assert linear_probe(train, y, test, truth, max_iter=1).warning == "not converged within 1 steps"


def test_what_cannot_be_is_refused():
    (train, y), (test, truth) = clusters(20), clusters(10)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"k": 0}, "k=0"), ({"k": 21}, "k=21"), ({"metric": "cosin"}, "cosine"),
    ]  # fmt: skip
    for settings, name in wrong:
        with pytest.raises(SettingError, match=name):
            nearest_neighbours_probe(train, y, test, truth, **settings)
    with pytest.raises(SettingError, match="C=0"):
        linear_probe(train, y, test, truth, C=0)
    for probe in PROBES:
        with pytest.raises(ValueError, match="no test image"):
            probe(train, y, test, torch.full_like(truth, -1))
        with pytest.raises(ValueError, match="train codes"):
            probe(train, y[:-1], test, truth)
        with pytest.raises(ValueError, match="finite"):
            probe(train, y, test * torch.nan, truth)
    with pytest.raises(ValueError, match="two classes"):
        linear_probe(train, torch.zeros_like(y), test, truth)
