"""Pictures of a model: arrays in, a matplotlib ``Figure`` out. No pyplot, no global state, no random numbers.

Images are ``[..., C, H, W]`` in [0, 1], C = 1 (grey) or 3 (RGB); values outside are clipped and pixels that
are not finite are drawn magenta, so that they are seen. Every image pixel is a whole number of picture
pixels.
"""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

DPI = 150
WIDEST = 1800  # picture pixels across, or down, for the images
MOST = 400  # images in one picture
PAD = 18  # picture pixels around everything
BAD = (0.85, 0.0, 0.55)

INK, FAINT = "#222222", "#767676"
TRAIN, VAL = "#0072b2", "#d55e00"
# Ten classes, each at least 24 CIELAB units from the others, from white and from the grey of unlabelled
# points, as seen with normal sight, protanopia and deuteranopia (drawn from Wong's, Tol's and IBM's palettes)
TEN = (
    "#aa4499", "#d55e00", "#56b4e9", "#882255", "#f0e442",
    "#785ef0", "#661100", "#cc6677", "#ddcc77", "#332288",
)  # fmt: skip
NONE = "#c4c4c4"
#: colour and marker of lines in one picture: Wong's, of which each can be told from the others without colours, too
LINES = (
    ("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#e69f00", "v"),
    ("#56b4e9", "P"), ("#222222", "X"), ("#882255", "<"), ("#785ef0", ">"), ("#767676", "*"),
)  # fmt: skip
PLOT = (760, 480)  # picture pixels of the axes
ASIDE = 7  # picture pixels between the points that lines have at one value

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.facecolor": "white",
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "figure.dpi": DPI,
    "savefig.facecolor": "white",
    "savefig.bbox": None,
    "text.usetex": False,
}


def samples(images: ArrayLike, title: str | None = None) -> Figure:
    """A near-square grid of ``images [n, C, H, W]``, row by row; of more than 400 the first 400 are drawn,
    and the title says so.
    """
    shown = _images(images, 4)
    count = len(shown)
    shown = shown[:MOST]
    if count > MOST:
        title = f"{title or 'samples'} (first {MOST} of {count})"
    columns = int(np.ceil(np.sqrt(len(shown))))
    rows = int(np.ceil(len(shown) / columns))
    grid = np.full((rows * columns, *shown.shape[1:]), np.inf, dtype=np.float32)  # inf = nothing there
    grid[: len(shown)] = shown
    return _Sheet(grid.reshape(rows, columns, *shown.shape[1:]), title=title).figure


def reconstructions(x: ArrayLike, x_hat: ArrayLike, title: str | None = None) -> Figure:
    """Inputs ``x [n, C, H, W]`` above their reconstructions ``x_hat``, sixteen pairs across; at most 128
    pairs are drawn.
    """
    above, below = _images(x, 4), _images(x_hat, 4)
    if above.shape != below.shape:
        raise ValueError(f"x {above.shape} and x_hat {below.shape} must have one shape")
    pairs = np.stack([above, below], axis=1)[:128]  # [n, 2, C, H, W]
    columns = min(16, len(pairs))
    bands = int(np.ceil(len(pairs) / columns))
    grid = np.full((bands * columns, *pairs.shape[1:]), np.inf, dtype=np.float32)
    grid[: len(pairs)] = pairs
    grid = grid.reshape(bands, columns, *pairs.shape[1:]).swapaxes(1, 2)  # [bands, 2, columns, C, H, W]
    return _Sheet(
        grid.reshape(bands * 2, columns, *pairs.shape[2:]),
        title=title,
        row_labels=["input", "output"] * bands,
        row_gaps=[_gap(grid), 4 * _gap(grid)] * bands,
    ).figure


def traversal(images: ArrayLike, values: ArrayLike, dims: Sequence[int], kl: Sequence[float]) -> Figure:
    """``images [dims, steps, C, H, W]``: one row a latent dimension moved through ``values [steps]``, the
    others held fixed.

    ``dims`` are the dimensions' numbers and ``kl`` their KL in nats per image, the most active first by
    custom.
    """
    shown, values = _images(images, 5), np.asarray(values, dtype=float)
    if not len(shown) == len(dims) == len(kl) or shown.shape[1] != len(values):
        raise ValueError(
            f"images {shown.shape} must be [dims, steps, C, H, W] for {len(dims)} dims, {len(kl)} kl"
            f" and {len(values)} values"
        )
    return _Sheet(
        shown,
        row_labels=[f"$z_{{{d}}}$ (KL {k:.1f} nats)" for d, k in zip(dims, kl, strict=True)],
        column_labels=[_signed(v) for v in values],
        title="latent traversal",
    ).figure


