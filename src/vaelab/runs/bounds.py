"""The estimates of log p(x) of one run, paired by image: which bound is the tighter one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vaelab.errors import SettingError
from vaelab.runs.cards import Card, plus_minus, printable, size, typed
from vaelab.runs.per_image import per_image
from vaelab.runs.table import Row, flatten

METRIC = "nll"
CLEAR = 2  # standard errors
FEW = 30  # images, of which a spread says too little of a mean's error
#: of a protocol: what log p(x) is of
OF_THE_EVIDENCE = (
    "data",
    "binarize",
    "dequantize",
    "pixel_range",
    "num_levels",
    "noise_seed",
    "likelihood",
    "label",
    "given",
    "precision",
)


@dataclass(frozen=True)
class Pair:
    """Two estimates of -log p(x) on the images that both have.

    Attributes:
        a, b: their cards; each may be a mean over more images.
        num_images: that both have.
        value: mean of B - A, nats. Both are upper bounds of -log p(x) in expectation, so that the lower one is the tighter.
        se: its standard error over images, paired; None for a single image.
    """

    a: Card
    b: Card
    num_images: int
    value: float
    se: float | None

    @property
    def tighter(self) -> Card | None:
        """The estimate whose bound is clearly the lower one; None if neither is, or the images are too few to say."""
        if self.se is None or self.num_images < FEW or abs(self.value) <= CLEAR * self.se:
            return None
        return self.b if self.value < 0 else self.a


def pairs(row: Row) -> list[Pair]:
    """Every two estimates of a run that are of the same weights, split and protocol.

    Raises:
        SettingError: there are no two.
    """
    import numpy as np

    found = []
    cards = [card for card in row.cards if card.metric == METRIC]
    values = {id(card): per_image(row.path, card) for card in cards}
    for a, b in combinations(cards, 2):
        x, y = values[id(a)], values[id(b)]
        if x is None or y is None or not _of_one_thing(a, b):
            continue
        _, of_a, of_b = np.intersect1d(x[0], y[0], assume_unique=True, return_indices=True)
        difference = y[1][of_b] - x[1][of_a]
        n = len(difference)
        if n > 0:
            se = float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else None
            found.append(Pair(a, b, n, float(difference.mean()), se))
    if not found:
        rule = f"holds no two estimates of log p(x) of the same weights and protocol, only {len(cards)} {METRIC} cards; vae-evaluate makes more"
        raise SettingError("--bounds", row.path, rule)
    return found


def render(row: Row, found: Sequence[Pair]) -> RenderableType:
    """What ``vae-runs --bounds`` prints."""
    cards = list({id(card): card for pair in found for card in (pair.a, pair.b)}.values())
    names = {id(card): name for card, name in zip(cards, _names(cards), strict=True)}
    estimates = _grid("estimate", "split", "images", "nll", "± images", "± mc", "ESS", "")
    for card in cards:
        _add(
            estimates, names[id(card)], card.split, str(card.num_images), f"{card.value:.2f}",
            plus_minus(card.se_images), plus_minus(card.se_mc), size(card.ess_median), "!" if card.warning else "",
        )  # fmt: skip
    differences = _grid("A", "B", "images", "B - A", "± paired", "tighter")
    for pair in found:
        tighter = pair.tighter
        _add(
            differences, names[id(pair.a)], names[id(pair.b)], str(pair.num_images), f"{pair.value:+.3f}",
            plus_minus(pair.se, 3), "" if tighter is None else "A" if tighter is pair.a else "B",
        )  # fmt: skip
    warnings = [
        Text.assemble(("! ", "bold red"), printable(f"{names[id(card)]}: {card.warning}"))
        for card in cards
        if card.warning
    ]
    heading = Text(printable(f"{row.path}: upper bounds of -log p(x), nats per image"), style="bold")
    below = Text(
        "each pair on the images that both have; tighter: lower by more than two standard errors,"
        f" on {FEW} images at least"
    )
    return Group(heading, estimates, *warnings, Text(), differences, below)


def as_json(found: Sequence[Pair]) -> list[dict[str, Any]]:
    """The same content for programs."""
    return [
        {
            "a": pair.a.to_dict(),
            "b": pair.b.to_dict(),
            "num_images": pair.num_images,
            "difference": pair.value,
            "se": pair.se,
            "tighter": None if pair.tighter is None else "a" if pair.tighter is pair.a else "b",
        }
        for pair in found
    ]


def _of_one_thing(a: Card, b: Card) -> bool:
    """Of the same log p(x): what else a protocol holds are settings of an estimator."""
    records = [
        (c.checkpoint, c.split, c.units, *(c.protocol.get(key) for key in OF_THE_EVIDENCE)) for c in (a, b)
    ]
    return records[0] == records[1]


def _names(cards: Sequence[Card]) -> list[str]:
    """``importance K=5000``; with the settings that tell estimates of one name apart."""
    names = [f"{card.estimator} K={card.num_samples}" for card in cards]
    protocols = [flatten(card.protocol) for card in cards]
    told_apart = []
    for name, protocol in zip(names, protocols, strict=True):
        twins = [other for other, twin in zip(protocols, names, strict=True) if twin == name]
        own = [
            f"{key.rpartition('.')[2]}={typed(value)}"
            for key, value in protocol.items()
            if any(key not in twin or twin[key] != value for twin in twins)
        ]
        told_apart.append(" ".join([name, *own]))
    return told_apart


def _grid(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for name in columns:
        text = name in ("estimate", "A", "B", "split", "tighter")
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*(Text(printable(cell)) for cell in cells))
