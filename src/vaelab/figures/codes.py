"""Pictures of codes and of what they cost."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from vaelab.figures.style import (
    GRID,
    INK,
    NONE,
    PAD,
    STYLE,
    TEN,
    TRAIN,
    VAL,
    Array,
    blank,
    font,
    text_width,
)

SIDE = 512  # picture pixels of a sketch across and down
DOT, DIGIT = 3, 20  # picture pixels: radius of a point of it, and height of a class's digit
FINER = 2  # so many times as large it is drawn, and then reduced: Pillow draws without smooth edges


def latents(
    z2: ArrayLike,
    y: ArrayLike,
    explained: tuple[float, float] | None = None,
    names: tuple[str, str] = ("$z_0$", "$z_1$"),
    title: str = "",
) -> Figure:
    """Codes ``z2 [N, 2]`` coloured by class ``y [N]``; y = -1 (unlabelled) is grey. Each class's digit stands
    at its median.

    ``explained`` are the fractions of variance of the two axes, if they are principal components.
    """
    z, labels, classes = _points(z2, y)
    with matplotlib.rc_context(STYLE):
        figure = blank(900, 810)
        axes = figure.add_axes((0.11, 0.11, 0.73, 0.82))
        axes.set_title(title, loc="left")
        size = float(np.clip(20000 / max(len(z), 1), 3.0, 25.0))
        unlabelled = labels < 0
        axes.scatter(*z[unlabelled].T, s=size * 0.7, c=NONE, linewidths=0, zorder=1)
        colours = np.array([TEN[c % 10] for c in labels[~unlabelled]], dtype=object)
        # one call in the order of the data: no class lies on top of the others
        axes.scatter(*z[~unlabelled].T, s=size, c=list(colours), linewidths=0, alpha=0.75, zorder=2)
        for c, middle in zip(classes, _apart(z, labels, classes), strict=True):
            axes.annotate(
                str(c), middle, ha="center", va="center", fontsize=13, fontweight="bold", color=INK, zorder=4,
                path_effects=[withStroke(linewidth=3.5, foreground="white")],
            )  # fmt: skip
        entries = [(str(c), TEN[c % 10]) for c in classes] + ([("none", NONE)] if unlabelled.any() else [])
        for name, colour in entries:
            axes.scatter([], [], s=40, c=colour, linewidths=0, label=name)
        if entries:
            axes.legend(
                loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, title="class", handletextpad=0.2
            )
        shares = (
            ["", ""]
            if explained is None
            else [f" ({100 * part:.0f} % of the variance)" for part in explained]
        )
        axes.set_xlabel(names[0] + shares[0])
        axes.set_ylabel(names[1] + shares[1])
        axes.set_aspect("equal", adjustable="datalim")
    return figure


def latents_sketch(z2: ArrayLike, y: ArrayLike) -> Array:
    """The points of :func:`latents` alone, ``[512, 512, 3]``, uint8: for a picture at each of many moments, in a
    tenth of the time. One scale for both axes, the first across, the second up; points that are not finite
    are left out.
    """
    z, labels, classes = _points(z2, y)
    finite = np.isfinite(z).all(1)
    z, labels = z[finite], labels[finite]
    classes = [c for c in classes if (labels == c).any()]
    sketch = Image.new("RGB", (SIDE * FINER, SIDE * FINER), "white")
    if len(z):
        low, high = z.min(0), z.max(0)
        scale = (SIDE - 2 * PAD) / max(float((high - low).max()), 1e-9)
        places = (SIDE / 2 + (z - (low + high) / 2) * (scale, -scale)) * FINER
        pen, radius = ImageDraw.Draw(sketch, "RGBA"), DOT * FINER
        for (across, down), label in zip(places.tolist(), labels.tolist(), strict=True):
            colour = NONE if label < 0 else TEN[label % 10] + "bf"
            pen.ellipse((across - radius, down - radius, across + radius, down + radius), fill=colour)
        for c, middle in zip(classes, _apart(places, labels, classes), strict=True):
            pen.text(
                tuple(middle.tolist()), str(c), fill=INK, anchor="mm", font=font(DIGIT * FINER),
                stroke_width=2 * FINER, stroke_fill="white",
            )  # fmt: skip
    return np.asarray(sketch.reduce(FINER))


def _points(z2: ArrayLike, y: ArrayLike) -> tuple[Array, Array, list[int]]:
    """Codes, classes, and which classes there are."""
    z, labels = np.asarray(z2, dtype=float), np.asarray(y).astype(int)
    if z.ndim != 2 or z.shape[1] != 2 or labels.shape != z.shape[:1]:
        raise ValueError(f"z2 {z.shape} and y {labels.shape} must be [N, 2] and [N]")
    return z, labels, [int(c) for c in np.unique(labels) if c >= 0]


def rate_per_dimension(rates: ArrayLike, active: ArrayLike | None = None) -> Figure:
    """The rate of each latent dimension ``rates [D]`` in nats per image, the largest first.

    Those that ``active [D]`` (bool) does not count are drawn in another colour.
    """
    height = np.asarray(rates, dtype=float)
    on = np.ones(len(height), dtype=bool) if active is None else np.asarray(active, dtype=bool)
    if height.ndim != 1 or on.shape != height.shape or len(height) == 0:
        raise ValueError(f"rates {height.shape} and active {on.shape} must both be [D], D >= 1")
    if not np.isfinite(height).all():
        raise ValueError("rates must be finite")
    order = np.argsort(-height, kind="stable")
    height, on = height[order], on[order]
    with matplotlib.rc_context(STYLE):
        figure = blank(1100, 560)
        axes = figure.add_axes((0.08, 0.14, 0.88, 0.76))
        place = np.arange(len(height))
        counted = active is not None
        for which, colour, name in ((on, TRAIN, "active"), (~on, VAL, "inactive")):
            if which.any():
                label = f"{name} ({which.sum()})" if counted else None
                axes.bar(place[which], height[which], width=0.8, color=colour, linewidth=0, label=label)
        numbers = [str(d) for d in order]
        widest = text_width("0" * max(map(len, numbers)), 7) + 6
        every = int(np.ceil(widest * len(height) / (0.88 * 1100)))
        axes.set_xticks(place[::every], numbers[::every], fontsize=7)
        axes.set_xlim(-0.8, len(height) - 0.2)
        axes.set_ylim(0, 1.06 * max(float(height[0]), 1e-9))
        axes.set_xlabel("latent dimension, by its rate")
        axes.set_ylabel("rate (nats per image)")
        axes.set_title(f"rate of each dimension: {height.sum():.2f} nats in all", loc="left")
        axes.grid(axis="y", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        if counted:
            axes.legend(loc="upper right", frameon=False)
    return figure


def _apart(z: Array, labels: Array, classes: Sequence[int]) -> Array:
    """The classes' medians ``[classes, 2]``, moved from each other until two digits at them can both be
    read.
    """
    middles = np.array([np.median(z[labels == c], axis=0) for c in classes]).reshape(-1, 2)
    nearest = 0.045 * max(np.ptp(z, axis=0).max(), 1e-9) if len(z) else 0.0
    for _ in range(50):
        for i in range(len(middles)):
            for j in range(i):
                gap = middles[i] - middles[j]
                far = float(np.hypot(*gap))
                if far < nearest:
                    push = (gap / far if far > 0 else np.array([1.0, 0.0])) * (nearest - far) / 2
                    middles[i] += push
                    middles[j] -= push
    return middles
