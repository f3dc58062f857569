"""Charts as Plotly has them: data and layout, plain values. Colours are names that the page replaces by those of its light or dark scheme."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vaelab.runs.cards import typed
from vaelab.runs.sweep import is_number, order

#: of lines in one chart: each can be told from the others by marker and dash, too
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star", "hexagon", "pentagon")  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot")
MOST_POINTS = 1_000  # of a curve
FIFTHS = ("best fifth", "second", "third", "fourth", "last fifth")
#: least distance of the labels of an axis of length one: a line of them is 16 pixels high, and the axis about 290
APART = 0.06


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: what it shows.
        caption: what it says in words, with its last or best values, for who does not see it.
        data, layout: Plotly's.
        part: of the page.
        id: in the page.
        wide: the least width in CSS pixels of one that takes the whole breadth of the page, and is scrolled where that is narrower; else 0.
    """

    title: str
    caption: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    part: str = ""
    id: str = ""
    wide: int = 0


@dataclass(frozen=True)
class Series:
    """A line or a cloud of points; ``errors`` are of y, None where they are not known; ``texts`` are shown at the points."""

    name: str
    x: Sequence[Any]
    y: Sequence[float]
    errors: Sequence[float | None] | None = None
    texts: Sequence[str] | None = None


def numbered(charts: Sequence[Chart]) -> tuple[Chart, ...]:
    return tuple(replace(chart, id=f"chart-{i}") for i, chart in enumerate(charts, 1))


def curves(title: str, unit: str, series: Sequence[Series], caption: str, selected: float | None, part: str) -> Chart:  # fmt: skip
    """Metrics over optimizer steps; ``selected`` is the step whose weights were chosen."""
    data = []
    for i, one in enumerate(series):
        x, y = thinned(one.x, one.y)
        marked = len(x) <= 60
        data.append({
            "type": "scatter", "mode": "lines+markers" if marked else "lines", "name": literal(one.name), "x": x, "y": values(y),
            "line": {"color": f"@{i + 1}", "dash": DASHES[i % len(DASHES)], "width": 2},
            "marker": {"symbol": MARKERS[i % len(MARKERS)], "size": 6, "color": f"@{i + 1}"},
        })  # fmt: skip
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": "optimizer steps"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": literal(unit)}},
        "showlegend": len(series) > 1,
    }
    if (settled := settled_range(series)) is not None:
        layout["yaxis"]["range"] = settled
        caption += " The first steps lie outside: a double click shows all."
    if selected is not None:
        layout["shapes"] = [{
            "type": "line", "x0": selected, "x1": selected, "y0": 0, "y1": 1, "yref": "paper",
            "line": {"color": "@faint", "width": 1, "dash": "dot"},
        }]  # fmt: skip
        caption += f" Dotted: step {selected:g}, whose weights were selected."
    return Chart(title, caption, data, layout, part)


def bars(title: str, unit: str, x_title: str, series: Sequence[Series], caption: str, part: str) -> Chart:
    """A bar for each entry, a colour for each series."""
    data = [
        {
            "type": "bar", "name": literal(one.name), "x": [literal(str(x)) for x in one.x], "y": values(one.y),
            "marker": {"color": f"@{i + 1}", "pattern": {"shape": ("", "/", "x", ".")[i % 4], "solidity": 0.3}},
            **({"error_y": {"type": "data", "array": values(one.errors)}} if one.errors else {}),
        }
        for i, one in enumerate(series)
    ]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": literal(x_title)}, "type": "category"},
        "yaxis": {"title": {"text": literal(unit)}, "rangemode": "tozero"},
        "bargap": 0.15,
        "barmode": "overlay" if len(series) > 1 else "group",
        "showlegend": len(series) > 1,
    }
    return Chart(title, caption, data, layout, part)


def histogram(title: str, unit: str, edges: Sequence[float], counts: Sequence[int], caption: str, part: str) -> Chart:  # fmt: skip
    """Counts between edges."""
    middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    texts = [f"{a:.5g} to {b:.5g}: {n}" for a, b, n in zip(edges, edges[1:], counts)]
    data = [{
        "type": "bar", "x": values(middles), "y": list(counts), "text": texts, "hoverinfo": "text", "textposition": "none",
        "marker": {"color": "@1"}, "width": edges[1] - edges[0],
    }]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": literal(unit)}},
        "yaxis": {"title": {"text": "images"}, "rangemode": "tozero"},
        "bargap": 0.02,
    }
    return Chart(title, caption, data, layout, part)


