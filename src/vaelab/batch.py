"""The record that a data module hands to a model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images with what is known about them.

    Attributes:
        x: pixels ``[B, C, H, W]``, float, scaled as the protocol of the run says.
        y: classes ``[B]``, int64; -1 = unlabelled.
        index: position of each image in its split ``[B]``, int64.
        first_labelled: from this image on each has its label, and none before it, so that nobody has to look, which on a GPU means to wait; None = in any order.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    first_labelled: int | None = None

    def __getitem__(self, images: slice) -> Batch:
        """Some of the images, in their order."""
        first = rows_before(self.first_labelled, len(self.x), images)
        return Batch(self.x[images], self.y[images], self.index[images], first)


def rows_before(place: int | None, length: int, rows: slice) -> int | None:
    """How many of some ``rows`` of so many are before ``place``; None where there is no such place."""
    return None if place is None else len(range(place)[slice(*rows.indices(length))])
