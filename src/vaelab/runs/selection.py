"""Which number cards are asked for, what sets groups of them apart, and why two may not be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vaelab.errors import SettingError, nearest
from vaelab.runs.cards import Card, comparable, measurement, typed


@dataclass(frozen=True)
class Selection:
    """The cards of some metric, split, estimator and number of samples K; None = any.

    >>> print(Selection(metric="nll", estimator="ais"))
    nll card by ais
    """

    metric: str | None = None
    split: str | None = None
    estimator: str | None = None
    num_samples: int | None = None

    def __str__(self) -> str:
        parts = [self.split, self.metric, "card"]
        if self.estimator is not None:
            parts.append(f"by {self.estimator}")
        if self.num_samples is not None:
            parts.append(f"with K={self.num_samples}")
        return " ".join(part for part in parts if part is not None)

    def of(self, cards: Iterable[Card]) -> list[Card]:
        """Those of ``cards`` that are asked for, in their order."""
        asked = {name: value for name, value in vars(self).items() if value is not None}
        return [card for card in cards if all(getattr(card, name) == asked[name] for name in asked)]

    def check(self, cards: Sequence[Card]) -> None:
        """Raise SettingError, of the option that leaves nothing of ``cards``, with what there is instead."""
        before = Selection()
        for name, value in vars(self).items():
            if value is None:
                continue
            there = sorted({getattr(card, name) for card in before.of(cards)})
            if value not in there:
                names = [str(one) for one in there]
                rule = f"there is no such {before} here" + (f", only {', '.join(names)}" if names else "")
                raise SettingError(option(name), value, rule, nearest=nearest(str(value), names))
            before = Selection(**{**vars(before), name: value})


def option(name: str) -> str:
    """The option of ``vae-runs`` that sets a field of :class:`Selection`: ``num_samples`` -> ``--num-samples``."""
    return "--" + name.replace("_", "-")


def apart(records: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all ``records`` share, and of each what not all share.

    >>> apart([{"split": "test", "K": 1}, {"split": "test", "K": 5}])
    ({'split': 'test'}, [{'K': 1}, {'K': 5}])
    """
    first, *others = records
    shared = {k: v for k, v in first.items() if all(k in other and other[k] == v for other in others)}
    return shared, [{k: v for k, v in record.items() if k not in shared} for record in records]


def contrast(a: Sequence[Card], b: Sequence[Card]) -> list[str]:
    """Each field in which the cards of two runs, A and B, differ, with both values: of each metric that both hold the
    two cards that are most alike, and without such a metric the two that are most alike.

    >>> a = Card("elbo", -104.2, 0.25, 0.01, "nats", "test", 10000, "elbo", 1, {"binarize": "none"}, "", 1.2)
    >>> b = Card("elbo", -90.6, 0.25, 0.01, "nats", "test", 10000, "elbo", 1, {"binarize": "dynamic"}, "", 1.2)
    >>> contrast([a], [b])
    ['protocol.binarize: none (A) against dynamic (B)']
    """
    pairs = [(x, y) for x in a for y in b]
    same = [(x, y) for x, y in pairs if x.metric == y.metric]
    metrics = dict.fromkeys(x.metric for x, _ in same)
    groups = [[(x, y) for x, y in same if x.metric == metric] for metric in metrics] or [pairs]
    texts: dict[str, str] = {}
    for group in groups:
        x, y = min(group, key=lambda pair: len(comparable(*pair)))
        for name in comparable(x, y):
            values = [_value(measurement(card), name) for card in (x, y)]
            texts.setdefault(name, f"{name}: {values[0]} (A) against {values[1]} (B)")
    return list(texts.values())


def heading(fields: Mapping[str, Any]) -> str:
    """What a table of numbers is headed by: ``nll · importance · K=100 · test · 360 images · nats per image``, and on
    a line of its own the protocol.
    """
    words = {
        "metric": "{}",
        "estimator": "{}",
        "num_samples": "K={}",
        "split": "{}",
        "num_images": "{} images",
        "units": "{} per image" if fields.get("units") == "nats" else "{}",
    }
    first = " · ".join(words[name].format(fields[name]) for name in words if name in fields)
    return "\n".join(line for line in (first, protocol_line(fields)) if line)


def protocol_line(fields: Mapping[str, Any]) -> str:
    start = "protocol."
    return "  ".join(
        f"{name.removeprefix(start)}={typed(value)}"
        for name, value in fields.items()
        if name.startswith(start)
    )


def distinction(fields: Mapping[str, Any], all_names: Iterable[str]) -> str:
    """What sets one block apart: the fields it has, and those of ``all_names`` that only others have."""
    own = [f"{name}={typed(value)}" for name, value in fields.items()]
    return "  ".join(own + [f"no {name}" for name in all_names if name not in fields])


def _value(record: Mapping[str, Any], name: str) -> str:
    return typed(record[name]) if name in record else "absent"
