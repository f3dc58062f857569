"""The table of runs: one row a run, ranked by a validation number only among runs that were measured
alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vaelab.errors import SettingError
from vaelab.runs import metrics
from vaelab.runs.cards import DECIMALS, Card, printable, read_cards, shown, typed
from vaelab.runs.containment import check_contained
from vaelab.runs.directory import RunDirectory
from vaelab.runs.files import read_yaml
from vaelab.runs.identity import is_ignored
from vaelab.runs.manifest import read_manifest
from vaelab.runs.status import Status, StatusRecord, is_live, read_status, seconds_since

#: test numbers in the table. --json has those that share their protocol; --metric NAME has every other
SHOWN = ("elbo", "nll", "accuracy")
#: estimators that a column does not name
USUAL = ("elbo", "importance", "classifier")
REPEATS = ("seed", "run")  # say that it is another run, not that it is of another kind
#: says that it is running, and is not
DEAD = "dead"
SCORE = {"name": "val/elbo", "mode": "max"}


@dataclass(frozen=True)
class Row:
    """One run as the table sees it. ``damage`` names what could not be read; a row is made of whatever
    could. ``status`` is ``dead`` of a run that says that it is running and is not; ``standing`` adds how far a run is, or since when nothing was heard of it.
    ``identity`` is the SHA-256 of the settings that make its numbers, ``sweep`` what its manifest says of the sweep that it belongs to, ``seconds`` lie
    between its start and its end or last sign of life.
    """

    path: Path
    name: str
    status: str
    standing: str = ""
    experiment: str | None = None
    seed: int | None = None
    created: float | None = None
    score_name: str = SCORE["name"]
    score_mode: str = SCORE["mode"]
    score: float | None = None
    num_val: int | None = None
    cards: tuple[Card, ...] = ()
    overrides: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    damage: tuple[str, ...] = ()
    error: str | None = None
    seconds: float | None = None
    identity: str | None = None
    parent_weights: str | None = None
    sweep: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Ranking:
    """Runs that were measured alike, best validation score first; ``protocol`` None for runs without a test
    number.
    """

    protocol: Mapping[str, Any] | None
    score_name: str
    rows: tuple[Row, ...]


def read_row(run: RunDirectory, root: Path | None = None) -> Row:
    """The row of one run; never raises for what a directory holds (a killed run leaves half of
    everything).
    """
    damage: list[str] = []
    name = str(run.path.relative_to(root)) if root is not None and run.path != root else run.name
    try:
        check_contained(run.path)
    except SettingError as error:
        return Row(path=run.path, name=name, status="refused", damage=(error.rule,))
    manifest = _try(damage, "manifest.json", lambda: read_manifest(run), {})
    config = _try(damage, "config.yaml", lambda: _mapping(read_yaml(run.config_file)), {})
    overrides = _try(damage, "overrides.yaml", lambda: _list(read_yaml(run.overrides_file)), [])
    record = _try(damage, "status.json", lambda: read_status(run.status_file), None)
    status, standing = ("unknown", "unknown") if record is None else _standing(record)
    cards = (
        _try(damage, "evaluation.json", lambda: read_cards(run.evaluation_file), [])
        if run.evaluation_file.exists()
        else []
    )
    score = config.get("score") if isinstance(config.get("score"), dict) else {}
    score_name, mode = str(score.get("name", SCORE["name"])), str(score.get("mode", SCORE["mode"]))
    rows = (
        _try(damage, "metrics.csv", lambda: metrics.read(run.metrics_file), [])
        if run.metrics_file.exists()
        else []
    )
    values = [row[score_name] for row in rows if score_name in row and row[score_name] == row[score_name]]
    return Row(
        path=run.path,
        name=name,
        status=status,
        standing=standing,
        experiment=_of(manifest, "experiment", str),
        seed=_of(manifest, "seed", int),
        created=_time(manifest.get("created")),
        score_name=score_name,
        score_mode=mode,
        score=(max(values) if mode == "max" else min(values)) if values else None,
        num_val=_of(manifest.get("data") if isinstance(manifest.get("data"), dict) else {}, "num_val", int),
        cards=tuple(cards),
        overrides=tuple(str(item) for item in overrides),
        config=config,
        damage=tuple(damage),
        error=None if record is None else record.error,
        seconds=_seconds(manifest, record),
        identity=_of(_of(manifest, "identity", dict) or {}, "sha256", str),
        parent_weights=_of(_of(manifest, "parent", dict) or {}, "weights", str),
        sweep=_of(manifest, "sweep", dict),
    )


def rank(rows: Iterable[Row]) -> list[Ranking]:
    """Group the runs by everything that must be equal for their numbers to be compared, and order each group
    by its score.

    A run stands in a group for each protocol of its test numbers that are shown; runs without one come last, by time. The
    score is a validation number, so its name, direction and number of images are part of what must be equal, as is the largest
    number of test images. Of what was measured on fewer images as well, the number of most images is shown.
    """
    groups: dict[str, tuple[Mapping[str, Any] | None, list[Row]]] = {}
    for row in rows:
        protocols: dict[str, list[Card]] = {}
        for card in row.cards:
            if card.split == "test":
                text = json.dumps(card.protocol, sort_keys=True, default=str)
                protocols.setdefault(text, []).append(card)
        protocols = {
            text: own for text, own in protocols.items() if any(card.metric in SHOWN for card in own)
        }
        for text, own in protocols.items():
            key = json.dumps([text, row.score_name, row.score_mode, row.num_val, _images(own)], default=str)
            groups.setdefault(key, (own[0].protocol, []))[1].append(replace(row, cards=_of_most_images(own)))
        if not protocols:
            groups.setdefault("none", (None, []))[1].append(row)
    rankings = []
    for protocol, members in groups.values():
        if protocol is None:
            ordered = sorted(members, key=lambda row: (row.created or 0.0, row.name))
        else:
            sign = -1.0 if members[0].score_mode == "max" else 1.0
            ordered = sorted(
                members, key=lambda row: (row.score is None, sign * (row.score or 0.0), row.name)
            )
        rankings.append(Ranking(protocol, members[0].score_name, tuple(ordered)))
    return sorted(rankings, key=lambda ranking: ranking.protocol is None)


def differences(rows: Sequence[Row]) -> list[str]:
    """What sets each of ``rows`` apart: the overrides that not all were given, else the configuration keys
    that differ.
    """
    typed = [
        {o.lstrip("+~").partition("=")[0]: o for o in row.overrides if not _quiet(o.lstrip("+~"))}
        for row in rows
    ]
    shared = set.intersection(*(set(t.values()) for t in typed)) if typed else set()
    texts = [" ".join(o for o in t.values() if o not in shared) for t in typed]
    if any(texts):
        return texts
    flat = [{k: v for k, v in flatten(row.config).items() if not _quiet(k)} for row in rows]
    readable = [f for f in flat if f]
    names = sorted({k for f in readable for k in f if any(f.get(k) != g.get(k) for g in readable)})
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [" ".join(f"{k}={f[k]}" for k in names[:3] if k in f) + more if names and f else "" for f in flat]


def render(rankings: Sequence[Ranking]) -> RenderableType:
    """What ``vae-runs`` prints."""
    parts: list[RenderableType] = []
    for ranking in rankings:
        parts += [Text(printable(heading(ranking)), style="bold"), _table(ranking), Text()]
    ranked = [r for r in rankings if r.protocol is not None]
    warned = {
        card.metric
        for r in ranked
        for row in r.rows
        for card in row.cards
        if card.metric in SHOWN and card.warning
    }
    for metric in sorted(warned):
        parts.append(Text.assemble(("! ", "bold red"), f"with a warning, which --metric {metric} shows"))
    if len(ranked) > 1:
        records = [comparability(ranking) for ranking in ranked]
        keys = sorted({key for record in records for key in record})
        differing = [key for key in keys if len({repr(record.get(key)) for record in records}) > 1]
        parts.append(
            Text(
                f"{len(ranked)} groups, not ranked against each other: they differ in {', '.join(differing)}."
            )
        )
    return Group(*parts)


def as_json(rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    """The same content for programs: one record a group, its runs in order."""
    return [
        {
            "protocol": ranking.protocol,
            "score": {"name": ranking.score_name, "mode": ranking.rows[0].score_mode},
            "runs": [
                {
                    "path": str(row.path),
                    "name": row.name,
                    "status": row.status,
                    "experiment": row.experiment,
                    "seed": row.seed,
                    "score": row.score,
                    "overrides": list(row.overrides),
                    "cards": [card.to_dict() for card in row.cards],
                    "damage": list(row.damage),
                }
                for row in ranking.rows
            ],
        }
        for ranking in rankings
    ]


def comparability(ranking: Ranking) -> dict[str, Any]:
    """Everything that is equal within a group, by name."""
    row = ranking.rows[0]
    images = {"num_images": _images(row.cards), "num_val": row.num_val}
    return {**(ranking.protocol or {}), **images, "score.name": row.score_name, "score.mode": row.score_mode}


def heading(ranking: Ranking) -> str:
    """The protocol of a group's test numbers."""
    if ranking.protocol is None:
        return "no test number yet"
    protocol = (f"{key}={typed(value)}" for key, value in ranking.protocol.items())
    return "  ".join([*protocol, f"num_images={_images(ranking.rows[0].cards)}"])


