"""Number cards: a reported number with its estimator, its protocol and its errors. ``evaluation.json``,
schema 1.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Card:
    """One reported number.

    Args:
        metric: ``elbo``, ``rate``, ``distortion``, ``nll``, ...
        value: in ``units``, mean over images.
        se_images: standard error of the test set (other images would give another mean); None if not known.
        se_mc: standard error of the estimator's noise, given the images. Not to be added to ``se_images`` by
            a reader.
        units: ``nats`` (per image) or what the metric has.
        split: ``test`` or ``val``.
        num_images: how many images the mean is over.
        estimator: ``elbo``, ``importance``, ``ais``, ...
        num_samples: K, importance samples an image.
        ess_median, ess_min: effective sample size over images, of ``num_samples``.
        warning: one line, shown below the number.
        protocol: data, binarize, likelihood, label, selected_by, ...: what must be equal for two numbers to
            be compared.
        checkpoint: SHA-256 of the weights.
        seconds: wall-clock time of the estimate.
        bits_per_dim: the value in bits per dimension, where the data is discrete.
        bias_hint: L_K - L_{K/2}, nats: about how far the estimate still lies from where more samples would take it.
        curve: k -> the same number from k samples of the same weights.
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
    warning: str | None = None
    bits_per_dim: float | None = None
    bias_hint: float | None = None
    curve: dict[str, float] | None = None

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
        floats = {
            name: float(content[name])  # "nan" and "inf" are stored as text
            for name in (
                "value",
                "se_images",
                "se_mc",
                "seconds",
                "ess_median",
                "ess_min",
                "bits_per_dim",
                "bias_hint",
            )
            if content.get(name) is not None
        }
        counts = {name: int(content[name]) for name in ("num_images", "num_samples")}
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
    try:
        return [Card.from_dict(card) for card in content["cards"]]
    except (TypeError, ValueError) as error:
        raise SettingError("run", path, f"holds a card that cannot be read ({error})") from None


def comparable(a: Card, b: Card) -> list[str]:
    """Names of what differs between the measurements of two cards; empty means that the numbers may stand
    side by side.

    >>> import dataclasses
    >>> a = Card("elbo", -104.2, 0.25, 0.01, "nats", "test", 10000, "elbo", 1, {"binarize": "none"}, "", 1.2)
    >>> comparable(a, dataclasses.replace(a, value=-99.0, num_samples=5, protocol={"binarize": "dynamic"}))
    ['num_samples', 'protocol.binarize']
    """
    names = ("metric", "units", "split", "num_images", "estimator", "num_samples")
    differing = [name for name in names if getattr(a, name) != getattr(b, name)]
    keys = sorted(set(a.protocol) | set(b.protocol))
    absent = object()  # a key with the value None differs from no key
    return differing + [
        f"protocol.{k}" for k in keys if a.protocol.get(k, absent) != b.protocol.get(k, absent)
    ]


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
    warned = [card for card in cards if card.warning]
    grid = Table(
        title=Text(printable(heading), style="bold"),
        title_justify="left",
        caption=Text("\n").join(_warning(card) for card in warned) if warned else None,
        caption_justify="left",
        caption_style="",
        box=box.SIMPLE_HEAD,
        header_style="bold",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    columns: list[tuple[str, str, list[str]]] = [
        ("metric", "left", [_name(card, common) for card in cards]),
        ("value", "right", [f"{card.value:.2f}" for card in cards]),
        ("± images", "right", [_error(card.se_images) for card in cards]),
        ("± mc", "right", [_error(card.se_mc) for card in cards]),
        ("estimator", "left", [card.estimator for card in cards]),
        ("K", "right", [str(card.num_samples) for card in cards]),
        ("label", "left", [str(card.protocol.get("label", "")) for card in cards]),
    ]
    if "num_images" not in common:
        columns.insert(6, ("images", "right", [str(card.num_images) for card in cards]))
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


def _shared(name: str, value: object) -> str:
    """A value that all cards share, as the heading shows it."""
    if name == "num_images":
        return f"{value} images"
    return f"{value} per image" if name == "units" and value == "nats" else str(value)


def _name(card: Card, common: list[str]) -> str:
    parts = [card.metric] if "split" in common else [card.split, card.metric]
    return " ".join(parts) + ("" if "units" in common or card.units == "nats" else f" ({card.units})")


def _error(value: float | None) -> str:
    return "" if value is None else f"± {value:.2f}"


def _warning(card: Card) -> Text:
    return Text.assemble(("warning ", "bold red"), printable(f"{card.split} {card.metric}: {card.warning}"))
