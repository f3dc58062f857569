"""The extractor of features behind ``lenet_fid``, ``lenet_kid``, precision and recall: a classifier trained here, once for a data set."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vaelab.data import cache
from vaelab.data.datasets import ImageData, Split
from vaelab.errors import SettingError
from vaelab.evidence.progress import Progress
from vaelab.loading import weights_digest
from vaelab.networks.lenet import LEAST_SIZE, MOST_CHANNELS, LeNet
from vaelab.noise import Noise
from vaelab.tasks.classifier import Recipe, fit

RECIPE = 1  # part of the cache key: raise it when anything below, in LeNet or in the recipe of classifiers changes the weights
SEED = 0  # of the weights and of the order, whatever the seed of the run
STEPS = 1500
FOLDER = "extractors"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extractor:
    """A trained classifier. Two numbers made with extractors of different digests cannot be compared.

    Attributes:
        network: in evaluation mode, on the CPU, without gradients; ``network.features`` maps images ``[N, C, H, W]`` in [0, 1] to features ``[N, 84]``.
        digest: SHA-256 of its weights, see :func:`vaelab.loading.weights_digest`.
        accuracy: share of the test images that it classifies rightly.
        data: identity of the data that it was trained on.
        recipe: version of the recipe.
    """

    network: LeNet
    digest: str
    accuracy: float
    data: str
    recipe: int = RECIPE


def extractor(images: ImageData, data_dir: str | Path, progress: Progress | None = None) -> Extractor:
    """The extractor of a data set: from the cache of decoded data, or trained and put there.

    It is trained on the grey training images, those that a run keeps for validation included, so that all runs on these data share it, whatever their split, seed and
    binarisation. One thread, one seed: the same machine and version of torch give the same digest. Other ones may not, since the order of sums in a convolution is theirs;
    the cached file goes with the data directory.

    Args:
        images: data with a label at every training and test image.
        data_dir: as for the data.
        progress: is told the steps, where it is trained.

    Raises:
        SettingError: ``data``: no labels, a single class, images under 8 x 8 pixels or of more than 3 channels.
    """
    num_classes = check_data(images)
    name = f"lenet-{hashlib.sha256(f'{images.identity} {RECIPE}'.encode()).hexdigest()[:16]}.safetensors"
    places = [place.caches / FOLDER for place in cache.places(Path(data_dir).expanduser().absolute())]
    for path in (folder / name for folder in places):
        if (kept := _read(path, images, num_classes)) is not None:
            return kept
    network = train(images, num_classes, progress)
    made = Extractor(
        network, weights_digest(network.state_dict()), accuracy(network, images), images.identity
    )
    _publish(made, name, Path(data_dir).expanduser().absolute(), places)
    return made


def train(images: ImageData, num_classes: int, progress: Progress | None = None) -> LeNet:
    """The recipe: cross-entropy, Adam, 1500 batches of 64 images (on MNIST, 1.6 epochs), the learning rate rising to 2e-3 and falling to 0 in straight lines."""
    noise = Noise(SEED)
    x, y = images.train.x, images.train.y
    with noise.initialisation():
        network = LeNet(images.image_shape, num_classes)

    def batch(index: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return _unit(x[index], images), y[index]

    fit(network, batch, noise.order, len(x), Recipe(STEPS), "training of the extractor", progress)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(network: LeNet, images: ImageData) -> float:
    """Share of the test images that ``network`` classifies rightly."""
    test: Split = images.test
    right = [network(_unit(x, images)).argmax(1) == y for x, y in zip(test.x.split(1000), test.y.split(1000))]
    return torch.cat(right).double().mean().item()


def check_data(images: ImageData) -> int:
    """The number of classes, or a refusal that names the data."""
    labels = torch.cat([images.train.y, images.test.y])
    channels, height, width = images.image_shape
    if bool((labels < 0).any()):
        rule = "has images without a label, and the features for the quality of samples are those of a classifier"
    elif int(labels.max()) < 1:
        rule = "has a single class, and the features for the quality of samples are those of a classifier"
    elif channels > MOST_CHANNELS or min(height, width) < LEAST_SIZE:
        rule = f"the features for the quality of samples take at most {MOST_CHANNELS} channels and at least {LEAST_SIZE} x {LEAST_SIZE} pixels, not {list(images.image_shape)}"
    else:
        return int(labels.max()) + 1
    raise SettingError("data", images.name, rule)


def _unit(stored: Tensor, images: ImageData) -> Tensor:
    """Stored levels as grey values in [0, 1]."""
    return stored.to(torch.float32) / (images.num_levels - 1)


def _read(path: Path, images: ImageData, num_classes: int) -> Extractor | None:
    """The extractor in a file; None where there is none, or what is there is not what it says."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            record = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
        network = LeNet(images.image_shape, num_classes)
        network.load_state_dict(weights)
        if weights_digest(weights) != record["digest"] or record["data"] != images.identity:
            raise ValueError("the weights are not those of its record")
        return Extractor(
            network.eval().requires_grad_(False),
            record["digest"],
            float(record["accuracy"]),
            record["data"],
            int(record["recipe"]),
        )
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        logger.warning("%s is damaged and will be made again: %s", path, " ".join(str(error).split()))
        return None


def _publish(made: Extractor, name: str, data_dir: Path, folders: list[Path]) -> None:
    """Keep an extractor in the first place that takes it; without one it is made again each time."""
    record = {
        "digest": made.digest, "accuracy": repr(made.accuracy), "data": made.data, "recipe": str(made.recipe), "torch": torch.__version__,
    }  # fmt: skip
    with contextlib.suppress(OSError), cache.staging(data_dir) as folder:
        save_file(made.network.state_dict(), folder / name, record)
        for target in folders:
            with contextlib.suppress(OSError):  # read-only, full, ...: the next place
                cache.publish(folder / name, target)
                return
    logger.warning("no place to keep the extractor of %s in: it is trained each time", made.data)
