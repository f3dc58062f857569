"""Two runs, A and B: the settings that differ, and B - A of each number that both hold, with its error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vaelab.errors import SettingError
from vaelab.runs import cards as number_cards
from vaelab.runs import drift
from vaelab.runs.cards import Card, comparable, decimals, measurement, plus_minus, printable, shown, typed
from vaelab.runs.manifest import whole_manifest
from vaelab.runs.per_image import per_image
from vaelab.runs.selection import Selection, contrast, distinction, heading
from vaelab.runs.side_by_side import printable_lines
from vaelab.runs.table import Row, flatten

PLACES = ("paths", "run", "hydra")  # where things lie on this machine
ABSENT = object()
OF_THE_NUMBER = ("metric", "estimator", "num_samples", "units")  # in a column, not in a heading


@dataclass(frozen=True)
class Difference:
    """B - A of two cards that can be compared.

    Attributes:
        a, b: the cards.
        value: b.value - a.value.
        se: its standard error over images; None where a card has none.
        paired: the error is that of the mean of per-image differences: the images are the same, and what is hard
            about an image is hard in both runs and cancels. Not paired: sqrt(se_a^2 + se_b^2), as if each
            run had been measured on images of its own.
        reason: why it is not paired.
    """

    a: Card
    b: Card
    value: float
    se: float | None
    paired: bool
    reason: str | None


@dataclass(frozen=True)
class Alone:
    """A card that no card of the other run can be compared with.

    Attributes:
        run: ``A`` or ``B``.
        card: the card.
        differs_in: the fields in which the most similar card of this metric differs; empty if there is none.
    """

    run: str
    card: Card
    differs_in: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What ``vae-runs --diff A B`` says.

    Attributes:
        a, b: the runs.
        environment: code, versions, machine, device: what is not the same in both records, None where one of them cannot be read.
        settings: dotted key -> the two values, :data:`ABSENT` where a run has no such setting; None where a
            configuration could not be read.
        differences: of the cards that can be compared, in the order of A.
        alone: the others.
    """

    a: Row
    b: Row
    environment: tuple[drift.Row, ...] | None
    settings: Mapping[str, tuple[Any, Any]] | None
    differences: tuple[Difference, ...]
    alone: tuple[Alone, ...]


def compare(a: Row, b: Row, selection: Selection, *, force: bool = False) -> Comparison:
    """Raises SettingError if both runs hold selected cards and no two of them can be compared, naming each field that
    differs with both values, unless ``force``.
    """
    if a.path.resolve() == b.path.resolve():
        raise SettingError("--diff", f"{a.path} {b.path}", "is one run twice")
    if selection != Selection():
        selection.check([*a.cards, *b.cards])
    mine, others = selection.of(a.cards), selection.of(b.cards)
    found: list[Difference] = []
    partners = list(others)
    for card in mine:
        partner = next((other for other in partners if not comparable(card, other)), None)
        if partner is not None:
            partners.remove(partner)
            found.append(_difference(a, b, card, partner))
    if mine and others and not found and not force:
        rule = f"no two numbers can be compared: {', '.join(contrast(mine, others))}; --force shows them in separate blocks"
        raise SettingError("--diff", f"{a.path} {b.path}", rule)
    taken = [id(card) for pair in found for card in (pair.a, pair.b)]
    alone = [
        Alone(name, card, _nearest(card, other))
        for name, own, other in (("A", mine, others), ("B", others, mine))
        for card in own
        if id(card) not in taken
    ]
    return Comparison(a, b, _environment(a, b), _settings(a, b), tuple(found), tuple(alone))


def render(comparison: Comparison, *, force: bool) -> RenderableType:
    """What ``vae-runs --diff`` prints; with ``force`` also the values that cannot be compared, each measurement in a
    block of its own.
    """
    rows = {"A": comparison.a, "B": comparison.b}
    parts: list[RenderableType] = []
    for name, row in rows.items():
        damage = f"  ({'; '.join(row.damage)})" if row.damage else ""
        parts.append(Text.assemble((f"{name}  ", "bold"), printable(f"{row.path}  {row.status}{damage}")))
    if comparison.settings is None:
        parts.append(Text("the settings cannot be compared"))
    elif comparison.settings:
        parts.append(_settings_table(comparison.settings))
    else:
        parts.append(Text("no setting differs"))
    if comparison.environment is None:
        parts.append(Text("code and environment cannot be compared"))
    elif comparison.environment:
        parts.append(drift.table(comparison.environment, "code and environment", ("A", "B")))
    else:
        parts.append(Text("code and environment are the same"))
    parts += _difference_tables(comparison.differences)
    for name, row in rows.items():
        if not row.cards:
            parts.append(Text(f"{name} holds no number card"))
    if comparison.alone and not force:
        parts.append(Text("not compared:"))
        parts += [Text(printable(f"  {_description(one)}")) for one in comparison.alone]
    elif comparison.alone:
        parts += _separate(comparison.alone)
    return Group(*parts)


