"""The table of a sweep: a row a configuration, with means over its seeds, ordered by a validation number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vaelab.runs import side_by_side, table
from vaelab.runs.cards import decimals, measurement, printable, typed
from vaelab.runs.selection import Selection, apart, distinction, heading
from vaelab.runs.side_by_side import printable_lines
from vaelab.runs.sweep import SEED, Configuration, Job, Sweep, order

NATS = ("elbo", "nll", "rate", "distortion", "loss")  # of the scores that a run may be selected by
NAMED = 3  # runs that a line about those without a number names


@dataclass(frozen=True)
class Mean:
    """Over runs that differ in their seed alone.

    >>> mean([1.0, 3.0])
    Mean(value=2.0, se=1.0, n=2)
    >>> mean([1.0]).se is None
    True
    """

    value: float
    se: float | None
    n: int


@dataclass(frozen=True)
class Column:
    """A number of the table: what it is called, the decimals that it is shown with, its units (of one that is no card's: None where they are not known)."""

    name: str
    decimals: int
    units: str | None


@dataclass(frozen=True)
class Line:
    """A configuration and its numbers, one for each column; None where no run that is complete has one."""

    configuration: Configuration
    numbers: tuple[Mean | None, ...]


@dataclass(frozen=True)
class Block:
    """Configurations whose numbers can be compared, the best first.

    Attributes:
        title: what was measured and how.
        columns: the numbers; the first one orders the lines if ``mode`` is given.
        lines: the configurations.
        mode: ``min`` or ``max``; None if the block is not ordered.
        unordered: why it is not.
        chosen: which column is what was asked for, and a picture shows.
        record: everything that is equal within the block, by name.
    """

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    mode: str | None
    unordered: str | None
    chosen: int
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """The chosen number of a block against one setting: the points, and what is written beside them.

    Attributes:
        key: the setting.
        number: the name of the number.
        units: its units, None where they are not known.
        values: of the setting.
        means: of the number.
        errors: of the means, nan where they are not known.
        lines: the other settings that differ, in one text.
        legend: the keys of those.
        title: over how many seeds, and what is better.
    """

    key: str
    number: str
    units: str | None
    values: tuple[Any, ...]
    means: tuple[float, ...]
    errors: tuple[float, ...]
    lines: tuple[str, ...]
    legend: str
    title: str


def mean(values: Sequence[float]) -> Mean:
    """Mean and its standard error; of one value, or of values that are not finite, there is no error."""
    middle = sum(values) / len(values)
    if len(values) < 2 or not math.isfinite(middle):
        return Mean(middle, None, len(values))
    variance = sum((value - middle) ** 2 for value in values) / (len(values) - 1)
    return Mean(middle, math.sqrt(variance / len(values)), len(values))


def by_score(sweep: Sweep) -> list[Block]:
    """The score of the runs, and their usual test numbers; a block for each protocol."""
    found = []
    for ranking in table.rank(_complete(sweep)):
        if ranking.protocol is None:
            continue
        names = table.test_numbers(ranking.rows)
        row = ranking.rows[0]
        cards = {table.column_of(card): card for one in ranking.rows for card in one.cards}
        columns = [Column(name, decimals(cards[key]), cards[key].units) for key, name in names.items()]
        scored = any(one.score is not None for one in ranking.rows)
        if scored:
            columns.insert(
                0, Column(row.score_name, table.score_decimals(row.score_name), score_units(row.score_name))
            )
        lines = []
        for configuration, rows in _of_configurations(sweep, {r.path: r for r in ranking.rows}):
            values = [
                [c.value for one in rows for c in one.cards if table.column_of(c) == key] for key in names
            ]
            numbers = [_mean(of_column) for of_column in values]
            lines.append(Line(configuration, (*([_mean([one.score for one in rows])] * scored), *numbers)))
        mode, reason = (row.score_mode, None) if scored else (None, "there is no validation number")
        title, record = table.heading(ranking), table.comparability(ranking)
        found.append(_ordered(title, columns, lines, mode, reason, 0, record))
    return found


def by_metric(sweep: Sweep, selection: Selection) -> list[Block]:
    """The selected cards; a block for each set of them that can be compared.

    Raises:
        SettingError: no run that is complete has one.
    """
    found = []
    for block in side_by_side.blocks(_complete(sweep), selection):
        entries = {entry.row.path: entry for entry in block.entries}
        card = block.entries[0].card
        own = f"{card.split} {card.metric}"
        columns = [Column(own, decimals(card), card.units)]
        ranked = block.ranked_by is not None and block.ranked_by != own
        if block.ranked_by is not None and ranked:
            by_card = block.ranked_by == f"val {card.metric}"
            units = card.units if by_card else score_units(block.ranked_by)
            digits = decimals(card) if by_card else table.score_decimals(block.ranked_by)
            columns.insert(0, Column(block.ranked_by, digits, units))
        lines = []
        for configuration, of_one in _of_configurations(sweep, entries):
            numbers = [_mean([entry.card.value for entry in of_one])]
            if ranked:
                numbers.insert(0, _mean([entry.validation for entry in of_one]))
            lines.append(Line(configuration, tuple(numbers)))
        record = measurement(card)
        found.append(
            _ordered(heading(record), columns, lines, block.mode, block.unranked, len(columns) - 1, record)
        )
    return found


def score_units(name: str) -> str | None:
    """Of a score such as ``val/elbo``."""
    return "nats" if name.rpartition("/")[2] in NATS else None


def without_number(sweep: Sweep, blocks: Sequence[Block]) -> list[Configuration]:
    """The configurations that stand in no block."""
    there = {line.configuration.id for block in blocks for line in block.lines}
    return [one for one in sweep.configurations if one.id not in there]


def pictures(sweep: Sweep, block: Block) -> list[Picture]:
    """One for each setting in which the lines of a block differ. A number that is not finite has no point."""
    column = block.columns[block.chosen]
    lines = sorted(
        block.lines, key=lambda line: [order(value) for value in line.configuration.settings.values()]
    )
    points = [
        (line.configuration.settings, number)
        for line in lines
        if (number := line.numbers[block.chosen]) is not None and math.isfinite(number.value)
    ]
    keys = [key for key in sweep.keys if len({typed(settings[key]) for settings, _ in points}) > 1]
    over = _over([number for _, number in points])
    better = {None: "", "max": "; larger is better", "min": "; smaller is better"}
    title = f"{column.name}, {over}{better[block.mode] if block.chosen == 0 else ''}"
    found = []
    for key in keys:
        others = [other for other in keys if other != key]
        found.append(
            Picture(
                key, column.name, column.units,
                tuple(settings[key] for settings, _ in points),
                tuple(number.value for _, number in points),
                tuple(math.nan if number.se is None else number.se for _, number in points),
                tuple(", ".join(typed(settings[other]) for other in others) for settings, _ in points),
                ", ".join(others), title,
            )
        )  # fmt: skip
    return found


def render(sweep: Sweep, blocks: Sequence[Block]) -> RenderableType:
    """What ``vae-runs`` prints for the folder of a sweep."""
    parts: list[RenderableType] = [
        Text(printable(line), style="bold" if i == 0 else "") for i, line in enumerate(_top(sweep))
    ]
    rest = without_number(sweep, blocks)
    own = apart([block.record for block in blocks])[1] if blocks else []
    names = list(dict.fromkeys(name for fields in own for name in fields))
    for i, block in enumerate(blocks):
        parts.append(Text())
        if len(blocks) > 1:
            parts.append(Text(printable(distinction(own[i], names)), style="bold"))
        parts += [Text(printable_lines(block.title)), Text(printable(explained(block)))]
        lines = [*block.lines, *(Line(one, (None,) * len(block.columns)) for one in rest)]
        parts.append(_table(sweep, block.columns, lines if len(blocks) == 1 else block.lines))
    if rest and len(blocks) != 1:
        parts += [Text(), Text("no number yet"), _table(sweep, (), [Line(one, ()) for one in rest])]
    if len(blocks) > 1:
        text = f"{len(blocks)} blocks, not ranked against each other: they differ in {', '.join(names)}."
        parts.append(Text(printable(text)))
    parts += [Text(printable(line)) for line in _unfinished(sweep)]
    return Group(*parts)


def as_json(sweep: Sweep, blocks: Sequence[Block]) -> dict[str, Any]:
    """The same content for programs."""
    return {
        "sweep": {
            "name": sweep.name,
            "folder": str(sweep.folder),
            "swept": list(sweep.swept),
            "differs_in": list(sweep.keys),
            "shared": list(sweep.shared),
            "damage": list(sweep.damage),
        },
        "blocks": [
            {
                "measurement": dict(block.record),
                "ordered_by": None
                if block.mode is None
                else {"name": block.columns[0].name, "mode": block.mode},
                "not_ordered": block.unordered,
                "configurations": [
                    {
                        "configuration": line.configuration.id,
                        "settings": dict(line.configuration.settings),
                        "numbers": {
                            column.name: None if number is None else vars(number)
                            for column, number in zip(block.columns, line.numbers)
                        },
                    }
                    for line in block.lines
                ],
            }
            for block in blocks
        ],
        "without": [one.id for one in without_number(sweep, blocks)],
        "runs": [
            {
                "configuration": configuration.id,
                "run": job.name,
                "path": None if job.row is None else str(job.row.path),
                "seed": job.seed,
                "swept": dict(job.swept),
                "status": job.status,
                "error": job.error,
                "attempts": job.attempts,
                "score": None if job.row is None else job.row.score,
                "seconds": None if job.row is None else job.row.seconds,
            }
            for configuration in sweep.configurations
            for job in configuration.jobs
        ],
        "unreadable": [{"path": str(row.path), "damage": list(row.damage)} for row in sweep.unreadable],
    }


def _complete(sweep: Sweep) -> list[table.Row]:
    return [job.row for job in sweep.jobs if job.is_complete and job.row is not None]


def _of_configurations(sweep: Sweep, found: Mapping[Path, Any]) -> list[tuple[Configuration, list[Any]]]:
    """Each configuration with what was found of its runs."""
    pairs = []
    for configuration in sweep.configurations:
        paths = [job.row.path for job in configuration.complete if job.row is not None]
        own = [found[path] for path in paths if path in found]
        if own:
            pairs.append((configuration, own))
    return pairs


def _mean(values: Sequence[float | None]) -> Mean | None:
    """None unless there are values, of all runs: a mean of those that came through would be another number."""
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None


def _ordered(
    title: str,
    columns: Sequence[Column],
    lines: Sequence[Line],
    mode: str | None,
    unordered: str | None,
    chosen: int,
    record: Mapping[str, Any],
) -> Block:
    if mode is not None:
        sign = -1.0 if mode == "max" else 1.0

        def place(line: Line) -> tuple[bool, float]:
            first = line.numbers[0]
            unknown = first is None or math.isnan(first.value)
            return unknown, 0.0 if first is None or unknown else sign * first.value

        lines = sorted(lines, key=place)  # stable: equal ones stay in the order of their settings
    return Block(title, tuple(columns), tuple(lines), mode, unordered, chosen, record)


def _top(sweep: Sweep) -> list[str]:
    """What the sweep is, and how far."""
    statuses: dict[str, int] = {}
    for job in sweep.jobs:
        statuses[job.status] = statuses.get(job.status, 0) + 1
    counted = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items(), key=lambda one: -one[1]))
    configurations = len(sweep.configurations)
    lines = [
        f"{sweep.name}: {_many(configurations, 'configuration')}, {_many(len(sweep.jobs), 'run')}: {counted}"
    ]
    if sweep.shared:
        lines.append(f"all with {' '.join(sweep.shared)}")
    return lines


