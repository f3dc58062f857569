"""Pictures of what a class and a style are: one style in every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from vaelab.figures.sheet import Sheet, checked, gap_of
from vaelab.figures.style import VAL


def analogies(x: ArrayLike, images: ArrayLike, labels: Sequence[int]) -> Figure:
    """Data ``x [n, C, H, W]``, and beside each what its code gives in every class: ``images [n, classes, C, H, W]`` of ``labels [classes]``
    (figure 1 of Kingma et al. 2014).
    """
    data, shown = checked(x, 4), checked(images, 5)
    if len(data) != len(shown) or shown.shape[1] != len(labels) or data.shape[1:] != shown.shape[2:]:
        raise ValueError(
            f"x {data.shape} and images {shown.shape} must be [n, C, H, W] and [n, {len(labels)}, C, H, W]"
        )
    gap = gap_of(shown)
    sheet = Sheet(
        np.concatenate([data[:, None], shown], axis=1),
        column_labels=["data", *(str(label) for label in labels)],
        column_gaps=[3 * gap, *[gap] * (len(labels) - 1)],
        row_gaps=[2 * gap] * len(shown),
        title="analogies: the code z of a test image in each class y",
    )
    for row in range(len(data)):
        sheet.frame(row, 0, VAL)
    return sheet.figure
