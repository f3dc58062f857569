"""What a classifier gains by images of a finished run: :func:`vaelab.tasks.augmentation_gain` as an entry of the group ``estimator``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelab import figures
from vaelab.errors import SettingError, choice, integer, number
from vaelab.evidence import Number
from vaelab.evidence.progress import Progress
from vaelab.experiments.diagnostic import Diagnostic, Findings, Subject, without
from vaelab.networks.lenet import LEAST_SIZE, MOST_CHANNELS
from vaelab.noise import Noise, Stream
from vaelab.tasks.augmentation import (
    ARMS,
    AUGMENTED,
    BOTH,
    GAINS,
    GEOMETRIC,
    SAMPLES,
    Augmentation,
    Geometry,
    augmentation_gain,
)
from vaelab.tasks.classifier import Recipe

PRIOR, POSTERIOR = SOURCES = ("prior", "posterior")
SHOWN = 5  # images of a class in the picture, of either kind
#: of a protocol, what neither grey images nor the classes that a classifier finds in them depend on
PIXELS = ("binarize", "dequantize", "pixel_range", "num_levels", "noise_seed")
MODEL = ("likelihood", "label", "given", "precision")
ONE = "one repetition: nothing is known of how much another classifier would differ"


@dataclass(frozen=True)
class AugmentationDiagnostic(Diagnostic):
    """Accuracy of classifiers trained on the run's training images that it is told the labels of, on images of its model, on both, and on shifted and turned ones; see :func:`augmentation_gain`.

    A classifier sees grey images as they are stored, whatever pixels the model was trained on, and beside them the means of p(x|z, y).

    Attributes:
        source: what the model makes. ``prior``: new images of the same class, z from p(z|y). ``posterior``: the image itself by way of a code z from q(z|x, y), for
            which a model needs no labels.
        share, repetitions: see :func:`augmentation_gain`.
        steps, batch_size: of a classifier, see :class:`Recipe`.
        shift, angle: see :class:`Geometry`.

    Raises:
        SettingError: a setting that no model could follow.
    """

    name = "augmentation"

    source: str = PRIOR
    share: float = 0.5
    repetitions: int = 5
    steps: int = 1000
    batch_size: int = 64
    shift: float = 0.07
    angle: float = 10.0

    def __post_init__(self) -> None:
        choice("estimator.source", self.source, SOURCES)
        for setting in ("repetitions", "steps", "batch_size"):
            integer(f"estimator.{setting}", getattr(self, setting), 1)
        for setting, most in (("share", 1), ("shift", 0.5), ("angle", 180)):
            value, rule = getattr(self, setting), f"must be a number from 0 to {most}"
            number(f"estimator.{setting}", value, rule, lambda given, most=most: 0 <= given <= most)

    def check(self, subject: Subject, options: Mapping[str, Any]) -> None:
        data, model = subject.data, subject.model
        told, tested = data.labels("train"), data.labels(subject.split)[subject.index]
        channels, height, width = data.image_shape
        if not bool((told >= 0).any()) or bool((tested < 0).any()):
            rule = "has no label for a training image, or not for every test image, and a classifier is trained and tested on labelled ones"
            raise SettingError("data", data.identity, rule)
        if int(told.max()) < 1:
            raise SettingError("data", data.identity, "has a single class, and a classifier needs two")
        if channels > MOST_CHANNELS or min(height, width) < LEAST_SIZE:
            rule = f"the classifier takes at most {MOST_CHANNELS} channels and at least {LEAST_SIZE} x {LEAST_SIZE} pixels, not {list(data.image_shape)}"
            raise SettingError("data", data.identity, rule)
        if self.source == PRIOR and not model.num_classes:
            rule = "samples of this model have no label; train model=conditional, or use estimator.source=posterior"
            raise SettingError("source", self.source, rule)
        if self.source == PRIOR and options.get("binarize") is not None:
            rule = "has no effect on samples of the prior, which stand beside grey images"
            raise SettingError("binarize", options["binarize"], rule)

    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """The data and how the checkpoint was selected: accuracies are of grey images, whatever the model and its pixels; which pixels the encoder sees, it has to be told."""
        return without(protocol, *MODEL, *(PIXELS if self.source == PRIOR else ()))

    def __call__(
        self, subject: Subject, instrument: Any = None, progress: Progress | None = None
    ) -> Findings:
        data, told = subject.data, subject.data.labels("train")
        labelled = torch.nonzero(told >= 0).flatten()
        x, y, num_train = data.grey("train", labelled), told[labelled], len(labelled)
        tested = data.labels(subject.split)[subject.index]

        def generate(index: Tensor, own: Noise, step: int) -> Tensor:
            return self._generated(subject, y[index], labelled[index], own, step)

        found = augmentation_gain(
            x,
            y,
            data.grey(subject.split, subject.index),
            tested,
            generate,
            subject.noise,
            num_classes=int(torch.cat([y, tested]).max()) + 1,
            share=self.share,
            repetitions=self.repetitions,
            recipe=Recipe(steps=self.steps, batch_size=self.batch_size),
            geometry=Geometry(self.shift, self.angle),
            progress=progress,
        )
        classes = y.unique().tolist()
        shown = [torch.nonzero(y == c).flatten()[:SHOWN] for c in classes]
        made = generate(torch.cat(shown), subject.noise, 0).split([len(index) for index in shown])
        what = {PRIOR: "samples of the model", POSTERIOR: "the model's reconstructions of them"}[self.source]
        named = {arm: self._described(arm) for arm in ARMS}
        return Findings(
            numbers=self._numbers(found, num_train),
            pictures={
                "accuracies": figures.accuracies(
                    {named[arm]: found.accuracies(arm).numpy() for arm in ARMS},
                    {named[arm]: found.accuracy(arm).se_mc or 0.0 for arm in ARMS},
                    f"classifiers trained on {num_train:,} images: mean ± error over {self.repetitions} of each",
                ),
                "images": figures.beside_real(
                    [x[index].numpy() for index in shown],
                    [images.numpy() for images in made],
                    [str(c) for c in classes],
                    f"training images of each class, and {what}",
                ),
            },
            files={"accuracies.csv": as_csv(found)},
        )

    @torch.no_grad()
    def _generated(self, subject: Subject, y: Tensor, index: Tensor, own: Noise, step: int) -> Tensor:
        """An image for each of the training images at ``index [B]``, with their labels ``y [B]``: float32 in [0, 1], on the CPU."""
        model, data = subject.model, subject.data
        weight = next(model.parameters())
        with subject.arithmetic():
            if self.source == PRIOR:
                eps = own.step_normal(Stream.prior, step, (len(index), model.prior_noise_dim))
                labels = y.to(weight.device)
                pixels = model.sample(eps.to(weight.device, weight.dtype), labels).mean
            else:
                eps = own.step_normal(Stream.posterior, step, (1, len(index), model.noise_dim))
                batch = data.evaluation_batch("train", index)
                pixels = model.reconstruct(batch, eps.to(weight.device, weight.dtype)).mean[0]
        return data.protocol.to_unit(pixels.float()).cpu()

    def _described(self, arm: str) -> str:
        """What a classifier was trained on, in a picture."""
        word = {PRIOR: "samples", POSTERIOR: "reconstructions"}[self.source]
        percent = f"with {100 * self.share:.3g} % {word}"
        return {AUGMENTED: f"real, {percent}", SAMPLES: f"{word} alone", GEOMETRIC: "moved", BOTH: f"moved, {percent}"}.get(arm, "real")  # fmt: skip

    def _numbers(self, found: Augmentation, num_train: int) -> list[Number]:
        classifier = {"num_train": num_train, "steps": self.steps, "batch_size": self.batch_size}
        model, mixed = {"source": self.source}, {"source": self.source, "share": self.share}
        moved = {"shift": self.shift, "angle": self.angle}
        arms = {AUGMENTED: mixed, SAMPLES: model, GEOMETRIC: moved, BOTH: mixed | moved}
        settings = {f"accuracy_{arm}": arms.get(arm, {}) for arm in ARMS}
        settings |= {gain: arms[arm] for gain, (arm, _) in GAINS.items()}
        estimates = {f"accuracy_{arm}": found.accuracy(arm) for arm in ARMS}
        estimates |= {gain: found.gain(gain) for gain in GAINS}
        return [
            Number(
                metric=metric,
                estimate=estimate,
                estimator=self.name,
                num_samples=self.repetitions,
                settings=classifier | settings[metric],
                warning=ONE if self.repetitions == 1 else None,
                units="accuracy",
            )
            for metric, estimate in estimates.items()
        ]


def as_csv(found: Augmentation) -> str:
    """A row a repetition with the accuracy of each arm."""
    columns = [found.accuracies(arm).tolist() for arm in ARMS]
    rows = [",".join(map(repr, row)) for row in zip(*columns, strict=True)]
    lines = [",".join(("repetition", *ARMS)), *(f"{i},{row}" for i, row in enumerate(rows))]
    return "\n".join(lines) + "\n"
