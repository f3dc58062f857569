"""What papers mean by an MNIST number, each by its configuration: binarised dynamically, once or by others, and grey levels as classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vaelab.data import datasets
from vaelab.data.datasets import ImageData, Split
from vaelab.errors import SettingError
from vaelab.experiments.assembly import assemble
from vaelab.experiments.train import train

Compose = Callable[..., dict[str, Any]]
N, STEPS = 40, 4  # images, and steps an epoch
SMALL = ("data.batch_size=10", "latent_dim=2", "encoder.hidden=[4]", "decoder.hidden=[4]", "trainer=cpu",
         "trainer.enable_progress_bar=false")  # fmt: skip


@pytest.fixture
def grey(tmp_path: Path) -> str:
    """28 x 28 grey images, the same ones for training and for the test: only their noise can tell them apart."""
    x = np.random.default_rng(0).integers(0, 256, (N, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "grey.npz", train=x, val=x[:10], test=x)
    return f"data.path={tmp_path / 'grey.npz'}"


def pixels(config: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
    """The training images in three epochs, and the test images."""
    data, index = assemble(config).data, torch.arange(N)
    epochs = [
        torch.cat(
            [data.train_batch(some, STEPS * epoch + i).x for i, some in enumerate(index.split(N // STEPS))]
        )
        for epoch in range(3)
    ]
    return epochs, data.evaluation_batch("test", index).x


def test_dynamic_binarisation_samples_training_images_at_each_visit_and_test_images_once(
    compose: Compose, grey: str
) -> None:
    asked = ("data=arrays", grey, "data.val_size=10", "data.binarize=dynamic", *SMALL)
    epochs, test = pixels(compose(*asked))
    again, same = pixels(compose(*asked, "seed=1"))
    other = pixels(compose(*asked, "data.noise_seed=1"))[1]
    seen = [*epochs, *again, test, other]
    for i, x in enumerate(seen):
        assert set(x.unique().tolist()) == {0.0, 1.0}
        # grey levels are uniform: two samples of a pixel of probability p differ with 2 p (1 - p), a third on average
        assert all(0.31 < (x != y).double().mean() < 0.36 for y in seen[:i])
    assert torch.equal(test, same), "runs with different seeds are tested on the same pixels"


def test_fixed_binarisation_is_made_once_from_a_seed_of_its_own(compose: Compose, grey: str) -> None:
    asked = ("data=arrays", grey, "data.val_size=10", "data.binarize=fixed", *SMALL)
    epochs, test = pixels(compose(*asked))
    again, same = pixels(compose(*asked, "seed=1"))
    other, changed = pixels(compose(*asked, "data.noise_seed=1"))
    assert all(torch.equal(epochs[0], x) for x in (*epochs, *again))
    assert torch.equal(test, same)
    for x, y in ((epochs[0], other[0]), (test, changed), (epochs[0], test)):
        assert 0.31 < (x != y).double().mean() < 0.36


def test_images_that_were_binarised_by_others_stay_as_they_are(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = torch.randint(0, 2, (2 * N, 1, 28, 28), dtype=torch.uint8)
    unlabelled = torch.full((N,), -1)
    images = ImageData("binarized_mnist", 2, Split(stored[:N], unlabelled), Split(stored[N:], unlabelled),
                       Split(stored[:10], unlabelled[:10]), {})  # fmt: skip
    monkeypatch.setattr(datasets, "load", lambda *_, **__: images)
    asked = ("data=binarized_mnist", "data.val_size=10", *SMALL)
    epochs, test = pixels(compose(*asked))
    assert all(torch.equal(x, stored[:N].float()) for x in epochs)
    assert torch.equal(test, stored[N:].float())
    for binarize in ("threshold", "fixed", "dynamic"):
        with pytest.raises(SettingError, match=f"data.binarize={binarize}: the data are binary already"):
            assemble(compose(*asked, f"data.binarize={binarize}"))


@pytest.mark.parametrize("likelihood", ["categorical", "discretized_logistic", "logistic_mixture"])
def test_grey_levels_as_256_classes_are_counted_in_bits_per_dimension(
    compose: Compose, grey: str, likelihood: str
) -> None:
    asked = (
        "data=arrays",
        grey,
        f"likelihood={likelihood}",
        "trainer.max_steps=1",
        "estimator.num_samples=5",
    )
    cards = {card.metric: card for card in train(compose(*asked, *SMALL)).cards}
    assert cards["nll"].protocol["num_levels"] == 256
    assert cards["nll"].protocol["label"] == "nll"
    assert cards["nll"].bits_per_dim == pytest.approx(cards["nll"].value / (784 * math.log(2)))
    assert cards["elbo"].bits_per_dim == pytest.approx(-cards["elbo"].value / (784 * math.log(2)))
    assert cards["nll"].bits_per_dim is not None
    # noise of 256 levels takes 8 bits a pixel, and a model that knows nothing of it no fewer
    assert 7.95 < cards["nll"].bits_per_dim < 12
    assert cards["rate"].bits_per_dim is None
