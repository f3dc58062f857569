"""Rate and distortion of runs that differ in beta: the points of a rate-distortion curve."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vaelab.errors import SettingError
from vaelab.runs.cards import Card, comparable, plus_minus, printable
from vaelab.runs.identity import counted
from vaelab.runs.selection import Selection
from vaelab.runs.table import Row, flatten

BETA = "objective.beta"


@dataclass(frozen=True)
class Point:
    """The runs of one beta.

    Attributes:
        beta: weight of the KL term in training.
        rate, distortion: nats per image, means over the runs; their ELBO, with beta = 1, is -(rate + distortion).
        errors: of both, over the images of a single run, or over several runs; None where they are not known.
        num_runs: with other seeds and all else equal.
    """

    beta: float
    rate: float
    distortion: float
    errors: tuple[float, float] | None
    num_runs: int

    @property
    def elbo(self) -> float:
        return -(self.rate + self.distortion)


@dataclass(frozen=True)
class Curve:
    """The points of a curve.

    Attributes:
        points: in the order of beta.
        left_out: runs that hold no number for one.
        selected_by: how the weights were chosen.
        label: what minus the sum of the two may be called: ``nll`` (bounded by it), ``grey-bce``, ``raw-density``.
        errors_over: ``runs`` or ``images``: what the errors of every point are over; a curve has one kind.
    """

    points: tuple[Point, ...]
    left_out: tuple[str, ...]
    selected_by: str
    label: str
    errors_over: str


def curve(rows: Sequence[Row], selection: Selection) -> Curve:
    """The points of ``rows`` (Alemi et al. 2018, "Fixing a broken ELBO").

    Raises:
        SettingError: no run has what it takes, or their numbers cannot be compared, or they differ in more than beta and seed.
    """
    pairs = [(row, pair) for row in rows if _has_beta(row) and (pair := rate_and_distortion(row, selection))]
    if not pairs:
        rule = f"no run holds cards of rate and distortion and {BETA}"
        raise SettingError("--rate-distortion", " ".join(row.name for row in rows), rule)
    (first, (reference, _)), *others = pairs
    for row, (rate, _) in others:
        if fields := comparable(reference, rate) or _other_settings(first, row):
            rule = f"runs of one curve may differ in {BETA} and seed; {first.name} and {row.name} differ in {', '.join(fields)}"
            raise SettingError("--rate-distortion", row.name, rule)
    betas: dict[float, list[tuple[Card, Card]]] = {}
    for row, pair in pairs:
        betas.setdefault(_beta(row), []).append(pair)
    with_numbers = {id(row) for row, _ in pairs}
    over_runs = any(len(of_beta) > 1 for of_beta in betas.values())
    return Curve(
        tuple(_point(beta, betas[beta], over_runs) for beta in sorted(betas)),
        tuple(row.name for row in rows if id(row) not in with_numbers),
        str(reference.protocol.get("selected_by")),
        str(reference.protocol.get("label")),
        "runs" if over_runs else "images",
    )


def render(found: Curve) -> RenderableType:
    """What ``vae-runs --rate-distortion`` prints beside the picture."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    error = f"± {found.errors_over}"
    for name in ("beta", "runs", "rate", error, "distortion", error, "elbo"):
        table.add_column(name, justify="right", no_wrap=True)
    for p in found.points:
        ends = (None, None) if p.errors is None else p.errors
        table.add_row(
            f"{p.beta:g}", str(p.num_runs), f"{p.rate:.2f}", plus_minus(ends[0]), f"{p.distortion:.2f}",
            plus_minus(ends[1]), f"{p.elbo:.2f}",
        )  # fmt: skip
    below = [Text(printable(f"label {found.label}"))]
    if found.left_out:
        below.append(Text(printable(f"no such cards: {', '.join(found.left_out)}")))
    if found.selected_by.startswith("val/elbo"):
        text = "the weights were chosen by val/elbo, in which beta is 1: with another beta that can be an early epoch; data.val_size=0 tests the last ones"
        below.append(Text.assemble(("! ", "bold red"), text))
    return Group(table, *below)


def as_json(found: Curve) -> dict[str, Any]:
    """The same content for programs."""
    points = [{**vars(p), "elbo": p.elbo} for p in found.points]
    return {**vars(found), "points": points, "left_out": list(found.left_out)}


def rate_and_distortion(row: Row, selection: Selection) -> tuple[Card, Card] | None:
    """A run's rate and the distortion that was measured with it; None if it holds no such two cards."""
    found = selection.of(row.cards)
    for rate in (card for card in found if card.metric == "rate"):
        for card in found:
            if card.metric == "distortion" and comparable(rate, card) == ["metric"]:
                return rate, card
    return None


def _has_beta(row: Row) -> bool:
    return isinstance(flatten(row.config).get(BETA), int | float)


def _beta(row: Row) -> float:
    return float(flatten(row.config)[BETA])


def _other_settings(a: Row, b: Row) -> list[str]:
    """Settings beside beta that could move the number."""
    x, y = flatten(counted(a.config)), flatten(counted(b.config))
    names = sorted({*x, *y} - {BETA, "seed"})
    return [name for name in names if name not in x or name not in y or x[name] != y[name]]


def _point(beta: float, pairs: Sequence[tuple[Card, Card]], over_runs: bool) -> Point:
    values = [[pair[i].value for pair in pairs] for i in range(2)]
    if not over_runs:
        errors = [error for card in pairs[0] if (error := card.se_images) is not None]
    elif len(pairs) > 1:
        errors = [statistics.stdev(of_runs) / math.sqrt(len(pairs)) for of_runs in values]
    else:  # one run does not tell how much runs vary
        errors = []
    return Point(
        beta,
        statistics.fmean(values[0]),
        statistics.fmean(values[1]),
        (errors[0], errors[1]) if len(errors) == 2 else None,
        len(pairs),
    )