def as_json(comparison: Comparison, *, force: bool) -> dict[str, Any]:
    """The same content for programs. A setting that a run does not have has no entry."""
    settings = comparison.settings
    return {
        "a": _run(comparison.a),
        "b": _run(comparison.b),
        "settings": None
        if settings is None
        else {
            key: {name: value for name, value in zip("ab", pair) if value is not ABSENT}
            for key, pair in settings.items()
        },
        "environment": None
        if comparison.environment is None
        else [
            {"what": row.what, "a": row.recorded, "b": row.here, "drift": row.drift.value}
            for row in comparison.environment
        ],
        "differences": [
            {
                "metric": one.a.metric,
                "difference": one.value,
                "se": one.se,
                "paired": one.paired,
                "reason": one.reason,
                "a": one.a.to_dict(),
                "b": one.b.to_dict(),
            }
            for one in comparison.differences
        ],
        "not_compared": [
            {
                "run": one.run.lower(),
                **{name: getattr(one.card, name) for name in ("split", *OF_THE_NUMBER)},
                "differs_in": list(one.differs_in),
                **({"card": one.card.to_dict()} if force else {}),
            }
            for one in comparison.alone
        ],
    }


def _difference(a: Row, b: Row, x: Card, y: Card) -> Difference:
    value = y.value - x.value
    known = {name: per_image(row.path, card) for name, row, card in (("A", a, x), ("B", b, y))}
    if lacking := [name for name, columns in known.items() if columns is None]:
        reason = f"{' and '.join(lacking)} without per-image values of this number"
    else:
        (ix, vx), (iy, vy) = (columns for columns in known.values() if columns is not None)
        if len(ix) > 1 and (ix == iy).all():
            # ddof=1: the mean is estimated from the same N differences
            return Difference(
                x, y, value, float((vy - vx).std(ddof=1)) / math.sqrt(len(ix)), paired=True, reason=None
            )
        reason = "A and B hold other images" if len(ix) > 1 else "one image has no spread"
    errors = (x.se_images, y.se_images)
    se = None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1])
    return Difference(x, y, value, se, paired=False, reason=reason)


def _nearest(card: Card, others: Sequence[Card]) -> tuple[str, ...]:
    lists = [comparable(card, other) for other in others if other.metric == card.metric]
    return tuple(min(lists, key=len)) if lists else ()


def _environment(a: Row, b: Row) -> tuple[drift.Row, ...] | None:
    """What is not the same in the records of two runs; threads, data and all, but for what the settings say."""
    try:
        x, y = (whole_manifest(row.path / "manifest.json") for row in (a, b))
    except SettingError:
        return None
    sources = [(manifest.get("code") or {}).get("package", {}).get("source") for manifest in (x, y)]
    is_same = sources[0] == sources[1] if all(sources) else drift.code_words(x) == drift.code_words(y)
    rows = [
        drift.code_row(x, y, is_same),
        *drift.environment_rows(x, y),
        *drift.device_rows(x, y),
    ]
    return tuple(row for row in rows if row.drift is not drift.Drift.SAME and (row.recorded or row.here))


def _settings(a: Row, b: Row) -> dict[str, tuple[Any, Any]] | None:
    if not a.config or not b.config:
        return None
    x, y = flatten(a.config), flatten(b.config)
    pairs = {key: (x.get(key, ABSENT), y.get(key, ABSENT)) for key in {**x, **y}}
    return {
        key: pair for key, pair in pairs.items() if key.partition(".")[0] not in PLACES and not _same(*pair)
    }


def _same(x: Any, y: Any) -> bool:
    return x == y and isinstance(x, bool) == isinstance(y, bool)  # 1 is not true


