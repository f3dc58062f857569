"""The quality of a trained model's samples: images made, put beside the right ones, and measured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from vaelab import figures
from vaelab.data.datamodule import ImageDataModule, SplitName
from vaelab.errors import SettingError, choice, integer
from vaelab.evidence.progress import Progress
from vaelab.evidence.sample_quality import SampleQuality, sample_quality
from vaelab.experiments.extractor import Extractor
from vaelab.noise import Noise
from vaelab.training.samples import Sampler

SAMPLES = ("means", "draws")
SHOWN = 16  # samples in the picture
BATCH = 1000  # images at once
LEAST = 20  # images of a set
FIXED = Noise(0)  # which real images are compared, and in which subsets: the same for every run


@dataclass(frozen=True)
class Measured:
    """The numbers, and the picture of the training images nearest to the first samples."""

    quality: SampleQuality
    picture: Figure


def measure(
    model: nn.Module,
    data: ImageDataModule,
    noise: Noise,
    extractor: Extractor,
    *,
    samples: str = "means",
    num_samples: int = 10_000,
    num_neighbours: int = 8,
    num_searched: int = 1000,
    num_real: int | None = None,
    progress: Progress | None = None,
    arithmetic: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Measured:
    """Compare samples of the prior with the test images, like with like.

    ``means``: the means of p(x|z), the picture usually shown, against grey images as they are stored. Nothing that a model does about the noise of pixels counts. ``draws``: samples
    of p(x|z) against images under the run's own protocol, binarised or dequantised as the model's test images are.

    Args:
        model: in evaluation mode, with its weights.
        data: set up.
        noise: of the run, for the samples.
        extractor: of the same data.
        samples: ``means`` or ``draws``.
        num_samples: samples; as many training images, or all of them, make the floor.
        num_neighbours, num_searched: see :func:`vaelab.evidence.sample_quality.sample_quality`.
        num_real: test images, the first ones; None = all.
        progress: is told the batches.
        arithmetic: a context that the samples are made in.

    Raises:
        SettingError: draws of a binary likelihood, where the data are grey: they are images of another kind; other values of ``samples`` or of the numbers.
    """
    check_settings(samples, num_samples, num_neighbours, num_searched)
    check_fits(model, data, samples, num_neighbours)
    if num_real is None:
        num_real = data.size("test")
    integer("num_real", num_real, LEAST)
    with arithmetic():
        generated = _generated(model, data, noise, samples, num_samples, progress)
    order = FIXED.order(0, data.size("train"))
    chosen = order[:num_samples]
    test = _real(data, "test", torch.arange(num_real), samples)
    training = _real(data, "train", torch.arange(data.size("train")), samples)
    quality = sample_quality(
        extractor.network.features,
        real=test,
        generated=generated,
        reference=_real(data, "train", chosen, samples),
        training=training,
        # samples are independent, and the chosen training images in a random order already
        orders=(FIXED.order(1, num_real), torch.arange(num_samples), torch.arange(len(chosen))),
        samples=samples,
        extractor_digest=extractor.digest,
        extractor_accuracy=extractor.accuracy,
        num_neighbours=num_neighbours,
        num_searched=num_searched,
        progress=progress,
    )
    index, distance = quality.neighbours.index[:SHOWN], quality.neighbours.distance[:SHOWN]
    nearest = torch.cat(_real(data, "train", index.flatten(), samples)).unflatten(0, index.shape)
    picture = figures.neighbours(generated[0][: len(index)].numpy(), nearest.numpy(), distance.numpy())
    return Measured(quality, picture)


def check_settings(samples: str, num_samples: int, num_neighbours: int, num_searched: int) -> None:
    """Refuse settings of :func:`measure` that no model could follow."""
    choice("samples", samples, SAMPLES)
    integer("num_samples", num_samples, LEAST)
    integer("num_neighbours", num_neighbours, 2)
    integer("num_searched", num_searched, 1)


def check_fits(model: nn.Module, data: ImageDataModule, samples: str, num_neighbours: int) -> None:
    """Refuse settings of :func:`measure` that do not go with this model or these data."""
    likelihood: Any = model.likelihood
    if samples == "draws" and likelihood.support == "binary" and not data.protocol.is_binary:
        rule = (
            "pixels drawn by this likelihood are binary, and the data are grey; use means, or data.binarize"
        )
        raise SettingError("samples", samples, rule)
    if num_neighbours > data.size("train"):
        rule = f"must be at most the {data.size('train')} training images"
        raise SettingError("num_neighbours", num_neighbours, rule)


def _generated(
    model: Any, data: ImageDataModule, noise: Noise, samples: str, n: int, progress: Progress | None = None
) -> list[Tensor]:
    """Samples in batches, float32 in [0, 1], on the CPU, the classes in turn; the first ones do not depend on ``n``."""
    sampler = Sampler(model, data, noise, pixels={"means": "mean", "draws": "drawn"}[samples])
    made: list[Tensor] = []
    for images in sampler.batches(n):
        made.append(images)
        if progress is not None:
            progress("samples", sum(map(len, made)), n)
    return list(torch.cat(made).split(BATCH))


def _real(data: ImageDataModule, split: SplitName, index: Tensor, samples: str) -> list[Tensor]:
    """Images of a split in batches, float32 in [0, 1], on the CPU: grey beside means, under the run's protocol beside draws."""
    if samples == "draws":
        batches = (data.evaluation_batch(split, part).x for part in index.split(BATCH))
        return [data.protocol.to_unit(x.float()).cpu() for x in batches]
    return [data.grey(split, part) for part in index.split(BATCH)]
