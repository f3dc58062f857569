"""One way to train a classifier of images, whatever it is for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaelab.evidence.progress import Progress, told
from vaelab.training.arithmetic import full_float32

EVAL_BATCH = 1000  # images at once


@dataclass(frozen=True)
class Recipe:
    """Cross-entropy and Adam; the learning rate rises to its largest value and falls to 0, in straight lines.

    Attributes:
        steps: minibatches in all.
        batch_size: images of each, or all of them where there are fewer.
        rate: the largest learning rate.
        warmup: steps until then.
    """

    steps: int = 1500
    batch_size: int = 64
    rate: float = 2e-3
    warmup: int = 50

    def indices(self, order: Callable[[int, int], Tensor], num_images: int) -> Iterator[Tensor]:
        """The images of each step; an epoch leaves out the short batch at its end, of other images each time.

        Args:
            order: (epoch, number of images) -> a permutation of them.
            num_images: N.
        """
        size = min(self.batch_size, num_images)
        num_batches = num_images // size
        for epoch in range(math.ceil(self.steps / num_batches)):
            visited = order(epoch, num_images)
            for place in range(min(num_batches, self.steps - epoch * num_batches)):
                yield visited[place * size : (place + 1) * size]


def fit(
    network: nn.Module,
    batch: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    order: Callable[[int, int], Tensor],
    num_images: int,
    recipe: Recipe,
    what: str,
    progress: Progress | None = None,
) -> None:
    """Train ``network``, in place, on the CPU: the same bits on the same machine and version of torch, whatever the process has set.

    Args:
        network: images ``[B, C, H, W]`` -> logits ``[B, num_classes]``.
        batch: (index ``[B]`` of the images, step) -> images and their labels ``[B]``.
        order, num_images: see :meth:`Recipe.indices`.
        recipe: how.
        what: is trained, for ``progress``.
        progress: is told the steps.
    """
    with _same_arithmetic(), torch.enable_grad():
        optimizer = torch.optim.Adam(network.parameters(), lr=recipe.rate, fused=True)
        indices = list(recipe.indices(order, num_images))
        for step, index in enumerate(told(what, indices, progress)):
            x, y = batch(index, step)
            loss = F.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            rising, falling = (step + 1) / recipe.warmup, 1 - step / recipe.steps
            optimizer.param_groups[0]["lr"] = recipe.rate * min(rising, falling)
            optimizer.step()


@torch.no_grad()
def classify(network: nn.Module, x: Tensor) -> Tensor:
    """The most probable class of each image ``[N]``, int64; images ``x [N, C, H, W]``."""
    with _same_arithmetic():
        return torch.cat([network(part).argmax(1) for part in x.split(EVAL_BATCH)])


@contextmanager
def _same_arithmetic() -> Iterator[None]:
    """One thread, all bits of float32, and denormal numbers flushed to zero: what else the process has set must not change the weights."""
    threads = torch.get_num_threads()
    flushed = not bool(torch.tensor(1e-30) * 1e-10 > 0)  # torch does not say what is set
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        with full_float32():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushed)
