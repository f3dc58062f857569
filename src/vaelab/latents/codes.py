"""The codes of a set of images: what the other functions of this room take, gathered by one walk through the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vaelab.batch import Batch
from vaelab.errors import integer
from vaelab.evidence.estimates import exact
from vaelab.evidence.progress import Progress, told
from vaelab.models import Model
from vaelab.models.terms import Layer, LayerTerms, Terms

#: positions of images in their split ``[B]`` -> standard normal numbers ``[K, B, noise_dim]``, a function of these positions alone
NoiseOf = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Codes:
    """q(z|x) of N images, on the CPU, float32 unless the model computes in float64. Where a model has several stochastic layers, the code z is the topmost.

    Attributes:
        mean: of q(z|x) ``[N, D]``; where that is not known, the code at zero noise.
        stddev: of each dimension of q(z|x) ``[N, D]``; None where it is not known.
        diagonal: q(z|x) is a diagonal Gaussian with this mean and stddev.
        labels: ``[N]``, int64; -1 = unlabelled.
        index: position of each image in its split ``[N]``, int64.
        z: samples ``[K, N, D]``, K = 0 where no noise was given.
        log_p: log p(z) of the samples, float64 ``[K, N, D]``, or ``[K, N, 1]`` for a prior whose dimensions are not independent; None for a prior that depends on labels.
    """

    mean: Tensor
    stddev: Tensor | None
    diagonal: bool
    labels: Tensor
    index: Tensor
    z: Tensor
    log_p: Tensor | None

    def draws(self, num_samples: int) -> Draws:
        """``num_samples`` of the K x N samples, or all if there are fewer: of images spread evenly over the set.

        Raises:
            SettingError: no positive integer.
        """
        integer("num_samples", num_samples, 1)
        count, images = self.z.shape[:2]
        total = count * images
        if total == 0:
            raise ValueError("these codes have no samples: they were gathered without noise")
        size = min(num_samples, total)
        # An image's samples stand next to each other, so that a part of all is of as many images as can be.
        place = torch.arange(size) * total // size
        image, sample = place // count, place % count
        return Draws(self.z[sample, image], image, None if self.log_p is None else self.log_p[sample, image])


@dataclass(frozen=True)
class Draws:
    """M samples of q(z) = 1/N sum_n q(z|x_n).

    Attributes:
        z: ``[M, D]``.
        source: the image that each is of ``[M]``, int64, from 0 to N - 1.
        log_p: log p(z) ``[M, D]`` or ``[M, 1]``, or None; see :class:`Codes`.
    """

    z: Tensor
    source: Tensor
    log_p: Tensor | None


def codes(
    model: Model, batches: Iterable[Batch], noise: NoiseOf | None = None, progress: Progress | None = None
) -> Codes:
    """Walk through ``batches``.

    Args:
        model: in evaluation mode.
        batches: on the model's device, in any order.
        noise: gives the noise of each batch; None for means and standard deviations alone.
        progress: is told the batches.

    Raises:
        ValueError: no batches.
    """
    gathered = CodesAccumulator()
    for batch in told("codes", batches, progress):
        if noise is None:
            gathered.update(model, batch, None)
        else:
            gathered.update(model, batch, terms_of(model, batch, noise))
    return gathered.compute()


@torch.no_grad()
def terms_of(model: Model, batch: Batch, noise: NoiseOf) -> Terms:
    """The terms of ``batch`` with the noise of its images."""
    return model(batch, noise(batch.index).to(batch.x))


@dataclass
class CodesAccumulator:
    """Takes batch after batch."""

    _parts: list[Codes] = field(default_factory=list)

    @torch.no_grad()
    def update(self, model: Model, batch: Batch, terms: Terms | None) -> None:
        """Add the codes of ``batch``, and the samples of ``terms``."""
        layer: Layer | None = None if terms is None else terms.layers[-1]
        known = layer if layer is not None and layer.mean is not None else model.encode(batch)
        mean = known.z[0] if known.mean is None else known.mean
        log_p = None if layer is None else _log_p(layer)
        self._parts.append(
            Codes(
                mean=mean.cpu(),
                stddev=None if known.stddev is None else known.stddev.cpu(),
                diagonal=is_diagonal_normal(known),
                labels=batch.y.cpu(),
                index=batch.index.cpu(),
                z=mean.new_zeros(0, *mean.shape).cpu() if layer is None else layer.z.cpu(),
                log_p=log_p,
            )
        )

    def compute(self) -> Codes:
        """The codes of all batches given so far."""
        if not self._parts:
            raise ValueError("there are no batches")
        first = self._parts[0]

        def joined(name: str, dim: int = 0) -> Tensor:
            return torch.cat([getattr(part, name) for part in self._parts], dim)

        return Codes(
            mean=joined("mean"),
            stddev=None if first.stddev is None else joined("stddev"),
            diagonal=first.diagonal,
            labels=joined("labels"),
            index=joined("index"),
            z=joined("z", 1),
            log_p=None if first.log_p is None else joined("log_p", 1),
        )


def is_diagonal_normal(layer: Layer) -> bool:
    """Whether q(z|x) of a layer is a diagonal Gaussian that depends on nothing but the image."""
    if not isinstance(layer, LayerTerms) or layer.mean is None:
        return False
    q = layer.posterior
    return len(q.batch_shape) == 1 and isinstance(q, Independent) and isinstance(q.base_dist, Normal)


def _log_p(layer: Layer) -> Tensor | None:
    if not isinstance(layer, LayerTerms):
        return exact(layer.log_p).unsqueeze(-1)
    p = layer.prior
    if len(p.batch_shape) > 0:
        return None
    if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        return exact(p.base_dist.log_prob(layer.z))
    return exact(layer.log_p).unsqueeze(-1)


@torch.no_grad()
def posteriors(model: Model, batches: Iterable[Batch]) -> Iterator[Distribution]:
    """q(z|x) of the code, batch by batch, each made when it is asked for; of models whose q(z|x) depends on nothing but the image."""
    for batch in batches:
        layer = model.encode(batch)
        assert isinstance(layer, LayerTerms)
        yield layer.posterior