def manifold(images: ArrayLike, quantiles: ArrayLike) -> Figure:
    """The plane of a two-dimensional code, ``images [n, n, C, H, W]``.

    ``images[i, j]`` decodes z_0 = the prior's quantile ``quantiles[j]`` and z_1 = its quantile
    ``quantiles[i]``; z_1 grows upwards, so ``images[0]`` is the lowest row.
    """
    shown, quantiles = _images(images, 5), np.asarray(quantiles, dtype=float)
    if shown.shape[:2] != (len(quantiles), len(quantiles)):
        raise ValueError(f"images {shown.shape} must be [n, n, C, H, W] with n = {len(quantiles)} quantiles")
    labels = [f"{q:.3g}" for q in quantiles]
    return _Sheet(
        shown[::-1],
        gap=0,
        row_labels=labels[::-1],
        foot_labels=labels,
        title="decoded plane, by quantiles of the prior ($z_0$ across, $z_1$ up)",
    ).figure


def interpolation(images: ArrayLike) -> Figure:
    """``images [rows, steps, C, H, W]``: in each row the first and the last are images of the data, between
    them decoded codes.
    """
    shown = _images(images, 5)
    if shown.shape[1] < 3:
        raise ValueError(f"images {shown.shape}: an interpolation has at least three steps")
    steps = shown.shape[1]
    labels = ["data", *[""] * (steps - 2), "data"]
    labels[steps // 2] = "decoded"
    gap = _gap(shown)
    gaps = [3 * gap, *[gap] * (steps - 3), 3 * gap]
    sheet = _Sheet(
        shown,
        column_labels=labels,
        column_gaps=gaps,
        row_gaps=[2 * gap] * len(shown),
        title="interpolation between test images",
    )
    for row in range(len(shown)):
        for column in (0, steps - 1):
            sheet.frame(row, column, VAL)
    return sheet.figure


def neighbours(samples: ArrayLike, neighbours: ArrayLike, distances: ArrayLike) -> Figure:
    """A row for each of ``samples [n, C, H, W]``: the sample, framed, and its nearest training images
    ``neighbours [n, k, C, H, W]``, the nearest first.

    ``distances [n, k]`` are Euclidean, over pixels; that of the nearest stands before the row. Rows are drawn
    while they make at most 400 images, and the title says where some are left out.
    """
    first, others = _images(samples, 4), _images(neighbours, 5)
    lengths = np.asarray(distances, dtype=float)
    if (
        others.shape[0] != len(first)
        or others.shape[2:] != first.shape[1:]
        or lengths.shape != others.shape[:2]
    ):
        raise ValueError(
            f"samples {first.shape}, neighbours {others.shape} and distances {lengths.shape} must be"
            " [n, C, H, W], [n, k, C, H, W] and [n, k]"
        )
    grid = np.concatenate([first[:, None], others], axis=1)
    rows = max(1, MOST // grid.shape[1])
    left_out = f" (first {rows} of {len(grid)})" if len(grid) > rows else ""
    grid, gap = grid[:rows], _gap(grid)
    sheet = _Sheet(
        grid,
        title=f"samples and their nearest training images{left_out}; left, the distance to the first",
        row_labels=[f"{length:.3g}" for length in lengths[:rows, 0]],
        column_labels=["sample", *(str(i + 1) for i in range(others.shape[1]))],
        column_gaps=[3 * gap, *[gap] * others.shape[1]],
        row_gaps=[2 * gap] * len(grid),
    )
    for row in range(len(grid)):
        sheet.frame(row, 0, VAL)
    return sheet.figure


def latents(
    z2: ArrayLike,
    y: ArrayLike,
    explained: tuple[float, float] | None = None,
    names: tuple[str, str] = ("$z_0$", "$z_1$"),
) -> Figure:
    """Codes ``z2 [N, 2]`` coloured by class ``y [N]``; y = -1 (unlabelled) is grey. Each class's digit stands
    at its median.

    ``explained`` are the fractions of variance of the two axes, if they are principal components.
    """
    z, labels = np.asarray(z2, dtype=float), np.asarray(y).astype(int)
    if z.ndim != 2 or z.shape[1] != 2 or labels.shape != z.shape[:1]:
        raise ValueError(f"z2 {z.shape} and y {labels.shape} must be [N, 2] and [N]")
    classes = [int(c) for c in np.unique(labels) if c >= 0]
    with matplotlib.rc_context(_STYLE):
        figure = _blank(900, 810)
        axes = figure.add_axes((0.11, 0.11, 0.73, 0.84))
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


def learning_curves(rows: Sequence[Mapping[str, float]], best_step: float | None = None) -> Figure:
    """ELBO, rate and distortion against the step, training and validation, from the rows of ``metrics.csv``.

    The vertical range leaves out the first steps, whose values would flatten everything that follows.
    ``best_step`` is the step of the selected checkpoint.
    """
    with matplotlib.rc_context(_STYLE):
        figure = _blank(1650, 560)
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
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
            axes.set_axisbelow(True)
            if late and i == 0:
                axes.legend(loc="lower right", framealpha=1, edgecolor="none")
    return figure


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
    with matplotlib.rc_context(_STYLE):
        figure = _blank(1100, 560)
        axes = figure.add_axes((0.08, 0.14, 0.88, 0.76))
        place = np.arange(len(height))
        counted = active is not None
        for which, colour, name in ((on, TRAIN, "active"), (~on, VAL, "inactive")):
            if which.any():
                label = f"{name} ({which.sum()})" if counted else None
                axes.bar(place[which], height[which], width=0.8, color=colour, linewidth=0, label=label)
        numbers = [str(d) for d in order]
        widest = _text_width("0" * max(map(len, numbers)), 7) + 6
        every = int(np.ceil(widest * len(height) / (0.88 * 1100)))
        axes.set_xticks(place[::every], numbers[::every], fontsize=7)
        axes.set_xlim(-0.8, len(height) - 0.2)
        axes.set_ylim(0, 1.06 * max(float(height[0]), 1e-9))
        axes.set_xlabel("latent dimension, by its rate")
        axes.set_ylabel("rate (nats per image)")
        axes.set_title(f"rate of each dimension: {height.sum():.2f} nats in all", loc="left")
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        if counted:
            axes.legend(loc="upper right", frameon=False)
    return figure


def rate_distortion(
    rates: ArrayLike,
    distortions: ArrayLike,
    betas: Sequence[float],
    errors: ArrayLike | None = None,
    title: str | None = None,
) -> Figure:
    """Distortion ``[n]`` against rate ``[n]``, nats per image, a point a run labelled by its beta (Alemi et al. 2018,
    "Fixing a broken ELBO"); on each grey line the ELBO -(rate + distortion) is one number.

    ``errors [n, 2]`` are standard errors of rate and distortion. A line joins the runs in the order of beta.
    """
    rate, distortion = np.asarray(rates, dtype=float), np.asarray(distortions, dtype=float)
    if rate.ndim != 1 or rate.shape != distortion.shape or not len(rate) == len(betas) > 0:
        raise ValueError(
            f"rates {rate.shape}, distortions {distortion.shape} and {len(betas)} betas must be of the same runs"
        )
    if not (np.isfinite(rate).all() and np.isfinite(distortion).all()):
        raise ValueError("rates and distortions must be finite")
    se = None if errors is None else np.asarray(errors, dtype=float)
    if se is not None and se.shape != (len(rate), 2):
        raise ValueError(f"errors {se.shape} must be [{len(rate)}, 2]")
    order = np.argsort(np.asarray(betas, dtype=float), kind="stable")
    with matplotlib.rc_context(_STYLE):
        figure = _blank(1000, 860)
        axes = figure.add_axes((0.1, 0.1, 0.86, 0.83))
        (left, right), (low, high) = _around(rate), _around(distortion)
        right += 0.06 * (right - left)  # for what stands beside the last point
        axes.set_xlim(left, right)
        axes.set_ylim(low, high)
        for level in MaxNLocator(9).tick_values(left + low, right + high):
            # where the line rate + distortion = level enters the picture, at the left or at the top
            start = max(left, level - high)
            end = min(right, level - low)
            if end <= start:
                continue
            axes.plot([start, end], [level - start, level - end], color="#d9d9d9", linewidth=0.8, zorder=1)
            if (end - start) > 0.12 * (right - left):
                axes.annotate(
                    _signed(-level), (end, level - end), color=FAINT, fontsize=7, zorder=1.5,
                    xytext=(-4, 5), textcoords="offset points", ha="right", va="bottom",
                    path_effects=[withStroke(linewidth=2.5, foreground="white")],
                )  # fmt: skip
        axes.plot(rate[order], distortion[order], color=TRAIN, linewidth=1, alpha=0.5, zorder=2)
        if se is not None:
            axes.errorbar(
                rate,
                distortion,
                xerr=se[:, 0],
                yerr=se[:, 1],
                fmt="none",
                ecolor=TRAIN,
                elinewidth=1,
                zorder=2.5,
            )
        axes.scatter(rate, distortion, s=34, color=TRAIN, linewidths=0, zorder=3)
        labels: dict[tuple[float, float], str] = {}
        for x, y, beta in zip(rate, distortion, betas, strict=True):
            near = (
                p
                for p in labels
                if abs(p[0] - x) < 0.1 * (right - left) and abs(p[1] - y) < 0.03 * (high - low)
            )
            point = next(near, None)  # two labels would lie on each other
            labels[point or (x, y)] = (
                f"$\\beta$ = {beta:g}" if point is None else f"{labels[point]}, {beta:g}"
            )
        for point, label in labels.items():
            axes.annotate(
                label, point, xytext=(7, 6), textcoords="offset points", fontsize=8, zorder=4,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )  # fmt: skip
        axes.set_xlabel("rate (nats per image)")
        axes.set_ylabel("distortion (nats per image)")
        axes.set_title(title or "rate and distortion; grey: lines of one ELBO, in nats", loc="left")
    return figure


def against_setting(
    values: Sequence[Any],
    means: ArrayLike,
    errors: ArrayLike,
    lines: Sequence[str],
    *,
    setting: str,
    number: str,
    title: str,
    legend: str = "",
) -> Figure:
    """A number of a sweep ``means [n]`` against the ``values [n]`` of one setting, with bars of one ``errors [n]`` up and down (nan: not
    known).

    Points of one text in ``lines [n]`` are joined, in the order of their values. Numbers have an axis, a logarithmic one where they are spaced more
    evenly so; text, and numbers that no axis holds apart, stand side by side. More than ten lines are drawn without a legend; where hardly any
    line has two points, as in a search, points alone, and numbers that were drawn, or more than five, have an axis in any case.
    """
    y, se = np.asarray(means, dtype=float), np.asarray(errors, dtype=float)
    if y.ndim != 1 or se.shape != y.shape or not len(values) == len(lines) == len(y) > 0:
        raise ValueError(
            f"means {y.shape}, errors {se.shape}, {len(values)} values and {len(lines)} lines must be of the same points, at least one"
        )
    if not np.isfinite(y).all():
        raise ValueError("means must be finite")
    bars = np.where(np.isfinite(se), se, 0.0)
    setting, number, title, legend = map(_literal, (setting, number, title, legend))
    lines = [_literal(line) for line in lines]
    names = list(dict.fromkeys(lines))
    joined = len({*map(repr, values)}) > 1 and 2 * len(names) <= len(values)
    named = joined and 1 < len(names) <= len(LINES)
    with matplotlib.rc_context(_STYLE):
        scale = _Scale(values, PLOT[0], drawn=not joined)
        beside = max(_text_width(text, 9) for text in [*names, legend]) + 80 if named else 30
        left, below = max(130, 20 + scale.overhang), 70 + scale.label_height
        width = left + max(PLOT[0] + beside, _text_width(title, 9) + 20)
        height = below + PLOT[1] + 60
        figure = _blank(width, height)
        axes = figure.add_axes((left / width, below / height, PLOT[0] / width, PLOT[1] / height))
        scale.apply(axes)
        for k, name in enumerate(names):
            own = np.array([i for i in np.argsort(scale.x, kind="stable") if lines[i] == name])
            colour, marker = LINES[k] if named else (TRAIN, "o")
            # some picture pixels aside, so that bars of one value do not hide each other
            aside = ASIDE * (k - (len(names) - 1) / 2) / DPI if named else 0.0
            axes.errorbar(
                scale.x[own], y[own], yerr=bars[own], label=name, color=colour, marker=marker, markersize=5,
                linewidth=1.4 if joined else 0, elinewidth=1.2, capsize=3 if bars[own].any() else 0,
                alpha=1.0 if named or len(names) == 1 else 0.5,
                transform=axes.transData + ScaledTranslation(aside, 0, figure.dpi_scale_trans),
            )  # fmt: skip
        low, high = (y - bars).min(), (y + bars).max()
        room = 0.08 * (high - low) or 0.02 * abs(high) or 1.0
        axes.set_ylim(low - room, high + room)
        axes.set_xlabel(setting)
        axes.set_ylabel(number)
        axes.set_title(title, loc="left")
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        if named:
            axes.legend(
                loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, title=legend or None, alignment="left"
            )  # fmt: skip
    return figure


class _Scale:
    """Where the values of a setting stand across a picture of ``width`` picture pixels.

    Args:
        values: of the setting.
        width: of the picture.
        drawn: they were drawn from an interval rather than listed, so that none of them needs its name.

    Attributes:
        x: a place for each value.
        side_by_side: the places are 0, 1, 2, ..., not the values.
        label_height: picture pixels that labels take downwards, where they are turned to have room; else 0.
        overhang: picture pixels that they then reach out to the left of the picture.
    """

    def __init__(self, values: Sequence[Any], width: float, *, drawn: bool = False) -> None:
        # an integer may be larger than any float
        numbers = all(isinstance(v, int | float) and type(v) is not bool and abs(v) < 1e300 for v in values)
        own = list(values) if numbers else [_written(v) for v in values]
        levels: list[Any] = sorted({*own}) if numbers else list(dict.fromkeys(own))
        self._labels = [
            v if isinstance(v, str) else str(v) if isinstance(v, int) else f"{v:g}" for v in levels
        ]
        odd = any(isinstance(v, float) and float(f"{v:.4g}") != v for v in levels)  # nobody has typed it
        self._named = not numbers or not ((drawn and (odd or len(levels) > 5)) or len(levels) > 12)
        widths = [_text_width(text, 8) + 12 if self._named else 0 for text in self._labels]
        self._log = numbers and (_evener_in_log(levels) if self._named else 0 < 30 * levels[0] <= levels[-1])
        axis = (
            np.log(levels)
            if self._log
            else np.asarray(levels if numbers else range(len(levels)), dtype=float)
        )
        nearest = np.diff(axis).min() / np.ptp(axis) if len(levels) > 1 else 1.0
        # numbers that stand closer than their labels are wide have no axis that shows them
        self.side_by_side = not numbers or nearest * 0.9 * width < max(widths)
        self._log = self._log and not self.side_by_side
        self._places = np.asarray(range(len(levels)) if self.side_by_side else levels, dtype=float)
        place_of = dict(zip(levels, self._places, strict=True))
        self.x = np.array([place_of[v] for v in own])
        self._turned = self.side_by_side and max(widths) * len(levels) > width
        self.label_height = int(0.6 * max(widths)) if self._turned else 0
        step = width / len(levels)
        reach = max(0.9 * w - (i + 0.5) * step for i, w in enumerate(widths))
        self.overhang = max(reach, 0.0) if self._turned else 0.0

    def apply(self, axes: Any) -> None:
        ends = (self._places[0], self._places[-1])
        if self._log:
            axes.set_xscale("log")
            room = (ends[1] / ends[0]) ** 0.06
            axes.set_xlim(ends[0] / room, ends[1] * room)
        else:
            room = 0.06 * (ends[1] - ends[0]) if not self.side_by_side else 0.5
            axes.set_xlim(ends[0] - (room or 1.0), ends[1] + (room or 1.0))
        if self._named:
            axes.xaxis.set_minor_locator(NullLocator())
            turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if self._turned else {}
            axes.set_xticks(self._places, self._labels, **turned)


def _evener_in_log(levels: Sequence[float]) -> bool:
    """Whether sorted numbers are spaced more evenly by their logarithms: ``2, 8, 32``, but not ``1, 2, 3``."""
    if len(levels) < 2 or levels[0] <= 0 or levels[-1] < 4 * levels[0]:
        return False
    if len(levels) == 2:
        return levels[1] >= 10 * levels[0]
    widest = [
        np.diff(places).max() / (places[-1] - places[0]) for places in (np.log(levels), np.asarray(levels))
    ]
    return bool(widest[0] < widest[1])


def _written(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _literal(text if len(text) <= 40 else f"{text[:37]}...")


def _literal(text: str) -> str:
    """``text`` as it is: nothing in it is a formula, and what cannot be printed is one sign."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text).replace("$", r"\$")


def _around(values: Array) -> tuple[float, float]:
    """Limits of an axis with room around ``values``."""
    low, high = float(values.min()), float(values.max())
    room = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def save(figure: Figure, path: Path | str) -> Path:
    """Write a PNG at 150 dpi, whole or not at all; equal figures make equal bytes (no time stamp, no version
    in it).
    """
    path = Path(path)
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


class _Sheet:
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
        gap = _gap(grid) if gap is None else gap
        # top left corner of each image, in image pixels
        self._y = np.cumsum([0, *(height + g for g in (row_gaps or [gap] * rows))])[:rows]
        self._x = np.cumsum([0, *(width + g for g in (column_gaps or [gap] * columns))])[:columns]
        self._size = (height, width)
        mosaic = np.ones((self._y[-1] + height, self._x[-1] + width, 3), dtype=np.float32)
        for i, y in enumerate(self._y):
            for j, x in enumerate(self._x):
                if not np.isposinf(grid[i, j]).all():  # an empty place stays white
                    mosaic[y : y + height, x : x + width] = _rgb(grid[i, j])
        self.scale = scale = max(1, min(WIDEST // max(mosaic.shape[:2]), round(96 / max(height, width))))
        with matplotlib.rc_context(_STYLE):
            left = (
                max((_text_width(text, 8) for text in row_labels), default=0)
                + (14 if row_labels else 0)
                + PAD
            )
            top = PAD + (38 if title else 0) + (28 if column_labels else 0)
            bottom = PAD + (28 if foot_labels else 0)
            across, down = mosaic.shape[1] * scale, mosaic.shape[0] * scale
            inner = max(across, _text_width(title, 10) if title else 0)
            total = (left + inner + PAD, top + down + bottom)
            self.figure = _blank(*total)
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


def _blank(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _gap(images: Array) -> int:
    """Image pixels between images."""
    return max(1, round(max(images.shape[-2:]) / 14))


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


def _images(images: ArrayLike, ndim: int) -> Array:
    array = np.asarray(images, dtype=np.float32)
    if array.ndim != ndim or array.shape[-3] not in (1, 3) or 0 in array.shape:
        names = "[rows, columns, C, H, W]" if ndim == 5 else "[n, C, H, W]"
        raise ValueError(f"images {array.shape} must be {names} with C = 1 or 3, and at least one")
    return array


def _rgb(image: Array) -> Array:
    """``[C, H, W]`` -> ``[H, W, 3]`` in [0, 1]."""
    clipped = np.moveaxis(
        np.broadcast_to(np.clip(np.nan_to_num(image), 0, 1), (3, *image.shape[1:])), 0, -1
    ).copy()
    clipped[~np.isfinite(image).all(axis=0)] = BAD
    return clipped


def _text_width(text: str, size: float) -> int:
    """Picture pixels that ``text`` takes across."""
    figure = _blank(10, 10)
    return int(np.ceil(figure.text(0, 0, text, fontsize=size).get_window_extent().width))


def _not_touching(labels: Sequence[str], room: float) -> list[int]:
    """Which of the evenly spaced ``labels`` can be drawn without touching: all, every second, ... and always
    the middle one's.
    """
    shown = [j for j, text in enumerate(labels) if text]
    if not shown:
        return []
    widest = max(_text_width(labels[j], 8) for j in shown) + 12
    every = int(np.ceil(widest / room)) if len(shown) == len(labels) else 1
    return [j for j in shown if (j - (len(labels) - 1) // 2) % every == 0]


def _signed(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "0") else text.replace("-", "−")
