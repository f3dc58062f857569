"""What a classifier gains when images of a model are added to those that it is trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vaelab.evidence.estimates import Estimate, estimate
from vaelab.evidence.progress import Progress
from vaelab.networks.lenet import LeNet
from vaelab.noise import Noise, Stream
from vaelab.tasks.classifier import Recipe, classify, fit

#: (index [B] of training images, noise of the repetition, step) -> an image of the same class for each of them [B, C, H, W], in [0, 1]
Generate = Callable[[Tensor, Noise, int], Tensor]

REAL, AUGMENTED, SAMPLES, GEOMETRIC, BOTH = ARMS = ("real", "augmented", "samples", "geometric", "both")
#: name of a gain -> the arm with it, and the one without
GAINS = {
    "gain": (AUGMENTED, REAL),
    "gain_geometric": (GEOMETRIC, REAL),
    "gain_beside_geometric": (BOTH, GEOMETRIC),
}


@dataclass(frozen=True)
class Geometry:
    """Random shifts and turns of an image, uniform and independent: augmentation without a model.

    Attributes:
        shift: the farthest, across and down, as a share of the image's size.
        angle: the largest, to either side, in degrees.
    """

    shift: float = 0.07
    angle: float = 10.0

    def __call__(self, x: Tensor, uniform: Tensor) -> Tensor:
        """Images ``x [B, C, H, W]`` moved, bilinear, with 0 where nothing was; ``uniform [B, 3]`` in [0, 1)."""
        moved = 2 * uniform - 1  # in [-1, 1)
        angle = torch.deg2rad(self.angle * moved[:, 0])
        cos, sin = angle.cos(), angle.sin()
        height, width = x.shape[-2:]
        # coordinates of affine_grid go from -1 to 1 along either side: a turn has to know the sides' lengths
        rows = [
            torch.stack([cos, -sin * height / width, 2 * self.shift * moved[:, 1]], 1),
            torch.stack([sin * width / height, cos, 2 * self.shift * moved[:, 2]], 1),
        ]
        grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@dataclass(frozen=True)
class Augmentation:
    """Which test images each classifier names rightly.

    Attributes:
        right: of each arm, bool ``[repetitions, N]``; the repetitions of all arms are paired.
    """

    right: Mapping[str, Tensor]

    @property
    def repetitions(self) -> int:
        return len(self.right[REAL])

    def accuracies(self, arm: str) -> Tensor:
        """Share of the images that are named rightly in each repetition ``[repetitions]``, float64."""
        return self.right[arm].double().mean(1)

    def accuracy(self, arm: str) -> Estimate:
        """Mean accuracy. ``se_images`` is the sampling error of the test images, ``se_mc`` that of the repetitions given them; None of a single one."""
        return _estimate(self.right[arm].double())

    def gain(self, name: str) -> Estimate:
        """Mean difference of two arms' accuracies, one of :data:`GAINS`.

        Both errors are paired: ``se_images`` is over differences of single images, as McNemar's test of two classifiers (McNemar 1947) has them; ``se_mc`` over differences of repetitions.
        """
        with_, without = (self.right[arm].double() for arm in GAINS[name])
        return _estimate(with_ - without)


def augmentation_gain(
    x: Tensor,
    y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    generate: Generate,
    noise: Noise,
    *,
    num_classes: int,
    share: float = 0.5,
    repetitions: int = 5,
    recipe: Recipe | None = None,
    geometry: Geometry | None = None,
    progress: Progress | None = None,
) -> Augmentation:
    """Train classifiers on real images, on images that a model makes, and on both, and test them on the same images.

    Five arms: ``real`` images alone; ``augmented``, where the model's images stand in the place of a share of each minibatch; ``samples`` of the model alone; ``geometric``, real
    images shifted and turned at random; ``both``, where those that the model leaves are. In a repetition all arms have the same initial weights, the same number of steps, the same
    size of minibatches with the same labels in the same order; an image of the model takes the label and the place of a real one, so no arm sees more images or other classes. The
    model's images are new at each step: more of them there cannot be. With ``share`` 0 ``augmented`` is ``real`` bit for bit, with 1 it is ``samples``.

    Args:
        x, y: the images to train on ``[N, C, H, W]``, float32 in [0, 1], and their labels ``[N]``, on the CPU.
        test_x, test_y: those to test on.
        generate: the model.
        noise: of everything; each repetition has its own part of it.
        num_classes: of the labels.
        share: of a minibatch that the model's images take, 0 to 1, rounded to whole images.
        repetitions: classifiers of each arm, with other initial weights, order and noise.
        recipe: of the classifiers; None = 1000 steps of it.
        geometry: None = its defaults.
        progress: is told the steps of each classifier.
    """
    recipe, geometry = recipe or Recipe(steps=1000), geometry or Geometry()

    def image_batches(arm: str, own: Noise) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
        of_the_model = {AUGMENTED: share, BOTH: share, SAMPLES: 1.0}.get(arm, 0.0)

        def batch(index: Tensor, step: int) -> tuple[Tensor, Tensor]:
            images = x[index]
            if arm in (GEOMETRIC, BOTH):
                images = geometry(images, own.step_uniform(Stream.geometry, step, (len(index), 3)))
            if replaced := round(of_the_model * len(index)):  # the first ones: the order is random
                images = torch.cat([generate(index[:replaced], own, step), images[replaced:]])
            return images, y[index]

        return batch

    right: dict[str, list[Tensor]] = {arm: [] for arm in ARMS}
    for repetition in range(repetitions):
        own = noise.repetition(repetition)
        for arm in ARMS:
            with own.initialisation():
                network = LeNet(x.shape[1:], num_classes)
            network.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
            what = f"classifier {repetition + 1} of {repetitions}, {arm}"
            fit(network, image_batches(arm, own), own.order, len(x), recipe, what, progress)
            right[arm].append(classify(network.eval(), test_x) == test_y)
    return Augmentation({arm: torch.stack(found) for arm, found in right.items()})


def _estimate(values: Tensor) -> Estimate:
    """The mean of ``values [repetitions, N]``."""
    n = len(values)
    variance = None if n == 1 else values.mean(1).var() / n
    over_images = estimate(values.mean(0))
    se_mc = None if variance is None else math.sqrt(variance.item())
    return Estimate(over_images.value, over_images.se_images, se_mc, over_images.num_images)
