"""Number cards: a reported number with its estimator, its protocol and its errors. ``evaluation.json``,
schema 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from vaelab.errors import SettingError
from vaelab.runs.files import read_json, write_json

SCHEMA = 1
MEASURED = ("metric", "units", "split", "num_images", "estimator", "num_samples")
FLOATS = (
    *(
        "value",
        "se_images",
        "se_mc",
        "seconds",
        "ess_median",
        "ess_min",
        "acceptance",
        "bits_per_dim",
        "bias_hint",
    ),
    "floor",
)
UNSAID = ("nats", "distance")  # beside a number in a table: the usual one, and one that the name says
DECIMALS = {"nats": 2, "count": 0, "accuracy": 4, "share": 4}  # of a value, by its units


@dataclass(frozen=True)
class Card:
    """One reported number.

    Args:
        metric: ``elbo``, ``rate``, ``distortion``, ``nll``, ...
        value: in ``units``, mean over images.
        se_images: standard error of the test set (other images would give another mean); None if not known.
        se_mc: standard error of the estimator's noise, given the images. Not to be added to ``se_images`` by
            a reader.
        units: ``nats`` (per image), ``count`` (of latent dimensions), ``accuracy`` and ``share`` (0 to 1), or
            ``distance`` (squared, between sets of features).
        split: ``test`` or ``val``.
        num_images: how many images the mean is over.
        estimator: ``elbo``, ``importance``, ``ais``, ...
        num_samples: K, importance samples an image; of a number that is no mean over images, the samples that
            it was made of.
        ess_median, ess_min: effective sample size over images, of ``num_samples``.
        acceptance: mean share of the trajectories that were accepted, of an estimate by chains.
        warning: one line, shown below the number.
        protocol: data, binarize, likelihood, label, selected_by, ...: what must be equal for two numbers to
            be compared.
        checkpoint: SHA-256 of the weights.
        seconds: wall-clock time of the estimate.
        bits_per_dim: the value in bits per dimension, where the data is discrete.
        bias_hint: L_K - L_{K/2}, nats: what the bound still gains by doubling K. An importance-weighted bound
            rises with K towards log p(x), and by ever less, so a hint that is not small says that the value
            is short of it by more than its errors tell. None without such a bound.
        curve: the K-curve, K (written out, as JSON has only text for keys) -> the same number from K samples
            of the same weights. None without such a bound.
        kl: ``closed_form`` or ``monte_carlo``: how the rate in the number was taken. Both have the same
            expectation, so that it is no part of the protocol.
        floor: the same number with training images in the place of what the model makes: what a perfect model
            would have. None without such a comparison.
        seed: of the estimator's noise, which ``se_mc`` covers, so that it is no part of the protocol.
    """

    metric: str
    value: float
    se_images: float | None
    se_mc: float | None
    units: str
    split: str
    num_images: int
    estimator: str
    num_samples: int
    protocol: dict[str, Any]
    checkpoint: str | None
    seconds: float
    ess_median: float | None = None
    ess_min: float | None = None
    acceptance: float | None = None
    warning: str | None = None
    bits_per_dim: float | None = None
    bias_hint: float | None = None
    curve: dict[str, float] | None = None
    kl: str | None = None
    floor: float | None = None
    seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Card:
        """Raises ValueError naming the fields that are unknown or missing (a number with half its protocol
        is none).
        """
        if not isinstance(content, dict):
            raise ValueError(f"a card is a record of fields, not {type(content).__name__}")
        known = {field.name for field in fields(cls)}
        required = {field.name for field in fields(cls) if field.default is MISSING}
        if unknown := sorted(set(content) - known):
            raise ValueError(f"unknown fields: {', '.join(unknown)}")
        if missing := sorted(required - set(content)):
            raise ValueError(f"missing fields: {', '.join(missing)}")
        if not isinstance(content["protocol"], dict):
            raise ValueError("protocol is not a record")
        for name in ("metric", "units", "split", "estimator"):
            if not isinstance(content[name], str):
                raise ValueError(f"{name} is not text")
        if not isinstance(content.get("warning"), str | None):
            raise ValueError("warning is not text")
        floats: dict[str, Any] = {
            name: float(content[name])  # "nan" and "inf" are stored as text
            for name in FLOATS
            if content.get(name) is not None
        }
        counts = {name: int(content[name]) for name in ("num_images", "num_samples")}
        if content.get("curve") is not None:
            floats["curve"] = _curve(content["curve"])
        return cls(**{**content, **floats, **counts})


def write_cards(path: Path, cards: Sequence[Card]) -> None:
    """Write ``evaluation.json``; what was there is replaced."""
    write_json(path, {"schema": SCHEMA, "cards": [card.to_dict() for card in cards]})


def read_cards(path: Path) -> list[Card]:
    """Raises SettingError("run") if the file is missing, damaged or of another schema."""
    content = read_json(path)
    if (
        not isinstance(content, dict)
        or content.get("schema") != SCHEMA
        or not isinstance(content.get("cards"), list)
    ):
        raise SettingError("run", path, f"holds no number cards of schema {SCHEMA}")
    return cards_from(content["cards"], path)


def cards_from(records: Sequence[Any], path: Path) -> list[Card]:
    """Cards of records in the file at ``path``. Raises SettingError("run") for what is none."""
    try:
        return [Card.from_dict(card) for card in records]
    except (TypeError, ValueError, OverflowError) as error:  # the last one: so many images as infinity
        raise SettingError("run", path, f"holds a card that cannot be read ({error})") from None


def comparable(a: Card, b: Card) -> list[str]:
    """Names of what differs between the measurements of two cards; empty means that the numbers may stand
    side by side.

    >>> import dataclasses
    >>> a = Card("elbo", -104.2, 0.25, 0.01, "nats", "test", 10000, "elbo", 1, {"binarize": "none"}, "", 1.2)
    >>> comparable(a, dataclasses.replace(a, value=-99.0, num_samples=5, protocol={"binarize": "dynamic"}))
    ['num_samples', 'protocol.binarize']
    """
    x, y = measurement(a), measurement(b)
    names = [*MEASURED, *sorted({*x, *y} - {*MEASURED})]
    # a key with the value None differs from no key
    return [name for name in names if name not in x or name not in y or x[name] != y[name]]


def measurement(card: Card) -> dict[str, Any]:
    """Everything that two cards must share to be compared, by the names that :func:`comparable` gives."""
    protocol = {f"protocol.{key}": card.protocol[key] for key in sorted(card.protocol)}
    return {**{name: getattr(card, name) for name in MEASURED}, **protocol}


def table(cards: Sequence[Card], title: str = "number card") -> Table:
    """The number cards as the screen shows them: a ``rich`` table that reads as plain text too, 80 columns
    wide at most.
    """
    if not cards:
        return Table(title=Text(f"{title}: no numbers"), box=None)
    common = [
        name for name in ("split", "num_images", "units") if len({getattr(card, name) for card in cards}) == 1
    ]
    heading = " · ".join([title, *(_shared(name, getattr(cards[0], name)) for name in common)])
    below = [*_curves(cards), *_warnings(cards)]
    grid = Table(
        title=Text(printable(heading), style="bold"),
        title_justify="left",
        caption=Text("\n").join(below) if below else None,
        caption_justify="left",
        caption_style="",
        box=box.SIMPLE_HEAD,
        header_style="bold",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    columns: list[tuple[str, str, list[str]]] = [
        ("metric", "left", [_name(card, common) for card in cards]),
        ("value", "right", [shown(card, card.value) for card in cards]),
        ("± images", "right", [plus_minus(card.se_images, decimals(card)) for card in cards]),
        ("± mc", "right", [plus_minus(card.se_mc, decimals(card)) for card in cards]),
        ("estimator", "left", [card.estimator for card in cards]),
        ("K", "right", [str(card.num_samples) for card in cards]),
        ("label", "left", [str(card.protocol.get("label", "")) for card in cards]),
    ]
    if any(card.floor is not None for card in cards):
        columns.insert(2, ("floor", "right", [shown(card, card.floor) for card in cards]))
    columns = [column for column in columns if column[0] != "label" or any(column[2])]
    if any(card.ess_median is not None for card in cards):
        columns.insert(6, ("ESS", "right", [size(card.ess_median) for card in cards]))
    if "num_images" not in common:
        place = len(columns) - (columns[-1][0] == "label")
        columns.insert(place, ("images", "right", [str(card.num_images) for card in cards]))
    if any(card.bits_per_dim is not None for card in cards):
        bits = ["" if card.bits_per_dim is None else f"{card.bits_per_dim:.3f}" for card in cards]
        columns.insert(4, ("bits/dim", "right", bits))
    for name, justify, _ in columns:
        grid.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for cells in zip(*(column for _, _, column in columns), strict=True):
        grid.add_row(*(Text(printable(cell), style="bold" if i == 1 else "") for i, cell in enumerate(cells)))
    return grid


def printable(text: str) -> str:
    """``text`` without control characters: what comes from a file moves no cursor and sets no colour."""
    return "".join(c if c.isprintable() else "�" for c in text)


def typed(value: object) -> str:
    """A value of a configuration or a protocol as one would type it: ``null``, ``true``, ``[0.0, 1.0]``, text
    as it is.

    >>> [typed(value) for value in (None, True, 0.001, "none", [0.0, 1.0])]
    ['null', 'true', '0.001', 'none', '[0.0, 1.0]']
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def shown(card: Card, value: float | None) -> str:
    """A value in the units of a card."""
    return "" if value is None else f"{value:.{decimals(card)}f}"


