"""Images of a model's prior: any number of them, each a function of the seed and its own number."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelab.data.datamodule import ImageDataModule
from vaelab.noise import Noise, Split, Stream

PIXELS = ("mean", "drawn")
#: images that the networks see at once, always: a product of matrices rounds otherwise for another number of rows
BLOCK = 256


@dataclass(frozen=True)
class Sampler:
    """Samples z of the prior, and of each the mean of p(x|z) or an image drawn from it.

    Image i is the same whatever else is asked for, bit for bit on one device.

    Attributes:
        model: with its weights, on any device.
        data: set up.
        noise: what the samples are made of.
        pixels: ``mean`` of p(x|z), the picture usually shown; or ``drawn`` from p(x|z), what the model says that data look like.
        temperature: the noise of every stochastic layer is multiplied by it, the choice of a component of the prior or of a class is not; 1 = samples of the model.
        classes: labels that the images take in turn, of a model that is conditional on labels; None = all.
        in_a_row: images that share a label before the next one has its turn.
    """

    model: Any
    data: ImageDataModule
    noise: Noise
    pixels: str = "mean"
    temperature: float = 1.0
    classes: tuple[int, ...] | None = None
    in_a_row: int = 1

    def labels(self, index: Tensor) -> Tensor | None:
        """Labels of the images at ``index [B]``, int64; None where the model takes none."""
        if not self.model.num_classes:
            return None
        classes = torch.arange(self.model.num_classes) if self.classes is None else torch.tensor(self.classes)
        return classes[index // self.in_a_row % len(classes)]

    def __call__(self, n: int) -> Tensor:
        """The first ``n`` images ``[n, C, H, W]``, float32 in [0, 1], on the CPU."""
        return torch.cat(list(self.batches(n)))

    def batches(self, n: int) -> Iterator[Tensor]:
        """The first ``n`` images, a few at a time."""
        starts = range(0, n, BLOCK)
        with ThreadPoolExecutor(1) as pool:  # the random numbers of the next ones, beside the networks
            ahead = pool.submit(self._noise, 0)
            for start in starts:
                eps, uniform = ahead.result()
                if start + BLOCK < n:
                    ahead = pool.submit(self._noise, start + BLOCK)
                with torch.no_grad():  # whoever is handed an image may have gradients on
                    images = self._images(start, eps, uniform)
                yield images[: n - start]

    def _noise(self, start: int) -> tuple[Tensor, Tensor | None]:
        """Of z, and of the pixels where they are drawn."""
        index = torch.arange(start, start + BLOCK)
        eps = self.noise.image_normal(Stream.prior, Split.train, index, (self.model.prior_noise_dim,))
        if self.temperature != 1.0:
            eps[:, : eps.shape[1] - self.model.choosing_dim] *= self.temperature
        if self.pixels == "mean":
            return eps, None
        return eps, self.noise.image_uniform(Stream.pixels, Split.train, index, self.data.image_shape)

    def _images(self, start: int, eps: Tensor, uniform: Tensor | None) -> Tensor:
        weight = next(self.model.parameters())
        y = self.labels(torch.arange(start, start + BLOCK))
        p = self.model.sample(eps.to(weight.device, weight.dtype), None if y is None else y.to(weight.device))
        pixels = p.mean if uniform is None else self.model.likelihood.draw(p, uniform.to(weight.device))
        return self.data.protocol.to_unit(pixels.float()).cpu()
