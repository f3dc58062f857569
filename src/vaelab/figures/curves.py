"""Numbers against the step of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vaelab.figures.style import FAINT, GRID, STYLE, TRAIN, VAL, blank


def learning_curves(rows: Sequence[Mapping[str, float]], best_step: float | None = None) -> Figure:
    """ELBO, rate and distortion against the step, training and validation, from the rows of ``metrics.csv``.

    The vertical range leaves out the first steps, whose values would flatten everything that follows.
    ``best_step`` is the step of the selected checkpoint.
    """
    with matplotlib.rc_context(STYLE):
        figure = blank(1650, 560)
        for i, metric in enumerate(("elbo", "rate", "distortion")):
            axes = figure.add_axes((0.055 + i * 0.325, 0.15, 0.26, 0.7))
            late: list[float] = []
            last = max((row["step"] for row in rows), default=0.0)
            for split, colour in (("train", TRAIN), ("val", VAL)):
                key = f"{split}/{metric}"
                points = [(row["step"], row[key]) for row in rows if key in row and np.isfinite(row[key])]
                if not points:
                    continue
                few = len(points) < 30
                axes.plot(
                    *zip(*points, strict=True), color=colour, label=split, linewidth=1.5,
                    zorder=3 if few else 2, marker="o" if few else None, markersize=3.5,
                )  # fmt: skip
                late += [value for step, value in points if step >= 0.1 * last]
            if late:
                low, high = min(late), max(late)
                margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
                axes.set_ylim(low - margin, high + margin)
            else:
                axes.text(
                    0.5, 0.5, "not logged", ha="center", va="center", color=FAINT, transform=axes.transAxes
                )
            if best_step is not None:
                axes.axvline(best_step, color=FAINT, linestyle="--", linewidth=1, label="selected", zorder=1)
            axes.set_title(f"{metric} (nats per image)", loc="left")
            axes.set_xlabel("optimizer step")
            axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))  # no half steps
            axes.ticklabel_format(
                axis="y", useOffset=False
            )  # the value itself, not its distance from another one
            axes.grid(axis="y", color=GRID, linewidth=0.7)
            axes.set_axisbelow(True)
            if late and i == 0:
                axes.legend(loc="lower right", framealpha=1, edgecolor="none")
    return figure