def against(
    title: str, key: str, unit: str, series: Sequence[Series], legend: str, caption: str, part: str
) -> Chart:
    """A number against the values of one setting, a line for each combination of the others."""
    axis, place = _axis([x for one in series for x in one.x])
    joined = any(len(one.x) > 1 for one in series) and 2 * len(series) <= sum(len(one.x) for one in series)
    named = joined and 1 < len(series) <= len(MARKERS)
    data = []
    for i, one in enumerate(series):
        points = sorted(range(len(one.x)), key=lambda k: order(one.x[k]))
        k = i if named else 0
        known = one.errors is not None and any(error is not None for error in one.errors)
        data.append({
            "type": "scatter", "mode": "lines+markers" if joined else "markers", "name": literal(one.name),
            "x": [place(one.x[p]) for p in points], "y": values([one.y[p] for p in points]),
            "line": {"color": f"@{k % 10 + 1}", "width": 2, "dash": DASHES[k % len(DASHES)]},
            "marker": {"symbol": MARKERS[k % len(MARKERS)], "size": 8, "color": f"@{k % 10 + 1}"},
            "opacity": 1 if named or len(series) == 1 else 0.6,
            **({"error_y": {"type": "data", "array": [(one.errors or [])[p] or 0 for p in points], "color": f"@{k % 10 + 1}"}} if known else {}),
            **({"text": [literal((one.texts or [])[p]) for p in points]} if one.texts else {}),
        })  # fmt: skip
    layout = {
        "xaxis": {**axis, "title": {"text": literal(key)}},
        "yaxis": {"title": {"text": literal(unit)}},
        "showlegend": named,
        "legend": {"title": {"text": literal(legend)}},
    }
    return Chart(title, caption, data, layout, part)


def rate_distortion(
    title: str, points: Series, rate_errors: Sequence[float | None], frontier: Sequence[int], caption: str, part: str
) -> Chart:  # fmt: skip
    """Distortion against rate; ``frontier`` are the points that no other one is better than in both, by rising rate."""
    on = set(frontier)
    data: list[dict[str, Any]] = [{
        "type": "scatter", "mode": "lines", "showlegend": False, "x": values([points.x[i] for i in frontier]),
        "y": values([points.y[i] for i in frontier]), "line": {"color": "@2", "width": 2, "dash": "dash"}, "hoverinfo": "skip",
    }]  # fmt: skip
    for name, colour, symbol, chosen in (
        ("frontier", "@2", "diamond", [i for i in range(len(points.x)) if i in on]),
        ("others", "@1", "circle", [i for i in range(len(points.x)) if i not in on]),
    ):
        if chosen:
            data.append({
                "type": "scatter", "mode": "markers", "name": name,
                "x": values([points.x[i] for i in chosen]), "y": values([points.y[i] for i in chosen]),
                "text": [literal((points.texts or [])[i]) for i in chosen], "marker": {"color": colour, "symbol": symbol, "size": 9},
                "error_x": {"type": "data", "array": [rate_errors[i] or 0 for i in chosen], "thickness": 1, "color": colour},
                "error_y": {"type": "data", "array": [(points.errors or [])[i] or 0 for i in chosen], "thickness": 1, "color": colour},
            })  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "rate (nats per image)"}},
        "yaxis": {"title": {"text": "distortion (nats per image)"}},
        "showlegend": True,
    }
    return Chart(title, caption, data, layout, part)


def trials(
    title: str, unit: str, places: Sequence[int], values_of: Sequence[float | None], mode: str, part: str
) -> Chart:
    """The value of each trial at its place in the search, rising, and the best so far."""
    best: list[float | None] = []
    for value in values_of:
        last = best[-1] if best else None
        if value is None or not math.isfinite(value):
            best.append(last)
        else:
            better = last is None or (value > last if mode == "max" else value < last)
            best.append(value if better else last)
    x = list(places)
    data = [
        {"type": "scatter", "mode": "markers", "name": "trial", "x": x, "y": values(values_of), "marker": {"color": "@1", "size": 8}},
        {
            "type": "scatter", "mode": "lines", "name": "best so far", "x": x, "y": values(best),
            "line": {"color": "@2", "width": 2, "shape": "hv"},
        },
    ]  # fmt: skip
    known = [value for value in values_of if value is not None and math.isfinite(value)]
    caption = f"{len(known)} of {len(values_of)} trials have a value."
    if known and best[-1] is not None:
        caption += f" The best is {best[-1]:.6g}, of trial {places[values_of.index(best[-1])]}."
    layout = {
        "xaxis": {"title": {"text": "trial"}},
        "yaxis": {"title": {"text": literal(unit)}},
        "showlegend": True,
    }
    return Chart(title, caption, data, layout, part)