def _table(ranking: Ranking) -> Table:
    rows = ranking.rows
    columns = test_numbers(rows)
    table = Table(
        box=box.SIMPLE_HEAD,
        header_style="bold",
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("run", overflow="fold", min_width=12)
    table.add_column("status", no_wrap=True)
    table.add_column("seed", justify="right")
    table.add_column(printable(ranking.score_name), justify="right", no_wrap=True)
    for name in columns.values():
        table.add_column(printable(name), justify="right")
    table.add_column("differs in", overflow="fold")
    for row, differs in zip(rows, differences(rows), strict=True):
        found = {column_of(card): card for card in row.cards}
        cells = [
            row.name,
            row.standing or row.status,
            "" if row.seed is None else str(row.seed),
            "" if row.score is None else f"{row.score:.{score_decimals(ranking.score_name)}f}",
        ]
        for column in columns:
            cells.append(_cell(found.get(column)))
        cells.append(differs + (" " if differs and row.damage else "") + "; ".join(row.damage))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _cell(card: Card | None) -> str:
    if card is None:
        return ""
    error = f" ± {shown(card, card.se_images)}" if card.se_images else ""
    return f"{shown(card, card.value)}{error}" + (" !" if card.warning else "")


def score_decimals(name: str) -> int:
    """Decimals that a score is shown with; no card says its units.

    >>> score_decimals("val/elbo"), score_decimals("val/accuracy")
    (2, 4)
    """
    return DECIMALS["accuracy" if name.rpartition("/")[2] == "accuracy" else "nats"]


def column_of(card: Card) -> tuple[str, str, int, int]:
    """In which column of a ranking a number stands."""
    return card.metric, card.estimator, card.num_samples, card.num_images


def test_numbers(rows: Sequence[Row]) -> dict[tuple[str, str, int, int], str]:
    """The columns of the rows of a ranking, as :func:`column_of` has them, and what each is called."""
    found = sorted(
        {column_of(c) for row in rows for c in row.cards if c.metric in SHOWN},
        key=lambda c: (SHOWN.index(c[0]), *c[1:3], -c[3]),
    )
    names = {}
    for metric, estimator, samples, images in found:
        by = f" {estimator}" if estimator not in USUAL else ""
        of_fewer = f" of {images}" if images != _images(rows[0].cards) else ""
        names[metric, estimator, samples, images] = (
            f"test {metric}{by}" + (f" K={samples}" if samples > 1 else "") + of_fewer
        )
    return names


def _images(cards: Sequence[Card]) -> int:
    """The largest number of images that one of the numbers shown is a mean over."""
    return max((card.num_images for card in cards if card.metric in SHOWN), default=0)


def _of_most_images(cards: Sequence[Card]) -> tuple[Card, ...]:
    """Of cards that differ in their images alone, the one of most."""
    most: dict[tuple[str, str, int], Card] = {}
    for card in cards:
        key = column_of(card)[:3]
        if key not in most or card.num_images > most[key].num_images:
            most[key] = card
    return tuple(most.values())


def _standing(record: StatusRecord) -> tuple[str, str]:
    """The status of a run, and in words how it stands."""
    if record.status is not Status.RUNNING:
        return record.status.value, record.status.value
    if not is_live(record):
        return DEAD, f"{DEAD}, silent for {_span(seconds_since(record.updated))}"
    if record.progress is None:
        return record.status.value, record.status.value
    step, steps = record.progress
    return record.status.value, f"{record.status.value}, {step / steps:.0%}"


def _span(seconds: float) -> str:
    """In the largest unit that fits.

    >>> _span(59), _span(7300)
    ('59 s', '2 h')
    """
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _try(damage: list[str], what: str, read: Any, default: Any) -> Any:
    try:
        return read()
    except SettingError as error:
        damage.append(f"{what}: missing" if "no such file" in error.rule else f"{what}: unreadable")
    except (OSError, ValueError, TypeError, KeyError):
        damage.append(f"{what}: unreadable")
    return default


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("not a list")
    return value


def _of(record: Any, key: str, kind: type) -> Any:
    value = record.get(key)
    return value if type(value) is kind else None


def _seconds(manifest: Mapping[str, Any], record: StatusRecord | None) -> float | None:
    start = _time(manifest.get("created"))
    end = _time(manifest.get("finished")) or (None if record is None else _time(record.updated))
    return None if start is None or end is None else round(max(end - start, 0.0), 3)


def _time(value: Any) -> float | None:
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError):
        return None


def flatten(config: Any, prefix: str = "", depth: int = 20) -> dict[str, Any]:
    if not isinstance(config, dict) or depth == 0:
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key), depth - 1))
    return flat


def _quiet(key: str) -> bool:
    name = key.partition("=")[0].replace("/", ".")
    return name.partition(".")[0] in REPEATS or is_ignored(name)
