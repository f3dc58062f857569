"""What a classifier gains by images of a model, on images where that is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vaelab.noise import Noise, Stream
from vaelab.tasks import Augmentation, Geometry, Recipe, augmentation_gain
from vaelab.tasks import augmentation as room
from vaelab.tasks.augmentation import ARMS

CLASSES = 4
PATTERNS = (torch.rand(CLASSES, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
FEW, SHORT, LONG = 12, Recipe(20, 8, warmup=5), Recipe(100, 12, rate=5e-3, warmup=10)


def noisy(y: Tensor, seed: int) -> Tensor:
    """Each class's pattern under pixels that are mostly noise."""
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * PATTERNS[y] + 0.7 * torch.rand(len(y), 1, 8, 8, generator=generator)


TRAIN_Y, TEST_Y = torch.arange(FEW) % CLASSES, torch.arange(400) % CLASSES
TRAIN_X, TEST_X = noisy(TRAIN_Y, 1), noisy(TEST_Y, 2)


def truth(index: Tensor, own: Noise, step: int) -> Tensor:
    """A model that has the distribution of the data."""
    uniform = own.step_uniform(Stream.pixels, step, (len(index), 1, 8, 8))
    return 0.3 * PATTERNS[TRAIN_Y[index]] + 0.7 * uniform


def lies(index: Tensor, own: Noise, step: int) -> Tensor:
    """A model that takes each class for the next."""
    return truth((index + 1) % FEW, own, step)


def found(generate: room.Generate = truth, seed: int = 0, **settings: Any) -> Augmentation:
    settings = {"repetitions": 2, "recipe": SHORT, **settings}
    return augmentation_gain(
        TRAIN_X, TRAIN_Y, TEST_X, TEST_Y, generate, Noise(seed), num_classes=CLASSES, **settings
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Tensor], list[Tensor], list[Tensor]]]:  # fmt: skip
    """What each classifier was: (what, weights in the end, images of each step, labels of each step)."""
    seen, fit = [], room.fit

    def noted(network: Any, batch: Callable[..., Any], order: Any, n: int, recipe: Any, what: str, *rest: Any) -> None:  # fmt: skip
        images, labels = [], []

        def noted_batch(index: Tensor, step: int) -> Any:
            x, y = batch(index, step)
            images.append(x)
            labels.append(y)
            return x, y

        fit(network, noted_batch, order, n, recipe, what, *rest)
        seen.append((what, network.state_dict(), images, labels))

    monkeypatch.setattr(room, "fit", noted)
    return seen


def test_the_truth_helps_and_lies_do_harm() -> None:
    helped, harmed = found(truth, recipe=LONG), found(lies, recipe=LONG, repetitions=1)
    estimate = helped.gain("gain")
    assert estimate.value > 2 * math.hypot(estimate.se_images or 1, estimate.se_mc or 1)
    assert helped.gain("gain_beside_geometric").value > 0.05
    assert helped.accuracy("samples").value > 0.9
    assert harmed.gain("gain").value < -0.3
    assert harmed.accuracy("samples").value < 0.1
    # the arms without a model are the same, whatever it is
    for arm in ("real", "geometric"):
        assert torch.equal(helped.right[arm][:1], harmed.right[arm])


def test_a_share_of_nothing_is_real_bit_for_bit_and_one_of_all_is_samples(trained: Any) -> None:
    for share, same in ((0.0, "real"), (1.0, "samples")):
        trained.clear()
        found(share=share, repetitions=1)
        weights = {what.rpartition(" ")[2]: weights for what, weights, _, _ in trained}
        assert all(torch.equal(weights["augmented"][k], v) for k, v in weights[same].items())
        other = "samples" if same == "real" else "real"
        assert not all(torch.equal(weights["augmented"][k], v) for k, v in weights[other].items())