def parallel(
    title: str, axes: Sequence[tuple[str, Sequence[Any]]], places: Sequence[int], caption: str, part: str
) -> Chart:
    """A line for each configuration, across an axis for each setting and number.

    Plotly's own parallel coordinates need WebGL and code made at run time, which the page forbids; these are lines.

    Args:
        title: of the chart.
        axes: name, and the value of each configuration; None = none.
        places: of each configuration, 0 = the best.
        caption: in words.
        part: of the page.
    """
    n, columns = len(places), []
    shapes, notes = [], []
    for i, (name, own) in enumerate(axes):
        heights, labels = _heights(own)
        columns.append(heights)
        shapes.append({
            "type": "line", "x0": i, "x1": i, "y0": 0, "y1": 1, "line": {"color": "@faint", "width": 1}, "layer": "below",
        })  # fmt: skip
        notes.append({"x": i, "y": 1.1, "text": f"<b>{literal(short(name, 22))}</b>", "showarrow": False, "yanchor": "bottom"})  # fmt: skip
        side = "left" if i < len(axes) - 1 else "right"
        for height, label in labels:
            notes.append({
                "x": i, "y": height, "text": literal(short(label, 14)), "showarrow": False, "font": {"size": 11}, "bgcolor": "@paper",
                "xanchor": side, "xshift": 4 if side == "left" else -4, "opacity": 0.9,
            })  # fmt: skip
    data = []
    for fifth in reversed(range(len(FIFTHS))):
        members = [k for k in range(n) if min(5 * places[k] // max(n, 1), 4) == fifth]
        x: list[float | None] = []
        y: list[float | None] = []
        texts: list[str | None] = []
        for k in members:
            whole = literal(", ".join(f"{name} {_shown(own[k])}" for name, own in axes))
            x += [*range(len(axes)), None]
            y += [*(column[k] for column in columns), None]
            texts += [*[whole] * len(axes), None]
        if members:
            data.append({
                "type": "scatter", "mode": "lines+markers", "name": FIFTHS[fifth], "x": x, "y": values(y), "text": texts,
                "hoverinfo": "text", "line": {"color": f"@s{fifth + 1}", "width": 2.5 if fifth == 0 else 1.5},
                "marker": {"color": f"@s{fifth + 1}", "size": 5}, "connectgaps": False, "legendrank": fifth,
            })  # fmt: skip
    layout = {
        "xaxis": {"visible": False, "range": [-0.15, len(axes) - 0.85], "fixedrange": True},
        "yaxis": {"visible": False, "range": [-0.08, 1.25], "fixedrange": True},
        "shapes": shapes,
        "annotations": notes,
        "showlegend": True,
        "hovermode": "closest",
        "margin": {"l": 16, "r": 16, "t": 12, "b": 16},
    }
    return Chart(title, caption, data, layout, part, wide=max(480, 130 * len(axes)))


def literal(text: str) -> str:
    """``text`` as it is: Plotly takes what stands between < and > for formatting."""
    return html.escape("".join(c if c.isprintable() else "\ufffd" for c in short(text, 300)), quote=False)


def short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def values(numbers: Sequence[float | None]) -> list[float | None]:
    """With the digits that a chart can show; JSON has no nan."""
    return [None if v is None or not math.isfinite(v) else float(f"{v:.7g}") for v in numbers]


def thinned(x: Sequence[Any], y: Sequence[float]) -> tuple[list[Any], list[float]]:
    """At most a thousand points, the last one among them.

    >>> thinned(range(5), range(5))
    ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    """
    every = max(1, math.ceil(len(x) / MOST_POINTS))
    kept = [i for i in range(len(x)) if (len(x) - 1 - i) % every == 0]
    return [x[i] for i in kept], [y[i] for i in kept]


def settled_range(series: Sequence[Series]) -> list[float] | None:
    """Limits that show the curves after the first tenth of the steps, where the beginning would squeeze them flat; None where it would not."""
    last = max((one.x[-1] for one in series if one.x), default=0)
    points = [(x, y) for one in series for x, y in zip(one.x, one.y) if math.isfinite(y)]
    late = [y for x, y in points if x > 0.1 * last]
    if len(late) < 3 or max(late) == min(late):
        return None
    low, high = min(late), max(late)
    whole = max(y for _, y in points) - min(y for _, y in points)
    if whole < 4 * (high - low):
        return None
    room = 0.08 * (high - low)
    return [float(f"{low - room:.6g}"), float(f"{high + room:.6g}")]


def frontier(costs: Sequence[tuple[float, float]]) -> list[int]:
    """The places of those that no other one is better than in both, by rising first cost.

    >>> frontier([(1.0, 9.0), (2.0, 5.0), (3.0, 6.0), (4.0, 1.0)])
    [0, 1, 3]
    """
    found: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: costs[i]):
        if not found or costs[i][1] < costs[found[-1]][1]:
            found.append(i)
    return found


def evener_in_log(numbers: Sequence[float]) -> bool:
    """Whether numbers are spaced more evenly by their logarithms.

    >>> evener_in_log([2, 8, 32]), evener_in_log([1, 2, 3]), evener_in_log([0, 1, 100])
    (True, False, False)
    """
    levels = sorted({*numbers})
    if len(levels) > 5 and 0 < 30 * levels[0] <= levels[-1]:  # drawn from an interval, by chance unevenly
        return True
    if len(levels) < 2 or levels[0] <= 0 or levels[-1] < 4 * levels[0]:
        return False
    if len(levels) == 2:
        return levels[1] >= 10 * levels[0]

    def widest(places: Sequence[float]) -> float:
        return max(b - a for a, b in itertools.pairwise(places)) / (places[-1] - places[0])

    return widest([math.log(v) for v in levels]) < widest(levels)


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between ``low`` and ``high`` on a logarithmic axis, nine at most where 1, 2, 5 and then powers of ten are enough for that.

    >>> log_ticks(4, 101), log_ticks(1e-4, 7e-3), log_ticks(1e-6, 3)
    ([5.0, 10.0, 20.0, 50.0, 100.0], [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005], [1e-06, 1e-05, 0.0001, 0.001, 0.01, 0.1, 1.0])
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{digit}e{k}") for k in decades for digit in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) <= 9 else [tick for tick in inside if f"{tick:e}".startswith("1")]


def _axis(found: Sequence[Any]) -> tuple[dict[str, Any], Any]:
    """An axis for the values of a setting, and where a value stands on it."""
    if all(is_number(v) for v in found):
        levels = sorted({*found})
        log = evener_in_log(levels)
        axis: dict[str, Any] = {"type": "log" if log else "linear"}
        listed = len(levels) <= 8 and all(float(f"{v:.3g}") == v for v in levels)  # somebody has typed them
        ticks = levels if listed else log_ticks(levels[0], levels[-1]) if log else None
        if ticks is not None:
            axis |= {"tickmode": "array", "tickvals": ticks, "ticktext": [f"{v:g}" for v in ticks]}
        return axis, lambda v: v
    texts = [literal(_shown(v)) for v in sorted(found, key=order)]
    return {"type": "category", "categoryorder": "array", "categoryarray": list(dict.fromkeys(texts))}, lambda v: literal(_shown(v))  # fmt: skip


def _heights(own: Sequence[Any]) -> tuple[list[float | None], list[tuple[float, str]]]:
    """From 0 to 1 where each value stands on its axis, and the labels of the axis, none on another one."""
    known = [v for v in own if _has_place(v)]
    if known and all(is_number(v) for v in known):
        log = evener_in_log(known)
        low, high = min(known), max(known)
        scale = math.log if log else float

        def place(v: Any) -> float:
            return 0.5 if low == high else (scale(v) - scale(low)) / (scale(high) - scale(low))

        levels = sorted({*known})
        shown = levels[:1]
        for level in levels[1:-1] if len(levels) <= 6 else []:
            if place(level) - place(shown[-1]) >= APART and 1 - place(level) >= APART:
                shown.append(level)
        shown += levels[1:][-1:]
        labels = [(place(v), f"{v:.5g}") for v in shown]
    else:
        names = list(dict.fromkeys(_shown(v) for v in sorted(known, key=order)))

        def place(v: Any) -> float:
            return 0.5 if len(names) == 1 else names.index(_shown(v)) / (len(names) - 1)

        labels = [(0.5 if len(names) == 1 else i / (len(names) - 1), name) for i, name in enumerate(names[:12])]  # fmt: skip
    return [float(f"{place(v):.5g}") if _has_place(v) else None for v in own], labels


def _has_place(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    return f"{value:.5g}" if isinstance(value, float) else typed(value)
