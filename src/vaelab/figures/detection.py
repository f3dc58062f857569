"""Pictures of anomaly scores: how far two sets of images lie apart, and which images score least and most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from vaelab.figures.sheet import Sheet, checked, gap_of
from vaelab.figures.style import FAINT, GRID, INK, LINES, STYLE, TRAIN, VAL, Array, blank, literal

COLUMNS = 2  # of histograms
BINS = 60  # at most: twice the square root of the number of images
WITHIN = (0.002, 0.998)  # quantiles that a histogram shows; what lies beyond is in its last bins


def roc(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, float]], names: tuple[str, str], title: str
) -> Figure:
    """True positive rate over false positive rate for each score.

    Args:
        curves: name of a score -> false and true positive rates, and the area below.
        names: what belongs, and what does not.
        title: above.
    """
    with matplotlib.rc_context(STYLE):
        figure = blank(1320, 840)
        axes = figure.add_axes((0.08, 0.1, 0.52, 0.8))
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 4)), label="chance (0.5)")
        for i, (name, (false, true, area)) in enumerate(curves.items()):
            colour, marker = LINES[i % len(LINES)]
            x, y = np.asarray(false, float), np.asarray(true, float)
            axes.plot(x, y, color=colour, linewidth=1.5, zorder=3)
            # a marker at a place of its own on each line tells the lines apart without colours
            at = np.linspace(0.03 + 0.012 * i, 0.97, 6)
            place = np.searchsorted(x + y, 2 * at).clip(max=len(x) - 1)
            axes.plot(
                x[place], y[place], color=colour, marker=marker, markersize=5, linestyle="none", zorder=4
            )
            axes.plot(
                [], [], color=colour, marker=marker, markersize=5, label=f"{literal(name)} ({area:.4f})"
            )
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set_xlabel(f"false positive rate: share of {literal(names[0])}")
        axes.set_ylabel(f"true positive rate: share of {literal(names[1])}")
        axes.set_title(literal(title), loc="left")
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(1.02, 1.0),
            frameon=False,
            title="score (area below)",
            alignment="left",
        )
    return figure


def score_histograms(
    scores: Mapping[str, tuple[ArrayLike, ArrayLike | None, float]], names: tuple[str, str], rate: float
) -> Figure:
    """A histogram of each score, of what belongs and of what does not, with the threshold.

    Args:
        scores: name -> scores of the one, scores of the other or None, threshold; in nats.
        names: what belongs, and what does not.
        rate: the false positive rate that the thresholds are for.
    """
    rows = -(-len(scores) // COLUMNS)
    height = 60 + 300 * rows
    with matplotlib.rc_context(STYLE):
        figure = blank(1320, height)
        for i, (name, (inside, outside, limit)) in enumerate(scores.items()):
            row, column = divmod(i, COLUMNS)
            left, bottom = (104 + 650 * column) / 1320, (height - 60 - 300 * row - 226) / height
            axes = figure.add_axes((left, bottom, 540 / 1320, 200 / height))
            sets = [(np.asarray(inside, float), TRAIN, names[0], True)]
            if outside is not None:
                sets.append((np.asarray(outside, float), VAL, names[1], False))
            everything = np.concatenate([values for values, *_ in sets] + [np.array([limit])])
            edges = _edges(everything, min(len(values) for values, *_ in sets))
            for values, colour, label, filled in sets:
                axes.hist(
                    values.clip(edges[0], edges[-1]), edges.tolist(), weights=np.full(len(values), 1 / len(values)),
                    histtype="stepfilled" if filled else "step",
                    color=colour, alpha=0.45 if filled else 1.0, linewidth=0 if filled else 1.6, label=literal(label),
                )  # fmt: skip
            axes.axvline(
                limit,
                color=INK,
                linewidth=1.2,
                linestyle=(0, (5, 3)),
                label=f"threshold ({rate:.3g} of what belongs)",
            )
            axes.set_xlabel(f"{literal(name)} (nats)", labelpad=2)
            axes.set_ylabel("share of images")
            axes.set_xlim(edges[0], edges[-1])
            if i == 0:
                handles, labels = axes.get_legend_handles_labels()
                figure.legend(
                    handles,
                    labels,
                    loc="upper left",
                    bbox_to_anchor=(94 / 1320, 1.0 - 8 / height),
                    ncols=3,
                    frameon=False,
                )
    return figure


def score_extremes(rows: Sequence[ArrayLike], labels: Sequence[str], name: str) -> Figure:
    """Images in rows ``[n, C, H, W]``, each with a label: those that score least and most."""
    shown = [checked(row, 4) for row in rows]
    columns = max(map(len, shown))
    grid = np.full(
        (len(shown), columns, *shown[0].shape[1:]), np.inf, dtype=np.float32
    )  # inf = nothing there
    for i, row in enumerate(shown):
        grid[i, : len(row)] = row
    gap = gap_of(grid)
    return Sheet(
        grid,
        title=f"the images that score least and most by {literal(name)}",
        row_labels=[literal(label) for label in labels],
        row_gaps=[(3 if i % 2 else 1) * gap for i in range(len(shown))],
    ).figure


def scored_images(
    images: ArrayLike, scores: ArrayLike, anomalous: ArrayLike, name: str, limit: float, total: int
) -> Figure:
    """The most anomalous images ``[n, C, H, W]`` first, the anomalous ones framed, the score of each below it.

    Args:
        images, scores, anomalous: n of them, in order.
        name: of the score.
        limit: above which an image is anomalous.
        total: images in all.
    """
    shown, values, framed = checked(images, 4), np.asarray(scores, float), np.asarray(anomalous, bool)
    columns = min(8, len(shown))
    rows = -(-len(shown) // columns)
    grid = np.full((rows * columns, *shown.shape[1:]), np.inf, dtype=np.float32)
    grid[: len(shown)] = shown
    grid = grid.reshape(rows, columns, *shown.shape[1:])
    room = max(gap_of(grid), round(0.35 * shown.shape[-2]))
    some = f"{len(shown)} of {total} images" if total > len(shown) else f"{total} images"
    sheet = Sheet(
        grid,
        title=f"{some}, the most anomalous first; framed: {literal(name)} above {limit:.1f} nats",
        row_gaps=[room] * rows,
        column_gaps=[2 * gap_of(grid)] * columns,
        foot_labels=[""] * columns,  # room for the notes of the last row
    )
    for i, value in enumerate(values):
        row, column = divmod(i, columns)
        if framed[i]:
            sheet.frame(row, column, VAL)
        sheet.note(row, column, _short(value))
    return sheet.figure


def _short(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


def _edges(values: Array, num_images: int) -> Array:
    """Bins over nearly all of the values, as many as sets of so many images fill."""
    low, high = np.quantile(values, WITHIN)
    if not low < high:
        low, high = values.min() - 0.5, values.max() + 0.5
    return np.linspace(low, high, min(BINS, max(10, round(2 * num_images**0.5))) + 1)
