"""One metric of many runs: cards side by side, one block for each set of cards that can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vaelab.errors import SettingError
from vaelab.runs.cards import Card, comparable, decimals, measurement, plus_minus, printable, shown, size
from vaelab.runs.selection import Selection, apart, contrast, distinction, heading
from vaelab.runs.table import Row, score_decimals

#: of a metric's own validation number. What is not here has no better direction (rate, active_units, mutual_information, ...)
BETTER = {
    **{"elbo": "max", "nll": "min", "distortion": "min"},
    **{"lenet_fid": "min", "lenet_kid": "min", "precision": "max", "recall": "max"},
    **{"accuracy": "max", "probe_linear": "max", "probe_nearest": "max"},
}


NAMED = 8  # runs without the card that is asked for; the others are counted


@dataclass(frozen=True)
class Entry:
    """A card, its run, and the validation number that the run is ranked by (None: it has none)."""

    row: Row
    card: Card
    validation: float | None


@dataclass(frozen=True)
class Block:
    """Cards that can be compared with each other, the best validation number first.

    Attributes:
        entries: one for each run.
        ranked_by: the validation number's name, ``val/elbo`` or ``val nll``; None if the block is not ranked.
        mode: ``min`` or ``max``.
        unranked: why it is not.
    """

    entries: tuple[Entry, ...]
    ranked_by: str | None
    mode: str | None
    unranked: str | None = None


def blocks(rows: Sequence[Row], selection: Selection) -> list[Block]:
    """The selected cards of ``rows``, grouped by :func:`vaelab.runs.comparable`.

    Raises:
        SettingError: nothing is left of the cards; the option that left nothing is named.
    """
    selection.check([card for row in rows for card in row.cards])
    groups: list[list[tuple[Row, Card]]] = []
    for row in rows:
        for card in selection.of(row.cards):
            home = next((group for group in groups if not comparable(group[0][1], card)), None)
            if home is None:
                groups.append([(row, card)])
            else:
                home.append((row, card))
    return [_ranked(group) for group in groups]


def refuse_mixture(rows: Sequence[Row], selection: Selection) -> None:
    """Raise SettingError unless of any two of ``rows``, which were asked for by name, some selected cards can be
    compared; it names the fields in which they differ.
    """
    for i, b in enumerate(rows):
        mine = selection.of(b.cards)
        if not mine:
            rule = f"{b.path} holds no {selection}; --force shows the others"
            raise SettingError("--metric", selection.metric, rule)
        for a in rows[:i]:
            others = selection.of(a.cards)
            if all(comparable(x, y) for x in others for y in mine):
                fields = ", ".join(contrast(others, mine))
                rule = f"cannot be compared between {a.path} (A) and {b.path} (B): {fields}; --force shows them in separate blocks"
                raise SettingError("--metric", selection.metric, rule)


def render(found: Sequence[Block], without: Sequence[str]) -> RenderableType:
    """What ``vae-runs --metric`` prints.

    Args:
        found: from :func:`blocks`.
        without: the runs that hold no such card.
    """
    shared, own = apart([measurement(block.entries[0].card) for block in found])
    names = list(dict.fromkeys(name for fields in own for name in fields))
    parts: list[RenderableType] = [Text(printable_lines(heading(shared)), style="bold")]
    for block, fields in zip(found, own):
        if len(found) > 1:
            parts += [Text(), Text(printable(distinction(fields, names)), style="bold")]
        parts.append(_table(block))
        if block.unranked and len(block.entries) > 1:
            parts.append(Text(f"not ranked: {block.unranked}"))
        parts += [
            Text.assemble(("! ", "bold red"), printable(f"{entry.row.name}: {entry.card.warning}"))
            for entry in block.entries
            if entry.card.warning
        ]
    if len(found) > 1:
        parts.append(
            Text(f"{len(found)} blocks, not ranked against each other: they differ in {', '.join(names)}.")
        )
    if without:
        more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
        parts.append(Text(printable(f"no such card: {', '.join(without[:NAMED])}{more}")))
    return Group(*parts)


def as_json(found: Sequence[Block], without: Sequence[str]) -> dict[str, Any]:
    """The same content for programs."""
    shared, own = apart([measurement(block.entries[0].card) for block in found])
    return {
        "shared": shared,
        "blocks": [
            {
                "distinguished_by": fields,
                "ranked_by": None
                if block.ranked_by is None
                else {"name": block.ranked_by, "mode": block.mode},
                "not_ranked": block.unranked,
                "cards": [
                    {
                        "run": entry.row.name,
                        "path": str(entry.row.path),
                        "validation": entry.validation,
                        "card": entry.card.to_dict(),
                    }
                    for entry in block.entries
                ],
            }
            for block, fields in zip(found, own)
        ],
        "without": list(without),
    }


def printable_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def _ranked(group: Sequence[tuple[Row, Card]]) -> Block:
    """A test number never orders a table: what does is the same metric on the validation images where each run has
    it, else the score that chose the checkpoints.
    """
    metric = group[0][1].metric
    partners = [_validation_card(row, card) for row, card in group]
    known = [card for card in partners if card is not None]
    if metric in BETTER and len(known) == len(group) and len({card.num_images for card in known}) == 1:
        name, mode = f"val {metric}", BETTER[metric]
        values = [card.value for card in known]
    else:
        kinds = [
            {"score.name": r.score_name, "score.mode": r.score_mode, "num_val": r.num_val} for r, _ in group
        ]
        if differing := [key for key in kinds[0] if any(kind[key] != kinds[0][key] for kind in kinds)]:
            return _unranked(group, f"the validation scores differ in {', '.join(differing)}")
        name, mode = group[0][0].score_name, group[0][0].score_mode
        values = [row.score for row, _ in group]
    values = [None if value is None or math.isnan(value) else value for value in values]
    if all(value is None for value in values):
        return _unranked(group, "there is no validation number")
    entries = [Entry(row, card, value) for (row, card), value in zip(group, values)]
    sign = -1.0 if mode == "max" else 1.0
    entries.sort(key=lambda e: (e.validation is None, sign * (e.validation or 0.0), e.row.name))
    return Block(tuple(entries), name, mode)


def _unranked(group: Sequence[tuple[Row, Card]], reason: str) -> Block:
    entries = sorted((Entry(row, card, None) for row, card in group), key=lambda entry: entry.row.name)
    return Block(tuple(entries), None, None, reason)


def _validation_card(row: Row, card: Card) -> Card | None:
    """The card of the same measurement on the run's validation images; of a validation card the card itself."""
    alike = (c for c in row.cards if c.split == "val" and {*comparable(c, card)} <= {"split", "num_images"})
    return card if card.split == "val" else next(alike, None)


