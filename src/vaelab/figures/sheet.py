"""Images in rows and columns, every image pixel a whole number of picture pixels."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from vaelab.figures.style import PAD, STYLE, Array, blank, text_width

WIDEST = 1800  # picture pixels across, or down, for the images
BAD = (0.85, 0.0, 0.55)


class Sheet:
    """Images in rows and columns with labels around them, laid out in picture pixels so that nothing is cut
    or blurred.
    """

    def __init__(
        self,
        grid: Array,
        *,
        gap: int | None = None,
        title: str | None = None,
        row_labels: Sequence[str] = (),
        column_labels: Sequence[str] = (),
        foot_labels: Sequence[str] = (),
        row_gaps: Sequence[int] | None = None,
        column_gaps: Sequence[int] | None = None,
    ) -> None:
        rows, columns, _, height, width = grid.shape
        gap = gap_of(grid) if gap is None else gap
        # top left corner of each image, in image pixels
        self._y = np.cumsum([0, *(height + g for g in (row_gaps or [gap] * rows))])[:rows]
        self._x = np.cumsum([0, *(width + g for g in (column_gaps or [gap] * columns))])[:columns]
        self._size = (height, width)
        mosaic = np.ones((self._y[-1] + height, self._x[-1] + width, 3), dtype=np.float32)
        for i, y in enumerate(self._y):
            for j, x in enumerate(self._x):
                if not np.isposinf(grid[i, j]).all():  # an empty place stays white
                    mosaic[y : y + height, x : x + width] = rgb(grid[i, j])
        self.scale = scale = max(1, min(WIDEST // max(mosaic.shape[:2]), round(96 / max(height, width))))
        with matplotlib.rc_context(STYLE):
            left = (
                max((text_width(text, 8) for text in row_labels), default=0) + (14 if row_labels else 0) + PAD
            )
            top = PAD + (38 if title else 0) + (28 if column_labels else 0)
            bottom = PAD + (28 if foot_labels else 0)
            across, down = mosaic.shape[1] * scale, mosaic.shape[0] * scale
            inner = max(across, text_width(title, 10) if title else 0)
            total = (left + inner + PAD, top + down + bottom)
            self.figure = blank(*total)
            box = (left / total[0], bottom / total[1], across / total[0], down / total[1])
            self.axes = axes = self.figure.add_axes(box)
            axes.imshow(
                np.round(255 * mosaic).astype(np.uint8),
                interpolation="nearest",
                aspect="auto",
                extent=(0, mosaic.shape[1], mosaic.shape[0], 0),
            )
            axes.set_axis_off()
            pixel = 1 / scale  # one picture pixel, in the units of the axes
            for y, text in zip(self._y, row_labels, strict=False):
                axes.text(-12 * pixel, y + height / 2, text, ha="right", va="center", fontsize=8)
            for labels, y, va in (
                (column_labels, -8 * pixel, "bottom"),
                (foot_labels, mosaic.shape[0] + 8 * pixel, "top"),
            ):
                for j in _not_touching(labels, (width + gap) * scale):
                    axes.text(self._x[j] + width / 2, y, labels[j], ha="center", va=va, fontsize=8)
            if title:
                axes.text(0, -(top - PAD - 26) * pixel, title, ha="left", va="bottom", fontsize=10)

    def note(self, row: int, column: int, text: str) -> None:
        """Small text below one image, where the rows leave room for it."""
        x, y = self._x[column] + self._size[1] / 2, self._y[row] + self._size[0] + 8 / self.scale
        self.axes.text(x, y, text, ha="center", va="top", fontsize=8)

    def frame(self, row: int, column: int, colour: str) -> None:
        """A line around one image, just outside it."""
        (height, width), edge = self._size, 4 / self.scale
        corner = (self._x[column] - edge / 2, self._y[row] - edge / 2)
        self.axes.add_patch(
            Rectangle(
                corner,
                width + edge,
                height + edge,
                fill=False,
                edgecolor=colour,
                linewidth=1.6,
                clip_on=False,
            )
        )


def checked(images: ArrayLike, ndim: int) -> Array:
    array = np.asarray(images, dtype=np.float32)
    if array.ndim != ndim or array.shape[-3] not in (1, 3) or 0 in array.shape:
        names = "[rows, columns, C, H, W]" if ndim == 5 else "[n, C, H, W]"
        raise ValueError(f"images {array.shape} must be {names} with C = 1 or 3, and at least one")
    return array


def gap_of(images: Array) -> int:
    """Image pixels between images."""
    return max(1, round(max(images.shape[-2:]) / 14))


def rgb(image: Array) -> Array:
    """``[C, H, W]`` -> ``[H, W, 3]`` in [0, 1]."""
    clipped = np.moveaxis(
        np.broadcast_to(np.clip(np.nan_to_num(image), 0, 1), (3, *image.shape[1:])), 0, -1
    ).copy()
    clipped[~np.isfinite(image).all(axis=0)] = BAD
    return clipped


def _not_touching(labels: Sequence[str], room: float) -> list[int]:
    """Which of the evenly spaced ``labels`` can be drawn without touching: all, every second, ... and always
    the middle one's.
    """
    shown = [j for j, text in enumerate(labels) if text]
    if not shown:
        return []
    widest = max(text_width(labels[j], 8) for j in shown) + 12
    every = int(np.ceil(widest / room)) if len(shown) == len(labels) else 1
    return [j for j in shown if (j - (len(labels) - 1) // 2) % every == 0]
