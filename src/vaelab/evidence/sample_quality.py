"""How good samples are, by the features of a classifier, and whether they are copies of training images.

All distances of sets are between features ``[N, F]`` of an extractor that the caller names: a number means nothing without it. They are called ``lenet_fid`` and
``lenet_kid`` where the extractor is our LeNet, never FID and KID, which are those of Inception's features of colour photographs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaelab.evidence.estimates import exact
from vaelab.evidence.progress import Progress, told

NEIGHBOURS = 3  # k of the manifolds of Kynkäänniemi et al. 2019
COPY = 1 / 3  # of the distance to the second nearest, below which the nearest is taken for an original
ROWS = 1000  # of a matrix of distances held at once: bounds the memory


@dataclass(frozen=True)
class KernelDistance:
    """The squared maximum mean discrepancy of two sets.

    Attributes:
        value: mean over the subsets; unbiased, so that it may fall below 0.
        se: standard error, standard deviation over the subsets / sqrt(number of subsets); it covers both sets where the subsets are disjoint. NaN for one subset.
        num_subsets, subset_size: S and m.
    """

    value: float
    se: float
    num_subsets: int
    subset_size: int


@dataclass(frozen=True)
class Share:
    """A share of N images.

    Attributes:
        value: from 0 to 1.
        se: binomial standard error sqrt(p (1 - p) / N) of these images, whatever they are compared with taken as given.
        num_images: N.
    """

    value: float
    se: float
    num_images: int


@dataclass(frozen=True)
class Comparison:
    """A set of images compared with the real ones.

    Attributes:
        frechet: Frechet distance, >= 0 up to rounding. Biased upwards by finite sets: compare it with that of as many real images.
        kernel: kernel distance.
        precision: share of the set inside the manifold of the real images.
        recall: share of the real images inside the manifold of the set.
        num_images, num_real: sizes of the two sets.
    """

    frechet: float
    kernel: KernelDistance
    precision: Share
    recall: Share
    num_images: int
    num_real: int


@dataclass(frozen=True)
class Neighbours:
    """The k nearest training images of n images, the nearest first.

    Attributes:
        index: in the training set, int64 ``[n, k]``.
        distance: Euclidean, over pixels in [0, 1], float64 ``[n, k]``.
    """

    index: Tensor
    distance: Tensor


@dataclass(frozen=True)
class Memorisation:
    """Whether samples lie nearer to training images than unseen images do.

    A blurred image lies near to everything: ``median_ratio`` falls below 1 for blur as for memory. ``copies`` compares the two nearest training images of one sample, which
    blur moves together.

    Attributes:
        median_ratio: median distance of the samples to their nearest training image / that of test images. 1: as near as unseen images; 0: copies.
        copies: share of samples three times nearer to one training image than to any other (Yoon et al. 2023, "Diffusion probabilistic models generalize when they
            fail to memorize").
        test_copies: the same of the test images: what does not come from memory.
        num_training: size of the training set.
    """

    median_ratio: float
    copies: Share
    test_copies: Share
    num_training: int


@dataclass(frozen=True)
class SampleQuality:
    """Everything about a set of samples.

    Attributes:
        samples: what the images are: ``means`` or ``draws`` of p(x|z).
        generated: the samples compared with the real images (the test split).
        floor: training images compared with the same: what a perfect model would have, with the overfitting of the extractor.
        memorisation: see there.
        neighbours: training images nearest to the first samples.
        num_features: F.
        extractor: digest of the extractor's weights; numbers of different ones cannot be compared.
        extractor_accuracy: share of the test images it classifies rightly.
        warning: one line, or None.
    """

    samples: str
    generated: Comparison
    floor: Comparison
    memorisation: Memorisation
    neighbours: Neighbours
    num_features: int
    extractor: str
    extractor_accuracy: float
    warning: str | None


@torch.no_grad()
def features(extractor: Callable[[Tensor], Tensor], images: Iterable[Tensor]) -> Tensor:
    """Features ``[N, F]``, float64, on the CPU.

    Args:
        extractor: images ``[n, C, H, W]`` in [0, 1] -> features ``[n, F]``; a module has to be in evaluation mode.
        images: in batches.

    Raises:
        ValueError: the extractor is in training mode, where an image's features may depend on the others.
    """
    if isinstance(extractor, nn.Module) and extractor.training:
        raise ValueError("the extractor is in training mode; call its eval() first")
    return torch.cat([exact(extractor(batch)) for batch in images])


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """|mu_r - mu_g|^2 + tr(S_r + S_g - 2 (S_r S_g)^(1/2)) of the means and covariances of two sets of features ``[N, F]`` and ``[M, F]`` (Heusel et al. 2017).

    With N or M up to F the covariances are singular, and the distance says little. Computed by torchmetrics, in float64.

    Raises:
        ValueError: fewer than two images in a set, or features that are not finite.

    >>> x = torch.tensor([[0.0], [2.0]])
    >>> round(frechet_distance(x, x + 3), 6)
    9.0
    """
    from torchmetrics.image.fid import FrechetInceptionDistance  # seconds to import

    real, generated = _two_sets(real, generated, least=2)
    metric = FrechetInceptionDistance(feature=_AsTheyAre(real.shape[1]))
    # Distances do not change with the origin, and sums of squares lose fewer digits about the mean.
    origin = real.mean(0)
    metric.update(real - origin, real=True)
    metric.update(generated - origin, real=False)
    return metric.compute().item()


class _AsTheyAre(nn.Module):
    """What torchmetrics takes for its extractor: the features are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def kernel_distance(
    real: Tensor, generated: Tensor, real_subsets: Tensor, generated_subsets: Tensor
) -> KernelDistance:
    """Squared maximum mean discrepancy under the kernel (x . y / F + 1)^3, unbiased, averaged over subsets (Binkowski et al. 2018).

    The kernel and the estimator are torchmetrics'; its own choice of subsets comes from torch's global generator, so that they are arguments here.

    Args:
        real, generated: features ``[N, F]`` and ``[M, F]``.
        real_subsets, generated_subsets: rows of each, int64 ``[S, m]``, m >= 2; see :func:`blocks`.

    Raises:
        ValueError: subsets of different sizes or of fewer than two.
    """
    from torchmetrics.image.kid import poly_mmd  # seconds to import

    real, generated = _two_sets(real, generated, least=2)
    if real_subsets.shape != generated_subsets.shape or real_subsets.shape[-1] < 2:
        raise ValueError(
            f"subsets {list(real_subsets.shape)} and {list(generated_subsets.shape)} must have one shape [S, m], m >= 2"
        )
    values = torch.stack(
        [poly_mmd(real[r], generated[g]) for r, g in zip(real_subsets, generated_subsets, strict=True)]
    )
    num_subsets, size = real_subsets.shape
    se = values.std(correction=1).item() / math.sqrt(num_subsets) if num_subsets > 1 else math.nan
    return KernelDistance(values.mean().item(), se, num_subsets, size)


def blocks(order: Tensor, size: int) -> Tensor:
    """Disjoint subsets ``[S, size]`` of the rows in ``order [N]``, S = N // size; the rest is left out.

    >>> blocks(torch.tensor([4, 2, 0, 1, 3]), 2)
    tensor([[4, 2],
            [0, 1]])
    """
    count = len(order) // size
    return order[: count * size].reshape(count, size)


def precision(real: Tensor, generated: Tensor, k: int = NEIGHBOURS) -> Share:
    """Share of ``generated`` inside the manifold of ``real``: within the distance of some real image to its k-th nearest real one (Kynkäänniemi et al. 2019).

    It depends on the number of real images, which have to be as many wherever two precisions are compared.

    Args:
        real, generated: features ``[N, F]`` and ``[M, F]``.
        k: at least 1, below N.

    Raises:
        ValueError: not more than k real images.
    """
    real, generated = _two_sets(real, generated, least=1)
    if not 1 <= k < len(real):
        raise ValueError(f"k={k} must be at least 1 and below the number of images, {len(real)}")
    # Images with equal features are at distance 0 only up to rounding.
    rounding = 1e-12 * max(real.square().sum(1).max().item(), generated.square().sum(1).max().item())
    radii = torch.cat(
        [
            _squared_distances(part, real).topk(k + 1, largest=False).values[:, k]  # the first is itself
            for part in real.split(ROWS)
        ]
    )
    inside = torch.cat(
        [(_squared_distances(part, real) <= radii + rounding).any(1) for part in generated.split(ROWS)]
    )
    return share(inside)


def recall(real: Tensor, generated: Tensor, k: int = NEIGHBOURS) -> Share:
    """Share of ``real`` inside the manifold of ``generated``: :func:`precision` with the sets exchanged."""
    return precision(generated, real, k)


def share(which: Tensor) -> Share:
    """Share of true values among ``which [N]``, bool.

    >>> share(torch.tensor([True, False, True, False]))
    Share(value=0.5, se=0.25, num_images=4)
    """
    p, n = which.double().mean().item(), len(which)
    return Share(p, math.sqrt(p * (1 - p) / n), n)


def compare(
    real: Tensor, images: Tensor, real_order: Tensor, order: Tensor, k: int = NEIGHBOURS
) -> Comparison:
    """All numbers of a set of images against real ones.

    Args:
        real, images: features ``[N, F]`` and ``[M, F]``, N and M at least 4 and above k.
        real_order, order: permutations of their rows (noise), from which the kernel distance takes disjoint subsets: ten or more, of at most 1000 images, where there are 20.
        k: of the manifolds.
    """
    fewest = min(len(real), len(images))
    size = max(2, min(1000, fewest // 10))
    subsets = [blocks(rows, size)[: fewest // size] for rows in (real_order, order)]
    return Comparison(
        frechet=frechet_distance(real, images),
        kernel=kernel_distance(real, images, *subsets),
        precision=precision(real, images, k),
        recall=recall(real, images, k),
        num_images=len(images),
        num_real=len(real),
    )


def nearest_neighbours(samples: Tensor, training: Iterable[Tensor], k: int) -> Neighbours:
    """The k nearest training images of each sample, by the Euclidean distance of pixels; of images at one distance the first comes first.

    Args:
        samples: ``[n, C, H, W]`` in [0, 1].
        training: batches ``[b, C, H, W]`` in the same scale, in the order of the training set.
        k: at least 1, at most the number of training images.

    Raises:
        ValueError: fewer training images than k.
    """
    rows = exact(samples).flatten(1)
    best_distance = rows.new_empty(len(rows), 0)
    best_index = torch.empty(len(rows), 0, dtype=torch.int64)
    seen = 0
    for batch in training:
        images = exact(batch).flatten(1)
        found_distance, found = _nearest(rows, images, min(k, len(images)))
        distance, place = torch.cat([best_distance, found_distance], 1).sort(dim=1, stable=True)
        best_index = torch.cat([best_index, found + seen], 1).gather(1, place)[:, :k]
        best_distance = distance[:, :k]
        seen += len(images)
    if not 1 <= k <= seen:
        raise ValueError(f"k={k} must be at least 1 and at most the number of training images, {seen}")
    return Neighbours(best_index, best_distance)


def memorisation(samples: Neighbours, test: Neighbours, num_training: int) -> Memorisation:
    """Nearest training images of samples against those of test images, both with k >= 2.

    Raises:
        ValueError: a single neighbour.
    """
    if min(samples.distance.shape[1], test.distance.shape[1]) < 2:
        raise ValueError("memorisation compares the two nearest training images: k must be at least 2")
    medians = [neighbours.distance[:, 0].median().item() for neighbours in (samples, test)]
    copies, test_copies = (
        share(neighbours.distance[:, 0] <= COPY * neighbours.distance[:, 1]) for neighbours in (samples, test)
    )
    ratio = medians[0] / medians[1] if medians[1] > 0 else math.nan
    return Memorisation(ratio, copies, test_copies, num_training)


def sample_quality(
    extractor: Callable[[Tensor], Tensor],
    *,
    real: Sequence[Tensor],
    generated: Sequence[Tensor],
    reference: Sequence[Tensor],
    training: Sequence[Tensor],
    orders: tuple[Tensor, Tensor, Tensor],
    samples: str,
    extractor_digest: str,
    extractor_accuracy: float,
    k: int = NEIGHBOURS,
    num_neighbours: int = 8,
    num_searched: int = 1000,
    progress: Progress | None = None,
) -> SampleQuality:
    """All numbers about a set of samples. Images come in batches ``[n, C, H, W]`` in [0, 1], all under one protocol: means with grey images, draws with what they imitate.

    Args:
        extractor: images -> features ``[n, F]``.
        real: test images.
        generated: samples.
        reference: training images, as many as samples where there are as many, in place of the samples for the floor.
        training: all images that the model was trained on, for the nearest neighbours.
        orders: permutations of the rows of ``real``, ``generated`` and ``reference``: noise, for the subsets of the kernel distance.
        samples: ``means`` or ``draws``, for the record.
        extractor_digest, extractor_accuracy: for the record.
        k: of the manifolds of precision and recall.
        num_neighbours: training images kept for each sample, at least 2.
        num_searched: samples, and test images, whose neighbours are looked for.
        progress: is told the batches.
    """
    real_features, generated_features, reference_features = (
        features(extractor, told(f"features of {name} images", images, progress))
        for name, images in (("test", real), ("generated", generated), ("training", reference))
    )
    real_order, generated_order, reference_order = orders
    close, test_close = (
        nearest_neighbours(
            _first(images, num_searched),
            told(f"neighbours of {name} images", training, progress),
            num_neighbours,
        )
        for name, images in (("generated", generated), ("test", real))
    )
    generated_compared, floor = (
        compare(real_features, found, real_order, order, k)
        for found, order in told(
            "distances of features",
            [(generated_features, generated_order), (reference_features, reference_order)],
            progress,
        )
    )
    num_features = real_features.shape[1]
    fewest = min(len(real_features), len(generated_features), len(reference_features))
    few = f"{fewest} images for {num_features} features: singular covariances, lenet_fid says little"
    return SampleQuality(
        samples=samples,
        generated=generated_compared,
        floor=floor,
        memorisation=memorisation(close, test_close, sum(len(batch) for batch in training)),
        neighbours=close,
        num_features=num_features,
        extractor=extractor_digest,
        extractor_accuracy=extractor_accuracy,
        warning=few if fewest <= num_features else None,
    )


def _first(batches: Sequence[Tensor], n: int) -> Tensor:
    taken, kept = 0, []
    for batch in batches:
        kept.append(batch[: n - taken])
        taken += len(kept[-1])
        if taken == n:
            break
    return torch.cat(kept)


def _two_sets(real: Tensor, generated: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Both in float64; refused unless they are ``[N, F]`` and ``[M, F]``, finite, with ``least`` rows."""
    if real.dim() != 2 or generated.dim() != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features {list(real.shape)} and {list(generated.shape)} must be [N, F] and [M, F]")
    if min(len(real), len(generated)) < least:
        raise ValueError(f"{len(real)} and {len(generated)} images: each set must have at least {least}")
    sets = exact(real), exact(generated)
    if not all(bool(features.isfinite().all()) for features in sets):
        raise ValueError("features must be finite")
    return sets


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 ``[n, m]`` by a matrix product: ten times faster than differences, and 0 only up to rounding."""
    return (
        torch.addmm(b.square().sum(1), a, b.T, alpha=-2).add_(a.square().sum(1, keepdim=True)).clamp_(min=0)
    )


def _nearest(rows: Tensor, images: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances and places ``[n, k]`` of the nearest of ``images``; the distances from differences, so that equal images are at 0."""
    distances, places = [], []
    for part in rows.split(ROWS):
        place = _squared_distances(part, images).topk(k, largest=False).indices.sort(1).values
        distance = torch.stack([(part - images[column]).norm(dim=1) for column in place.unbind(1)], 1)
        distance, order = distance.sort(dim=1, stable=True)
        distances.append(distance)
        places.append(place.gather(1, order))
    return torch.cat(distances), torch.cat(places)