def test_arms_share_labels_order_steps_and_the_real_images_that_are_left(trained: Any) -> None:
    found(share=0.25, repetitions=1)
    runs = {what.rpartition(" ")[2]: (images, labels) for what, _, images, labels in trained}
    assert tuple(runs) == ARMS
    real, labels = runs["real"]
    assert len(real) == SHORT.steps
    for images, own in runs.values():
        assert all(torch.equal(a, b) for a, b in zip(own, labels, strict=True))
        assert all(a.shape == b.shape for a, b in zip(images, real, strict=True))
    for mixed, left in (("augmented", "real"), ("both", "geometric")):
        for a, b in zip(runs[mixed][0], runs[left][0], strict=True):
            assert torch.equal(a[2:], b[2:])
            assert not torch.isclose(a[:2], b[:2]).flatten(1).all(1).any(), "two of eight are the model's"
    drawn = torch.cat(runs["samples"][0])
    assert len(torch.unique(drawn.flatten(1), dim=0)) == len(drawn), "new at each step"


def test_a_repetition_depends_on_seed_and_number_alone() -> None:
    two, threads = found(seed=3), torch.get_num_threads()
    torch.manual_seed(9)
    torch.set_num_threads(2)
    try:
        one = found(seed=3, repetitions=1)
    finally:
        torch.set_num_threads(threads)
    for arm in ARMS:
        assert torch.equal(one.right[arm][0], two.right[arm][0])
    assert not torch.equal(two.right["real"][0], two.right["real"][1])
    assert not torch.equal(two.right["real"], found(seed=4).right["real"])


def test_the_error_of_a_gain_is_that_of_pairs() -> None:
    """Of one repetition the sampling error is McNemar's: (b + c - (b - c)^2 / n)^(1/2) / n of the b and c images that only one of two names rightly."""
    generator = torch.Generator().manual_seed(0)
    right = {arm: torch.rand(3, 500, generator=generator) < 0.8 for arm in ARMS}
    one = Augmentation({arm: values[:1] for arm, values in right.items()}).gain("gain")
    b = int((right["augmented"][0] & ~right["real"][0]).sum())
    c = int((right["real"][0] & ~right["augmented"][0]).sum())
    assert one.value == pytest.approx((b - c) / 500)
    assert one.se_images == pytest.approx(math.sqrt(b + c - (b - c) ** 2 / 500) / math.sqrt(500 * 499))
    assert one.se_mc is None
    three = Augmentation(right)
    gains = three.accuracies("augmented") - three.accuracies("real")
    assert three.gain("gain").value == pytest.approx(gains.mean().item())
    assert three.gain("gain").se_mc == pytest.approx(gains.std().item() / math.sqrt(3))
    accuracy = three.accuracy("both")
    assert accuracy.value == pytest.approx(right["both"].double().mean().item())
    assert accuracy.num_images == 500


def test_images_are_shifted_and_turned() -> None:
    x = torch.rand(2, 3, 6, 10, generator=torch.Generator().manual_seed(0))
    middle = torch.full((2, 3), 0.5)
    torch.testing.assert_close(Geometry(0.3, 45)(x, middle), x)
    across = torch.tensor([[0.5, 1.0, 0.5]] * 2)  # by a fifth of ten pixels
    moved = Geometry(0.2, 0)(x, across)
    torch.testing.assert_close(moved[..., :-2], x[..., 2:])
    assert not moved[..., -2:].any()
    down = torch.tensor([[0.5, 0.5, 0.0]] * 2)
    torch.testing.assert_close(Geometry(0.5, 0)(x, down)[:, :, 3:], x[:, :, :3])
    half = torch.tensor([[1.0, 0.5, 0.5]] * 2)
    torch.testing.assert_close(Geometry(0, 180)(x, half), x.flip(2, 3))
    # a square inside sides of other lengths stays a square when it is turned
    bar = torch.zeros(1, 1, 7, 13)
    bar[..., 3, 4:9] = 1
    turned = Geometry(0, 90)(bar, half[:1])
    expected = torch.zeros(1, 1, 7, 13)
    expected[..., 1:6, 6] = 1
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-4)