def _table(block: Block) -> Table:
    cards = [entry.card for entry in block.entries]
    metric = cards[0].metric
    columns: list[tuple[str, list[str]]] = [
        (metric, [shown(card, card.value) for card in cards]),
        ("± images", [plus_minus(card.se_images, decimals(card)) for card in cards]),
        ("± mc", [plus_minus(card.se_mc, decimals(card)) for card in cards]),
        ("K", [str(card.num_samples) for card in cards]),
    ]
    if any(card.floor is not None for card in cards):
        columns.insert(1, ("floor", [shown(card, card.floor) for card in cards]))
    if any(card.bits_per_dim is not None for card in cards):
        bits = ["" if card.bits_per_dim is None else f"{card.bits_per_dim:.3f}" for card in cards]
        columns.insert(3, ("bits/dim", bits))
    if any(card.ess_median is not None for card in cards):
        columns.append(("ESS", [size(card.ess_median) for card in cards]))
    if block.ranked_by is not None and block.ranked_by != f"{cards[0].split} {metric}":
        own = block.ranked_by == f"val {metric}"
        digits = score_decimals(block.ranked_by)
        scores = [
            ""
            if e.validation is None
            else shown(e.card, e.validation)
            if own
            else f"{e.validation:.{digits}f}"
            for e in block.entries
        ]
        columns.insert(0, (block.ranked_by, scores))
    if any(card.warning for card in cards):
        columns.append(("", ["!" if card.warning else "" for card in cards]))
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("run", overflow="fold", min_width=12)
    for name, _ in columns:
        table.add_column(printable(name), justify="right", no_wrap=True)
    for i, entry in enumerate(block.entries):
        cells = [entry.row.name, *(column[i] for _, column in columns)]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table
