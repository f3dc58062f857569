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
    """

    x: Tensor
    y: Tensor
    index: Tensor

    def __getitem__(self, images: slice) -> Batch:
        """Some of the images."""
        return Batch(self.x[images], self.y[images], self.index[images])
