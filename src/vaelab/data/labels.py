"""Which training images a run is told the labels of, and which of these each optimizer step sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelab.errors import SettingError


def draw(y: Tensor, num_labels: int, order: Tensor) -> Tensor:
    """The images whose labels are known: equally many of each class that there is, the first ones in a random order of all images. Of more labels the fewer are a part.

    Args:
        y: labels of the training images ``[N]``, all >= 0.
        num_labels: in all.
        order: a permutation of the images ``[N]``.

    Returns:
        positions, rising ``[num_labels]``.

    Raises:
        SettingError: not equally many of each class, or more than there are.

    >>> draw(torch.tensor([0, 1, 0, 1, 1, 0]), 4, torch.tensor([5, 4, 3, 2, 1, 0])).tolist()
    [2, 3, 4, 5]
    """
    classes, counts = y.unique(return_counts=True)  # data.classes may leave gaps
    each, left = divmod(num_labels, len(classes))
    if left:
        rule = f"must be a multiple of {len(classes)}, so that each class has equally many"
        raise SettingError("data.num_labels", num_labels, rule)
    if each > (fewest := int(counts.min())):
        rule = f"must be at most {len(classes) * fewest}: a class has {fewest} training images"
        raise SettingError("data.num_labels", num_labels, rule)
    in_order = y[order]
    chosen = [order[(in_order == label).nonzero().squeeze(-1)[:each]] for label in classes]
    return torch.cat(chosen).sort().values


@dataclass(frozen=True)
class Rows:
    """Of which images a minibatch is made: those that an epoch visits in turn, and labelled ones that are gone through again and again beside them.

    Attributes:
        num_images: of the training set, by which an epoch is counted where it visits none in turn.
        visited: positions of the images of an epoch; empty where labelled images have all rows.
        visited_per_batch: rows of a minibatch that these get.
        repeated: positions of the labelled images ``[L]``; empty = none beside the others.
        repeated_per_batch: rows of a minibatch that these get.
        all_labelled: whether every image is.
        order: (number of a passage, images, purpose) -> a permutation.
    """

    num_images: int
    visited: Tensor
    visited_per_batch: int
    repeated: Tensor
    repeated_per_batch: int
    all_labelled: bool
    order: Callable[[int, int, str], Tensor]

    @property
    def per_epoch(self) -> int:
        """Rows that make an epoch: those of the images that it visits, or of as many labelled ones as there are images."""
        return len(self.visited) or self.num_images

    @property
    def per_batch(self) -> int:
        """How many of these a minibatch has."""
        return self.visited_per_batch or self.repeated_per_batch

    def first_labelled(self, num_rows: int, minibatches: int = 1) -> int | None:
        """From which of the rows of a step, of so many minibatches, on all have a label, and none before it; None where they are mixed.

        The last step of an epoch has fewer rows, and as many of labelled images.
        """
        if len(self.repeated):
            return num_rows - self.repeated_per_batch * minibatches
        return 0 if self.all_labelled else None

    def epoch(self, epoch: int) -> Tensor:
        """The positions that an epoch visits, in its order."""
        if len(self.visited) == 0:
            return self.visited
        return self.visited[self.order(epoch, len(self.visited), "order")]

    def beside(self, step: int, minibatches: int = 1) -> Tensor:
        """The labelled images of optimizer step ``step``, which takes so many ``minibatches``: a function of the step alone."""
        count, size = self.repeated_per_batch * minibatches, len(self.repeated)
        if count == 0:
            return self.repeated[:0]
        passage, start = divmod(step * count, size)
        passages = range(passage, passage + -(-(start + count) // size))
        places = torch.cat([self.order(number, size, "labelled") for number in passages])
        return self.repeated[places[start : start + count]]


def rows(
    known: Tensor,
    batch_size: int,
    labelled_per_batch: int | None,
    order: Callable[[int, int, str], Tensor],
) -> Rows:
    """The rows of minibatches of ``batch_size``.

    Args:
        known: labels of the training images ``[N]``, -1 where a run is not told.
        labelled_per_batch: how many rows labelled images get; None = an epoch visits all images alike. All of them: there are no others.
        order: as of :class:`Rows`.

    Raises:
        SettingError: rows are left to images without a label, and there are none.
    """
    total, everywhere = len(known), torch.arange(len(known))
    none = everywhere[:0]
    if labelled_per_batch is None:
        return Rows(total, everywhere, batch_size, none, 0, bool((known >= 0).all()), order)
    labelled, others = everywhere[known >= 0], everywhere[known < 0]
    if labelled_per_batch == batch_size:
        return Rows(total, none, 0, labelled, batch_size, len(others) == 0, order)
    if len(others) == 0:
        rule = f"leaves rows to other images, and all {total} are labelled; use null, or {batch_size} for all rows"
        raise SettingError("data.labelled_per_batch", labelled_per_batch, rule)
    return Rows(total, others, batch_size - labelled_per_batch, labelled, labelled_per_batch, False, order)