def explained(block: Block) -> str:
    """What the score is, and over how many seeds."""
    over = _over([number for line in block.lines for number in line.numbers if number is not None])
    if block.mode is None:
        return f"not ordered: {block.unordered}; {over}"
    better = "largest" if block.mode == "max" else "smallest"
    return f"ordered by {block.columns[0].name}, the {better} first; {over}"


def _over(numbers: Sequence[Mean]) -> str:
    counts = sorted({number.n for number in numbers})
    return "of one run each" if counts == [1] else f"mean ± standard error over {_range(counts)} seeds"


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "0"


def _table(sweep: Sweep, columns: Sequence[Column], lines: Sequence[Line]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for key in sweep.keys:
        grid.add_column(printable(key), overflow="fold")
    grid.add_column("seeds" if SEED in sweep.swept else "runs", justify="right", no_wrap=True)
    for column in columns:
        grid.add_column(printable(column.name), justify="right", no_wrap=True)
    unfinished = any(not job.is_complete for line in lines for job in line.configuration.jobs)
    if unfinished:
        grid.add_column("others", overflow="fold")
    settings = {key: _short([line.configuration.settings[key] for line in lines]) for key in sweep.keys}
    for number, line in enumerate(lines):
        one = line.configuration
        cells = [settings[key][number] for key in sweep.keys]
        cells.append(f"{len(one.complete)} of {len(one.jobs)}")
        cells += [_cell(number, column, len(one.complete)) for number, column in zip(line.numbers, columns)]
        if unfinished:
            cells.append(_others(one.jobs))
        grid.add_row(*(Text(printable(cell)) for cell in cells))
    return grid


def _short(values: Sequence[Any]) -> list[str]:
    """Values as they are typed; numbers that were drawn from an interval with as many digits as tell them apart.

    >>> _short([0.0008812262040409526, 0.001, "conv", None])
    ['0.0008812', '0.001', 'conv', '']
    >>> _short([0.30000001, 0.30000002])
    ['0.30000001', '0.30000002']
    """
    whole = ["" if value is None else typed(value) for value in values]
    short = [f"{value:.4g}" if isinstance(value, float) else text for value, text in zip(values, whole)]
    if len({*short}) < len({*whole}):
        return whole
    return [min(text, long, key=len) for text, long in zip(short, whole)]


def _cell(number: Mean | None, column: Column, complete: int) -> str:
    if number is None:
        return ""
    digits = column.decimals
    if number.se:  # no error that there is reads as none
        digits = min(max(digits, -math.floor(math.log10(number.se))), 6)
    error = "" if number.se is None else f" ± {number.se:.{digits}f}"
    fewer = f" ({number.n})" if number.n != complete else ""
    return f"{number.value:.{digits}f}{error}{fewer}"


def _others(jobs: Sequence[Job]) -> str:
    """``1 failed, 2 waiting``."""
    names = [
        (job.row.standing if job.row is not None else "") or job.status for job in jobs if not job.is_complete
    ]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def _unfinished(sweep: Sweep) -> list[str]:
    """The causes of what failed, and what was left aside."""
    causes: dict[tuple[str, str], list[str]] = {}
    for job in sweep.jobs:
        if not job.is_complete and job.error is not None:
            causes.setdefault((job.status, job.error), []).append(job.name or str(job.swept))
    lines = []
    for (status, error), names in causes.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(f"{status}: {error}: {', '.join(names[:NAMED])}{more}")
    if earlier := sum(job.attempts - 1 for job in sweep.jobs):
        lines.append(
            f"{_many(earlier, 'further run')} of jobs that are here already, such as earlier attempts: not counted"
        )
    lines += [f"not counted: {row.name}: {'; '.join(row.damage)}" for row in sweep.unreadable]
    return [*lines, *sweep.damage]


def _many(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"