def decimals(card: Card) -> int:
    """Decimals that the value of a card is shown with: by its units, and of a unit without a usual size three digits.

    >>> card = Card("lenet_kid", 0.00523, None, None, "distance", "test", 100, "sample_quality", 100, {}, None, 1.0)
    >>> shown(card, card.value), shown(card, 0.0001)
    ('0.00523', '0.00010')
    """
    if card.units in DECIMALS:
        return DECIMALS[card.units]
    if not card.value or not math.isfinite(card.value):
        return 2
    return min(max(2, 2 - math.floor(math.log10(abs(card.value)))), 6)


def plus_minus(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"± {value:.{digits}f}"


def size(ess: float | None) -> str:
    """An effective sample size, from 1 to K: decimals only where they say something."""
    return "" if ess is None else f"{ess:.1f}" if ess < 99.95 else f"{ess:.0f}"


def _shared(name: str, value: object) -> str:
    """A value that all cards share, as the heading shows it."""
    if name == "num_images":
        return f"{value} images"
    return f"{value} per image" if name == "units" and value == "nats" else str(value)


def _name(card: Card, common: list[str]) -> str:
    parts = [card.metric] if "split" in common else [card.split, card.metric]
    unsaid = "units" in common or card.units in (*UNSAID, card.metric)
    return " ".join(parts) + ("" if unsaid else f" ({card.units})")


def _curve(content: Any) -> dict[str, float]:
    if not isinstance(content, dict) or not all(k.isdecimal() and int(k) > 0 for k in content):
        raise ValueError("curve is not a record of K -> estimate")
    return {k: float(value) for k, value in content.items()}


def _curves(cards: Sequence[Card]) -> list[Text]:
    """One line for each card with a K-curve, which says whose it is where there are several."""
    drawn = [card for card in cards if card.curve]
    lines = []
    for card in drawn:
        whose = f" ({card.estimator}, K={card.num_samples})" if len(drawn) > 1 else ""
        points = sorted((card.curve or {}).items(), key=lambda point: int(point[0]))
        values = "  ".join(f"{k}: {value:.2f}" for k, value in points)
        lines.append(Text.assemble((f"K-curve{printable(whose)} ", "bold"), values))
    return lines


def _warnings(cards: Sequence[Card]) -> list[Text]:
    """One line for each warning, which says whose it is: the whole table's, or some numbers'."""
    whose: dict[str, list[str]] = {}
    for card in cards:
        if card.warning:
            whose.setdefault(card.warning, []).append(f"{card.split} {card.metric}")
    named = {
        text: "" if len(names) == len(cards) > 1 else f"{', '.join(dict.fromkeys(names))}: "
        for text, names in whose.items()
    }
    return [
        Text.assemble(("warning ", "bold red"), printable(f"{names}{text}")) for text, names in named.items()
    ]
