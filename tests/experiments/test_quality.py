"""The extractor, and the quality of a model's samples on the digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vaelab.data import cache
from vaelab.data.datamodule import ImageDataModule
from vaelab.data.datasets import ImageData, Split, load
from vaelab.errors import SettingError
from vaelab.experiments import extractor as recipe
from vaelab.experiments.extractor import Extractor, extractor
from vaelab.experiments.quality import measure
from vaelab.likelihoods import BernoulliLikelihood
from vaelab.loading import weights_digest
from vaelab.networks.lenet import LeNet
from vaelab.noise import Noise
from vaelab.training.arithmetic import SETTINGS, onednn_is_faster


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return load("digits", tmp_path_factory.mktemp("data"), download=False)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps: what is tested is not how well it learns."""
    monkeypatch.setattr(recipe, "STEPS", 10)


@pytest.fixture(autouse=True)
def _only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No extractor of whoever runs the tests is read or written."""
    monkeypatch.setattr(cache, "places", lambda data_dir: [cache.Place(data_dir, data_dir / ".vaelab")])


# -- the extractor -----------------------------------------------------------------------------------------------------


def test_the_extractor_is_trained_in_full_float32(
    digits: ImageData, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = LeNet.forward
    seen: set[Any] = set()

    def noted(self: LeNet, x: Tensor) -> Tensor:
        seen.update(setting.fp32_precision for setting in SETTINGS)
        return forward(self, x)

    monkeypatch.setattr(LeNet, "forward", noted)
    recipe.train(digits, 10)
    assert seen == {"ieee", "bf16"} if onednn_is_faster() else {"ieee"}


def test_two_trainings_give_one_digest_whatever_the_process_has_set(digits: ImageData, short: None) -> None:
    first = recipe.train(digits, 10).state_dict()
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    torch.set_num_threads(2)
    torch.set_flush_denormal(True)
    try:
        with torch.no_grad():
            second = recipe.train(digits, 10).state_dict()
        assert torch.get_num_threads() == 2
        assert not torch.tensor(1e-30) * 1e-10 > 0  # still flushed
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
    recipe.train(digits, 10)
    assert torch.tensor(1e-30) * 1e-10 > 0  # and still not
    assert weights_digest(first) == weights_digest(second)
    second["head.bias"][0] += 1e-7
    assert weights_digest(first) != weights_digest(second)


def test_it_is_trained_once_and_read_from_the_cache_after(
    digits: ImageData, short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = extractor(digits, tmp_path)
    monkeypatch.setattr(recipe, "train", None)
    kept = extractor(digits, tmp_path)
    assert (kept.digest, kept.accuracy, kept.data) == (made.digest, made.accuracy, "digits")
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(made.network.features(x), kept.network.features(x))
    assert not kept.network.training
    assert not any(p.requires_grad for p in kept.network.parameters())


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_a_damaged_file_is_made_again(
    digits: ImageData, short: None, tmp_path: Path, how: str, caplog: Any
) -> None:
    made = extractor(digits, tmp_path)
    (path,) = (tmp_path / ".vaelab" / recipe.FOLDER).iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000] if how == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert extractor(digits, tmp_path).digest == made.digest
    assert "damaged" in caplog.text
    caplog.clear()
    assert extractor(digits, tmp_path).digest == made.digest
    assert not caplog.text


def test_other_data_and_another_recipe_have_files_of_their_own(
    digits: ImageData, short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor(digits, tmp_path)
    other = replace(
        digits, identity="arrays:0123", train=Split(digits.train.x.flip(0), digits.train.y.flip(0))
    )
    assert extractor(other, tmp_path).data == "arrays:0123"
    monkeypatch.setattr(recipe, "RECIPE", 99)
    extractor(digits, tmp_path)
    assert len(list((tmp_path / ".vaelab" / recipe.FOLDER).iterdir())) == 3


def test_a_place_that_takes_nothing_costs_the_cache_only(
    digits: ImageData, short: None, tmp_path: Path, caplog: Any
) -> None:
    tmp_path.chmod(0o555)
    try:
        assert len(extractor(digits, tmp_path).digest) == 64
    finally:
        tmp_path.chmod(0o755)
    assert "no place" in caplog.text


@pytest.mark.parametrize("wrong", ["labels", "classes", "size", "channels"])
def test_data_that_it_cannot_be_trained_on_are_refused_by_name(
    digits: ImageData, wrong: str, tmp_path: Path
) -> None:
    x, y = digits.train.x, digits.train.y
    changed = {
        "labels": Split(x, torch.where(torch.arange(len(y)) == 7, -1, y)),
        "classes": Split(x, y * 0),
        "size": Split(x[..., :7], y),
        "channels": Split(x.expand(-1, 4, -1, -1), y),
    }[wrong]
    test = Split(digits.test.x, digits.test.y * 0) if wrong == "classes" else digits.test
    with pytest.raises(SettingError, match=r"data=digits: .*features for the quality of samples"):
        extractor(replace(digits, train=changed, test=test), tmp_path)


@pytest.mark.slow
def test_the_whole_recipe_on_mnist_errs_on_at_most_three_images_in_two_hundred(
    mnist_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "MNIST").symlink_to(mnist_dir / "MNIST")  # caches are kept beside it, here
    images = load("mnist", tmp_path, download=False)
    assert recipe.accuracy(recipe.train(images, 10), images) >= 0.985


# -- samples of a model ------------------------------------------------------------------------------------------------


class Memory(nn.Module):
    """A model that gives the images that it is made of, in turn, one for each sample."""

    prior_noise_dim, num_classes = 2, 0

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(images)
        self.likelihood = BernoulliLikelihood((1, 8, 8), (0.0, 1.0), 2)
        self.given = 0

    def sample(self, eps: Tensor, y: Tensor | None = None) -> Any:
        rows = (torch.arange(len(eps)) + self.given) % len(self.images)
        self.given += len(eps)
        return self.likelihood(torch.logit(self.images[rows]))


def data(images: ImageData, binarize: str = "none") -> ImageDataModule:
    module = ImageDataModule(
        "digits",
        Path(),  # the images are handed over
        noise=Noise(0),
        pixel_noise=Noise(0),
        val_size=200,
        binarize=binarize,
        images=images,
    )
    module.prepare_data()
    module.setup()
    return module


@pytest.fixture
def untrained(digits: ImageData) -> Extractor:
    with Noise(3).initialisation():
        network = recipe.LeNet(digits.image_shape, 10).eval()
    return Extractor(network, "digest", 0.1, "digits")


def test_a_model_that_gives_training_images_is_seen_to_remember(
    digits: ImageData, untrained: Extractor
) -> None:
    grey = digits.train.x[:1237].float() / 16  # what is left to train on
    model = Memory(grey)
    found = measure(model, data(digits), Noise(0), untrained, num_samples=400, num_searched=50)
    q = found.quality
    assert q.neighbours.index[:, 0].tolist() == list(range(50))
    assert q.memorisation.copies.value == 1
    assert q.memorisation.median_ratio < 1e-3
    assert q.memorisation.test_copies.value < 0.05
    assert q.memorisation.num_training == 1237
    assert (q.generated.num_images, q.floor.num_images, q.generated.num_real) == (400, 400, 360)
    assert q.generated.recall.value > 0.3
    assert (q.extractor, q.extractor_accuracy, q.samples) == ("digest", 0.1, "means")
    assert found.picture.axes


def test_noise_is_at_a_greater_distance_than_real_images(digits: ImageData, untrained: Extractor) -> None:
    noisy = torch.from_numpy(np.random.default_rng(0).random((300, 1, 8, 8), np.float32))
    q = measure(Memory(noisy), data(digits), Noise(0), untrained, num_samples=300, num_searched=50).quality
    assert q.generated.frechet > 5 * q.floor.frechet
    assert q.generated.kernel.value > q.floor.kernel.value + 5 * q.generated.kernel.se
    assert q.generated.precision.value < q.floor.precision.value / 2
    assert q.memorisation.median_ratio > 1


def test_draws_stand_beside_images_binarised_by_the_run_and_means_beside_grey_ones(
    digits: ImageData, untrained: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        "vaelab.experiments.quality.sample_quality",
        lambda extractor, **given: seen.update(given) or SimpleNamespace(neighbours=_some_neighbours()),
    )
    module = data(digits, "fixed")
    for samples in ("means", "draws"):
        model = Memory(digits.train.x[:300].float() / 16)
        measure(model, module, Noise(0), untrained, samples=samples, num_samples=60)
        values = {
            name: set(torch.cat(list(seen[name])).unique().tolist())
            for name in ("real", "generated", "reference", "training")
        }
        sizes = [sum(map(len, seen[name])) for name in ("real", "generated", "reference", "training")]
        assert sizes == [360, 60, 60, 1237]
        if samples == "draws":
            assert all(found == {0.0, 1.0} for found in values.values())
            test = module.evaluation_batch("test", torch.arange(360)).x
            assert torch.equal(torch.cat(seen["real"]), test)
        else:
            assert all(len(found) >= 17 for found in values.values())
            assert torch.equal(torch.cat(seen["real"]), digits.test.x.float() / 16)
            assert torch.equal(torch.cat(seen["training"]), digits.train.x[:1237].float() / 16)


def _some_neighbours() -> SimpleNamespace:
    return SimpleNamespace(index=torch.arange(6).reshape(3, 2), distance=torch.ones(3, 2))


@pytest.mark.parametrize(
    "settings, name",
    [
        ({"samples": "draws"}, "samples=draws"),
        ({"samples": "drawn"}, "samples=drawn"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"num_neighbours": 1}, "num_neighbours=1"),
        ({"num_neighbours": 5000}, "num_neighbours=5000"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    digits: ImageData, untrained: Extractor, settings: Any, name: str
) -> None:
    with pytest.raises(SettingError, match=name):
        measure(Memory(torch.full((2, 1, 8, 8), 0.5)), data(digits), Noise(0), untrained, **settings)
