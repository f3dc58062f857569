"""Numbers of many runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike

from vaelab.figures.style import (
    DPI,
    FAINT,
    GRID,
    LINES,
    STYLE,
    TRAIN,
    around,
    blank,
    literal,
    signed,
    text_width,
)

PLOT = (760, 480)  # picture pixels of the axes
ASIDE = 7  # picture pixels between the points that lines have at one value


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
    with matplotlib.rc_context(STYLE):
        figure = blank(1000, 860)
        axes = figure.add_axes((0.1, 0.1, 0.86, 0.83))
        (left, right), (low, high) = around(rate), around(distortion)
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
                    signed(-level), (end, level - end), color=FAINT, fontsize=7, zorder=1.5,
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
    setting, number, title, legend = map(literal, (setting, number, title, legend))
    lines = [literal(line) for line in lines]
    names = list(dict.fromkeys(lines))
    joined = len({*map(repr, values)}) > 1 and 2 * len(names) <= len(values)
    named = joined and 1 < len(names) <= len(LINES)
    with matplotlib.rc_context(STYLE):
        scale = _Scale(values, PLOT[0], drawn=not joined)
        beside = max(text_width(text, 9) for text in [*names, legend]) + 80 if named else 30
        left, below = max(130, 20 + scale.overhang), 70 + scale.label_height
        width = left + max(PLOT[0] + beside, text_width(title, 9) + 20)
        height = below + PLOT[1] + 60
        figure = blank(width, height)
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
        axes.grid(axis="y", color=GRID, linewidth=0.7)
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
        widths = [text_width(text, 8) + 12 if self._named else 0 for text in self._labels]
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
    return literal(text if len(text) <= 40 else f"{text[:37]}...")
