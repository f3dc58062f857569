"""Pictures of classifiers trained with and without images of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from vaelab.figures.sheet import Sheet, checked, gap_of
from vaelab.figures.style import FAINT, GRID, INK, LINES, PAD, STYLE, around, blank, literal, text_width

ROW = 70  # picture pixels of one arm


def accuracies(
    found: Mapping[str, ArrayLike], errors: Mapping[str, float], title: str | None = None
) -> Figure:
    """A row for each name of ``found``: the accuracy of each repetition ``[R]`` as a point, and the mean with its error of ``errors``.

    The line through all rows is the mean of the first one.
    """
    rows = {name: np.asarray(values, dtype=float) for name, values in found.items()}
    if not rows or any(values.ndim != 1 or len(values) == 0 for values in rows.values()):
        raise ValueError(
            f"accuracies {[v.shape for v in rows.values()]} must each be [R], R >= 1, and at least one"
        )
    with matplotlib.rc_context(STYLE):
        left = 40 + max(text_width(literal(name), 9) for name in rows)
        width, height = max(900, 60 + text_width(literal(title or ""), 9)), 130 + ROW * len(rows)
        figure = blank(width, height)
        axes = figure.add_axes((left / width, 80 / height, 1 - (left + 40) / width, 1 - (80 + 50) / height))
        for place, (name, values) in enumerate(rows.items()):
            colour, marker = LINES[place % len(LINES)]
            axes.scatter(
                values, np.full(len(values), place + 0.2), s=14, c=FAINT, linewidths=0, alpha=0.8, zorder=2
            )
            axes.errorbar(
                values.mean(), place, xerr=errors[name], fmt=marker, color=colour, markersize=6, capsize=4, zorder=3
            )  # fmt: skip
        everything = np.concatenate([
            np.array([*values, values.mean() - errors[name], values.mean() + errors[name]])
            for name, values in rows.items()
        ])  # fmt: skip
        axes.set_xlim(*around(everything))
        axes.axvline(next(iter(rows.values())).mean(), color=INK, linewidth=0.8, linestyle=":", zorder=1)
        axes.set_yticks(range(len(rows)), [literal(name) for name in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("accuracy (share of the test images); grey: single classifiers")
        axes.grid(axis="x", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        if title:
            figure.text(PAD / width, 1 - 34 / height, literal(title), fontsize=9, ha="left", va="bottom")
    return figure


def beside_real(
    real: Sequence[ArrayLike], made: Sequence[ArrayLike], names: Sequence[str], title: str | None = None
) -> Figure:
    """A row for each class: training images ``real[c] [n_c, C, H, W]``, and after a gap those that a model has made, ``made[c]``; places that are left stay white."""
    halves = [[checked(images, 4) for images in half] for half in (real, made)]
    if not len(real) == len(made) == len(names) or len(real) == 0:
        raise ValueError(f"{len(real)} real, {len(made)} made and {len(names)} names must be as many")
    shape = halves[0][0].shape[1:]
    columns = [max(len(images) for images in half) for half in halves]
    grid = np.full((len(names), sum(columns), *shape), np.inf, dtype=np.float32)
    for first, half in zip((0, columns[0]), halves, strict=True):
        for row, images in enumerate(half):
            grid[row, first : first + len(images)] = images
    labels = [""] * sum(columns)
    labels[(columns[0] - 1) // 2], labels[columns[0] + (columns[1] - 1) // 2] = "training", "model"
    gap = gap_of(grid)
    gaps = [gap] * sum(columns)
    gaps[columns[0] - 1] = 5 * gap
    return Sheet(
        grid,
        title=title,
        row_labels=[literal(name) for name in names],
        column_labels=labels,
        column_gaps=gaps,
    ).figure
