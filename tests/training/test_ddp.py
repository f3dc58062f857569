"""Two processes on the CPU against one: the same images, the same noise, the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaelab.data import datasets
from vaelab.data.datasets import ImageData, Split
from vaelab.experiments.train import Result, train
from vaelab.training import read_checkpoint

Compose = Callable[..., dict[str, Any]]
TEST = 10_001  # odd: padding to two equal halves would count one image twice


def many_test_images(name: str, *_: Any, **__: Any) -> ImageData:
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        factors, loadings = (
            torch.randn(n, 3, generator=generator),
            torch.randn(3, 64, generator=torch.Generator().manual_seed(1)),
        )
        grey = torch.sigmoid(2 * factors @ loadings)
        return Split(
            (16 * grey).round().to(torch.uint8).unflatten(1, (1, 8, 8)),
            torch.randint(0, 10, (n,), generator=generator),
        )

    return ImageData(name, 17, split(1001), split(TEST), None, {})


def run(compose: Compose, tmp_path: Path, trainer: str, *overrides: str) -> Result:
    return train(
        compose(
            "data=digits",
            f"trainer={trainer}",
            f"name={trainer}",
            "data.binarize=dynamic",
            "data.val_size=101",
            "data.batch_size=64",
            "latent_dim=3",
            "encoder.hidden=[16]",
            "decoder.hidden=[16]",
            "trainer.max_epochs=2",
            "trainer.enable_progress_bar=false",
            "estimator.num_samples=10",
            *overrides,
        )
    )


@pytest.mark.slow
def test_ddp_cpu_two_real_processes_count_each_image_once_and_give_the_numbers_of_one(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load", many_test_images)
    one, two = (run(compose, tmp_path, trainer) for trainer in ("cpu", "ddp_cpu"))
    for a, b in zip(one.cards, two.cards, strict=True):
        assert (a.metric, a.num_images) == (b.metric, b.num_images) == (a.metric, TEST)
        assert a.value == pytest.approx(b.value, rel=1e-4)
    with (
        np.load(one.directory / "per_image.npz") as first,
        np.load(two.directory / "per_image.npz") as second,
    ):
        assert second["index"].tolist() == list(range(TEST)), "each image counted exactly once"
        np.testing.assert_allclose(first["elbo"], second["elbo"], rtol=1e-3)
        assert len(np.unique(second["distortion"])) > 0.99 * TEST, "the ranks' noise differs"
    weights = [read_checkpoint(r.directory / "checkpoints" / "last.ckpt") for r in (one, two)]
    assert weights[0]["global_step"] == weights[1]["global_step"] == 30
    for name, value in weights[0]["state_dict"].items():
        torch.testing.assert_close(value, weights[1]["state_dict"][name], rtol=1e-3, atol=1e-5)
    assert one.score == pytest.approx(two.score, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("data.labelled_per_batch=16",),
        ("data.labelled_per_batch=64", "objective=classification"),  # parameters without a gradient
    ],
    ids=["semi_supervised", "classification"],
)
def test_ddp_cpu_two_real_processes_learn_from_few_labels_as_one_does(
    overrides: tuple[str, ...], compose: Compose, tmp_path: Path
) -> None:
    asked = ("model=semi_supervised", "data.num_labels=100", "data.binarize=none", *overrides)
    one, two = (run(compose, tmp_path, trainer, *asked) for trainer in ("cpu", "ddp_cpu"))
    assert "accuracy" in {card.metric for card in one.cards}
    for a, b in zip(one.cards, two.cards, strict=True):
        assert (a.metric, a.num_images) == (b.metric, b.num_images)
        # an image whose two likeliest classes are as likely may go either way
        assert a.value == pytest.approx(
            b.value, rel=1e-4, abs=1.5 / a.num_images if a.metric == "accuracy" else 0
        )
    weights = [read_checkpoint(r.directory / "checkpoints" / "last.ckpt") for r in (one, two)]
    for name, value in weights[0]["state_dict"].items():
        torch.testing.assert_close(value, weights[1]["state_dict"][name], rtol=1e-3, atol=1e-5)
