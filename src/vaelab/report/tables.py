"""Tables that a reader can sort and filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vaelab.runs.cards import Card, decimals, plus_minus, shown, size, typed
from vaelab.runs.sweep import is_number

MOST_ROWS = 5_000


@dataclass(frozen=True)
class Column:
    """Of a table; numbers stand at the right."""

    name: str
    numeric: bool = False


@dataclass(frozen=True)
class Cell:
    """What stands in a table.

    Attributes:
        text: as it is read.
        sort: what it is sorted by, where that is not the text; nothing to sort by comes last.
        href: where it leads.
        mark: ``warning``, ``completed``, ``failed``, ...: how it looks, which its text says too.
    """

    text: str
    sort: float | str | None = None
    href: str | None = None
    mark: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells below columns; the first cell of a row is its heading."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sorted_by: int | None = None
    descending: bool = False
    note: str = ""


def table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], **more: Any) -> Table:
    note = f"{len(rows) - MOST_ROWS} further rows are left out." if len(rows) > MOST_ROWS else ""
    return Table(caption, tuple(columns), tuple(map(tuple, rows[:MOST_ROWS])), note=note, **more)


def setting(value: Any) -> Cell:
    """A value of a setting."""
    if value is None:
        return Cell("")
    number = float(value) if is_number(value) else None
    return Cell(f"{value:.4g}" if isinstance(value, float) else typed(value), number)


def number(value: float | None, decimals: int, error: float | None = None) -> Cell:
    if value is None:
        return Cell("")
    return Cell(f"{value:.{decimals}f} {plus_minus(error, decimals)}".rstrip(), value)


def of_cards(caption: str, cards: Sequence[Card]) -> Table:
    """Number cards that share their protocol, split and images."""
    columns = [Column("metric"), Column("value", True), Column("± images", True), Column("± mc", True)]
    columns += [Column("units"), Column("estimator"), Column("K", True)]
    bits = any(card.bits_per_dim is not None for card in cards)
    floor = any(card.floor is not None for card in cards)
    ess = any(card.ess_median is not None for card in cards)
    warned = any(card.warning for card in cards)
    columns += [Column("bits/dim", True)] * bits + [Column("floor", True)] * floor
    columns += [Column("ESS, median", True), Column("ESS, least", True)] * ess
    columns += [Column("warning")] * warned
    rows = []
    for card in cards:
        row = [
            Cell(card.metric),
            Cell(shown(card, card.value), card.value),
            Cell(_error(card, card.se_images), card.se_images),
            Cell(_error(card, card.se_mc), card.se_mc),
            Cell(f"{card.units} per image" if card.units == "nats" else card.units),
            Cell(card.estimator),
            Cell(str(card.num_samples), card.num_samples),
        ]
        if bits:
            row.append(number(card.bits_per_dim, 3))
        if floor:
            row.append(Cell(shown(card, card.floor), card.floor))
        if ess:
            row += [
                Cell(size(card.ess_median), card.ess_median),
                Cell(size(card.ess_min), card.ess_min),
            ]
        if warned:
            row.append(Cell(card.warning or "", mark="warning" if card.warning else None))
        rows.append(row)
    return table(caption, columns, rows)


def _error(card: Card, value: float | None) -> str:
    return plus_minus(value, decimals(card))