def _settings_table(settings: Mapping[str, tuple[Any, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("setting", "A", "B"):
        table.add_column(name, overflow="fold")
    for key, pair in settings.items():
        texts = ["absent" if value is ABSENT else typed(value) for value in pair]
        if texts[0] == texts[1]:  # text that looks like a number
            texts = [repr(value) for value in pair]
        table.add_row(*(Text(printable(text)) for text in (key, *texts)))
    return table


def _difference_tables(found: Sequence[Difference]) -> list[RenderableType]:
    """A table for each protocol, headed by it."""
    groups: list[tuple[dict[str, Any], list[Difference]]] = []
    for one in found:
        fields = {name: value for name, value in measurement(one.a).items() if name not in OF_THE_NUMBER}
        home = next((members for other, members in groups if other == fields), None)
        if home is None:
            groups.append((fields, [one]))
        else:
            home.append(one)
    parts: list[RenderableType] = []
    for fields, members in groups:
        parts += [Text(printable_lines(heading(fields)), style="bold"), _difference_table(members)]
    for reason in dict.fromkeys(one.reason for one in found if one.reason):
        names = ", ".join(dict.fromkeys(one.a.metric for one in found if one.reason == reason))
        parts.append(Text(printable(f"unpaired, as of two sets of images ({names}): {reason}")))
    warned: dict[str, list[str]] = {}
    for one in found:
        for name, card in (("A", one.a), ("B", one.b)):
            if card.warning:
                own = f"{name} {card.metric} by {card.estimator} K={card.num_samples}"
                warned.setdefault(card.warning, []).append(own)
    for warning, names in warned.items():
        parts.append(Text.assemble(("! ", "bold red"), printable(f"{', '.join(names)}: {warning}")))
    return parts


def _difference_table(members: Sequence[Difference]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("metric", "estimator", "K", "A", "B", "B - A", "± images", "error", ""):
        table.add_column(
            name, justify="left" if name in ("metric", "estimator", "error") else "right", overflow="fold"
        )
    for one in members:
        digits = max(decimals(one.a), _digits(one.se)) if one.se else decimals(one.a)
        units = "" if one.a.units == "nats" else f" ({one.a.units})"
        cells = [
            one.a.metric + units,
            one.a.estimator,
            str(one.a.num_samples),
            shown(one.a, one.a.value),
            shown(one.a, one.b.value),
            f"{one.value:+.{digits}f}",
            plus_minus(one.se, digits),
            "paired" if one.paired else "unpaired",
            "!" if one.a.warning or one.b.warning else "",
        ]
        table.add_row(
            *(Text(printable(cell), style="bold" if i == 5 else "") for i, cell in enumerate(cells))
        )
    return table


def _digits(se: float | None) -> int:
    """Decimals that show two digits of the error: a paired one can be a hundred times smaller than those of A and B.
    More than four are not shown: no difference of interest is that small, and the table has 80 columns.

    >>> [_digits(se) for se in (0.25, 0.031, 1e-9, None, 0.0)]
    [2, 3, 4, 2, 2]
    """
    if not se or not math.isfinite(se):
        return 2
    return min(max(2, 1 - math.floor(math.log10(se))), 4)


def _separate(alone: Sequence[Alone]) -> list[RenderableType]:
    """The cards in blocks: of one run, and headed by what sets them apart from the other run's."""
    groups: dict[str, list[Card]] = {}
    for one in alone:
        fields = measurement(one.card)
        own = {name: fields[name] for name in one.differs_in if name in fields}
        other = "B" if one.run == "A" else "A"
        text = distinction(own, one.differs_in) or f"no such number in {other}"
        groups.setdefault(f"{one.run}: {text}", []).append(one.card)
    parts: list[RenderableType] = []
    for text, members in groups.items():
        title = f"number card of {text[0]}"
        parts += [Text(), Text(printable(text), style="bold"), number_cards.table(members, title=title)]
    return [*parts, Text("These numbers cannot be compared: no difference is given.")]


def _description(one: Alone) -> str:
    card = one.card
    text = f"{one.run}: {card.split} {card.metric} by {card.estimator}, K={card.num_samples}"
    return text + (
        f": differs in {', '.join(one.differs_in)}" if one.differs_in else ": no such number in the other run"
    )


def _run(row: Row) -> dict[str, Any]:
    return {"path": str(row.path), "name": row.name, "status": row.status, "damage": list(row.damage)}
