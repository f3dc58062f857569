"""What the page of many runs shows: of a sweep, a search, or any folder of runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vaelab.errors import SettingError
from vaelab.report import charts, tables
from vaelab.report.charts import Chart, Series
from vaelab.report.page import Content
from vaelab.report.tables import Cell, Column, Table
from vaelab.runs import Card, comparable, find_runs, read_json, sweep_table
from vaelab.runs.cards import decimals, printable, typed
from vaelab.runs.rate_distortion import rate_and_distortion
from vaelab.runs.selection import Selection, apart, distinction
from vaelab.runs.sweep import Configuration, Job, Sweep, is_number, is_sweep, read
from vaelab.runs.sweep_table import Block, Mean, mean
from vaelab.runs.table import (
    Row,
    column_of,
    comparability,
    differences,
    rank,
    read_row,
    score_decimals,
    test_numbers,
)
from vaelab.runs.table import heading as ranking_heading

SEARCH = "search.json"
MOST_AXES = 12  # of parallel coordinates
MOST_ERRORS = 200


@dataclass(frozen=True)
class Part:
    """Runs that were measured alike.

    Attributes:
        id: in the page.
        title: what sets them apart from those of other parts.
        protocol: what they share.
        order: what orders them, and over how many seeds.
        tables: of them.
    """

    id: str
    title: str
    protocol: str
    order: str
    tables: tuple[Table, ...]


def content(folder: Path, page: Path, where: str) -> Content:
    """Everything that the page says of a folder of runs.

    Args:
        folder: that holds them.
        page: the folder that the page goes into: links lead from there.
        where: the folder, as it is typed in commands.
    """
    rows = [read_row(run, folder) for run in find_runs(folder)]
    if is_sweep(folder, rows):
        return _of_sweep(read(folder, rows), page, where)
    return _of_folder(folder, rows, page, where)


def _of_sweep(found: Sweep, page: Path, where: str) -> Content:
    blocks = sweep_table.by_score(found)
    titles = _distinctions([block.record for block in blocks])
    parts, drawn = [], []
    damage = [*found.damage]
    search = _search(found.folder, damage)
    for i, (block, title) in enumerate(zip(blocks, titles), 1):
        id_ = f"block-{i}"
        order = sweep_table.explained(block)
        own = (_configurations(found, block), _runs_of(found, block, page))
        parts.append(Part(id_, title, block.title, order, own))
        drawn += [*_against(found, block, id_), *_parallel(found, block, id_)]
    drawn += _rate_distortion(found)
    importance: list[str] = []
    if search is not None:
        more, importance = _of_search(search)
        drawn += more
    statuses = _counted([job.status for job in found.jobs])
    title = found.name
    rest = sweep_table.without_number(found, blocks)
    values = {
        "title": title,
        "kind": "search" if search is not None else "sweep",
        "summary": f"{_many(len(found.configurations), 'configuration')}, {_many(len(found.jobs), 'run')}",
        "statuses": statuses,
        "shared": list(found.shared),
        "swept": list(found.swept),
        "damage": [*damage, *(f"{row.path.name}: {'; '.join(row.damage)}" for row in found.unreadable[:MOST_ERRORS])],
        "parts": parts,
        "apart": _apart_in([block.record for block in blocks]),
        "rest": [_settings_text(one) for one in rest[:MOST_ERRORS]],
        "failures": [
            (job.name or _job_text(job), job.status, charts.short(job.error, 500))
            for job in found.jobs if job.error and job.status not in ("completed", "pruned")
        ][:MOST_ERRORS],
        "jobs": _jobs(found, page),
        "importance": importance,
        "commands": [
            (f"vae-runs {shlex.quote(where)}", "the same table on the screen, and as results.csv and configurations.csv"),
            (f"vae-report {shlex.quote(where)}", "this page anew"),
        ],
    }  # fmt: skip
    return Content("runs.html", values, charts.numbered(drawn))


def _of_folder(folder: Path, rows: Sequence[Row], page: Path, where: str) -> Content:
    rankings = rank(rows)
    ranked = [one for one in rankings if one.protocol is not None]
    titles = _distinctions([comparability(one) for one in ranked])
    parts = []
    for i, (ranking, title) in enumerate(zip(ranked, titles), 1):
        better = "largest" if ranking.rows[0].score_mode == "max" else "smallest"
        order = f"ordered by {ranking.score_name}, the {better} first"
        if all(row.score is None for row in ranking.rows):
            order = "not ordered: there is no validation number"
        made = _ranked(ranking.rows, ranking.score_name, page)
        parts.append(Part(f"block-{i}", title, ranking_heading(ranking), order, (made,)))
    rest = [row for one in rankings if one.protocol is None for row in one.rows]
    heads = [Column("run"), Column("status"), Column("seed", True), Column("seconds", True), Column("cause")]
    jobs = [
        (_link(row, row.name, page), Cell(row.status, mark=row.status), tables.setting(row.seed), tables.number(row.seconds, 0), Cell(_cause(row)))
        for row in rows
    ]  # fmt: skip
    values = {
        "title": folder.resolve().name,
        "kind": "runs",
        "summary": _many(len(rows), "run"),
        "statuses": _counted([row.status for row in rows]),
        "shared": [],
        "swept": [],
        "damage": [f"{row.name}: {'; '.join(row.damage)}" for row in rows if row.damage][:MOST_ERRORS],
        "parts": parts,
        "apart": _apart_in([comparability(one) for one in ranked]),
        "rest": [row.name for row in rest[:MOST_ERRORS]],
        "failures": [(row.name, row.status, charts.short(str(row.error), 500)) for row in rows if row.error and row.status == "failed"][:MOST_ERRORS],
        "jobs": tables.table("all runs", heads, jobs),
        "importance": [],
        "commands": [
            (f"vae-runs {shlex.quote(where)}", "the same table on the screen"),
            (f"vae-report {shlex.quote(where)}", "this page anew"),
        ],
    }  # fmt: skip
    return Content("runs.html", values)


def _distinctions(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What sets each group apart, in words."""
    if len(records) < 2:
        return ["Results" for _ in records]
    own = apart(records)[1]
    names = list(dict.fromkeys(name for fields in own for name in fields))
    return [distinction(fields, names) or "Results" for fields in own]


def _apart_in(records: Sequence[Mapping[str, Any]]) -> str:
    """The fields in which groups differ, that are not ranked against each other."""
    return ", ".join(dict.fromkeys(n for one in apart(records)[1] for n in one)) if len(records) > 1 else ""


def _configurations(found: Sweep, block: Block) -> Table:
    heads = [Column("configuration"), *(Column(key, _numeric(found, key)) for key in found.keys)]
    heads += [Column("runs", True), *(Column(column.name, True) for column in block.columns)]
    rows = []
    for line in block.lines:
        one = line.configuration
        row = [Cell(one.id), *(tables.setting(one.settings[key]) for key in found.keys)]
        row.append(Cell(f"{len(one.complete)} of {len(one.jobs)}", len(one.complete)))
        row += [_mean(number, column.decimals) for number, column in zip(line.numbers, block.columns)]
        rows.append(row)
    at = len(found.keys) + 2 if block.mode is not None else None
    return tables.table("configurations", heads, rows, sorted_by=at, descending=block.mode == "max")


def _runs_of(found: Sweep, block: Block, page: Path) -> Table:
    """The runs behind a block, one by one; only numbers of its own protocol stand there."""
    ids = {line.configuration.id for line in block.lines}
    jobs = [(c, job) for c in found.configurations if c.id in ids for job in c.complete]
    rankings = rank([job.row for _, job in jobs if job.row is not None])
    ranking = next(one for one in rankings if one.protocol is not None and comparability(one) == block.record)
    cards = {row.path: {column_of(card): card for card in row.cards} for row in ranking.rows}
    names = test_numbers(ranking.rows)
    scored = block.mode is not None
    heads = [Column("run"), *(Column(key, _numeric(found, key)) for key in found.keys), Column("seed", True)]
    heads += [Column(ranking.score_name, True)] * scored + [Column(name, True) for name in names.values()]
    rows = []
    for one, job in jobs:
        if job.row is None or job.row.path not in cards:
            continue
        row = [
            _link(job.row, job.name, page),
            *(tables.setting(one.settings[key]) for key in found.keys),
            tables.setting(job.seed),
        ]
        row += [tables.number(job.row.score, score_decimals(ranking.score_name))] * scored
        row += [_card(cards[job.row.path].get(key)) for key in names]
        rows.append(row)  # fmt: skip
    return tables.table("runs, one by one", heads, rows)


def _ranked(rows: Sequence[Row], score_name: str, page: Path) -> Table:
    names = test_numbers(rows)
    heads = [Column("run"), Column("status"), Column("seed", True), Column(score_name, True)]
    heads += [*(Column(name, True) for name in names.values()), Column("differs in")]
    cells = []
    for row, differs in zip(rows, differences(rows), strict=True):
        cards = {column_of(card): card for card in row.cards}
        cells.append((
            _link(row, row.name, page), Cell(row.status, mark=row.status), tables.setting(row.seed), tables.number(row.score, score_decimals(score_name)),
            *(_card(cards.get(key)) for key in names), Cell(charts.short(differs, 300)),
        ))  # fmt: skip
    return tables.table("runs", heads, cells)


def _jobs(found: Sweep, page: Path) -> Table:
    heads = [
        Column("run"),
        Column("status"),
        Column("configuration"),
        *(Column(key, _numeric(found, key)) for key in found.keys),
    ]
    heads += [Column("seed", True), Column("seconds", True), Column("cause")]
    rows = []
    for one in found.configurations:
        for job in one.jobs:
            name = _link(job.row, job.name, page) if job.row is not None else Cell(job.name or "no directory")
            seconds = None if job.row is None else job.row.seconds
            again = f" ({job.attempts} tries)" if job.attempts > 1 else ""
            row = [name, Cell(job.status + again, mark=job.status), Cell(one.id)]
            row += [tables.setting(one.settings[key]) for key in found.keys]
            row += [
                tables.setting(job.seed),
                tables.number(seconds, 0),
                Cell(charts.short(job.error or "", 300)),
            ]
            rows.append(row)
    return tables.table("all runs", heads, rows)  # fmt: skip


def _link(row: Row, name: str, page: Path) -> Cell:
    """The name of a run, and the way to its page where it has one."""
    target = row.path / "report.html"
    if row.status == "refused" or not target.is_file():
        return Cell(name)
    way = os.path.relpath(os.path.abspath(target), os.path.abspath(page))
    return Cell(name, href=quote(Path(way).as_posix(), errors="replace"))


def _cause(row: Row) -> str:
    return charts.short("; ".join([*([str(row.error)] if row.error else []), *row.damage]), 300)


def _mean(found: Mean | None, decimals: int) -> Cell:
    return Cell("") if found is None else tables.number(found.value, decimals, found.se)


def _card(card: Card | None) -> Cell:
    if card is None:
        return Cell("")
    cell = tables.number(card.value, decimals(card), card.se_images)
    return replace(cell, text=f"{cell.text} !", mark="warning") if card.warning else cell


def _numeric(found: Sweep, key: str) -> bool:
    known = [one.settings.get(key) for one in found.configurations]
    return all(value is None or is_number(value) for value in known)


def _against(found: Sweep, block: Block, part: str) -> list[Chart]:
    """The number of a block against each setting that was swept."""
    drawn = []
    for picture in sweep_table.pictures(found, block):
        lines: dict[str, list[int]] = {}
        for i, line in enumerate(picture.lines):
            lines.setdefault(line, []).append(i)
        series = [
            Series(
                line or picture.number,
                [picture.values[i] for i in own],
                [picture.means[i] for i in own],
                [picture.errors[i] if picture.errors[i] == picture.errors[i] else None for i in own],
                [f"{picture.key} {_short(picture.values[i])}" + (f", {picture.legend} {line}" if line else "") for i in own],
            )
            for line, own in lines.items()
        ]  # fmt: skip
        units = {None: "", "nats": " (nats per image)"}.get(picture.units, f" ({picture.units})")
        best = _best(picture.means, block.mode)
        said = (
            f" The best mean is {picture.means[best]:.5g}, at {picture.key} {_short(picture.values[best])}."
            if best is not None
            else ""
        )
        bars = " Bars: standard error over seeds." if any(e == e for e in picture.errors) else ""
        drawn.append(charts.against(
            f"{picture.number} against {picture.key}", picture.key, picture.number + units, series, picture.legend,
            f"{picture.title}.{bars}{said} The numbers are in the table of configurations.", part,
        ))  # fmt: skip
    return drawn


def _best(means: Sequence[float], mode: str | None) -> int | None:
    if mode is None or not means:
        return None
    places = range(len(means))
    return max(places, key=lambda i: means[i]) if mode == "max" else min(places, key=lambda i: means[i])


def _parallel(found: Sweep, block: Block, part: str) -> list[Chart]:
    """All settings and numbers of the configurations of a block at once."""
    lines = block.lines
    if len(lines) < 3 or len(found.keys) < 2 or block.mode is None:
        return []
    axes: list[tuple[str, list[Any]]] = [
        (key, [line.configuration.settings[key] for line in lines]) for key in found.keys[: MOST_AXES - 2]
    ]
    for i, column in enumerate(block.columns[:2]):
        numbers = [line.numbers[i] for line in lines]
        axes.append((column.name, [None if one is None else one.value for one in numbers]))
    more = len(found.keys) - (MOST_AXES - 2)
    left = f" {more} more settings are in the table." if more > 0 else ""
    caption = (
        f"A line for each of {len(lines)} configurations, the darker on light and the lighter on dark the better its {block.columns[0].name}; "
        f"a click in the legend hides a fifth of them.{left}"
    )
    return [charts.parallel("Parallel coordinates", axes, list(range(len(lines))), caption, part)]


def _rate_distortion(found: Sweep) -> list[Chart]:
    """Distortion against rate of the test, a chart for each protocol, a point for each configuration."""
    groups: list[tuple[Card, dict[str, list[tuple[Card, Card]]]]] = []
    selection = Selection(split="test")
    names = {one.id: _settings_text(one) for one in found.configurations}
    for one in found.configurations:
        for job in one.complete:
            both = None if job.row is None else rate_and_distortion(job.row, selection)
            if both is None:
                continue
            home = next((g for g in groups if not comparable(g[0], both[0])), None)
            if home is None:
                groups.append(home := (both[0], {}))
            home[1].setdefault(one.id, []).append(both)
    drawn = []
    for first, of_one in groups:
        if len(of_one) < 2:
            continue
        means = [
            (mean([r.value for r, _ in pairs]), mean([d.value for _, d in pairs]))
            for pairs in of_one.values()
        ]
        known = [(i, m) for i, m in zip(of_one, means) if abs(m[0].value) < 1e300 and abs(m[1].value) < 1e300]
        texts = [
            f"{names[i]}: rate {m[0].value:.2f}, distortion {m[1].value:.2f}, elbo {-(m[0].value + m[1].value):.2f}"
            for i, m in known
        ]
        best = charts.frontier([(m[0].value, m[1].value) for _, m in known])
        points = Series(
            "",
            [m[0].value for _, m in known],
            [m[1].value for _, m in known],
            [m[1].se for _, m in known],
            texts,
        )
        label = first.protocol.get("label")
        listed = "; ".join(texts[i] for i in best[:4]) + (
            f"; and {len(best) - 4} more" if len(best) > 4 else ""
        )
        caption = (
            f"Means over the seeds of {len(known)} configurations, on {first.num_images} images of {first.split}, labelled {label}. "
            f"On the frontier, where no other one has less of both: {listed}."
        )
        drawn.append(
            charts.rate_distortion(
                f"Rate and distortion ({label})",
                points,
                [m[0].se for _, m in known],
                best,
                caption,
                "rate-distortion",
            )
        )
    return drawn  # fmt: skip


def _search(folder: Path, damage: list[str]) -> dict[str, Any] | None:
    """``search.json``, as far as there is one that can be read."""
    if not (folder / SEARCH).is_file():
        return None
    try:
        record = read_json(folder / SEARCH)
    except SettingError as error:
        damage.append(f"{SEARCH} {error.rule}")
        return None
    good = isinstance(record, dict) and record.get("schema") == 1
    if not (good and isinstance(record.get("trials"), list) and isinstance(record.get("objectives"), dict)):
        damage.append(f"{SEARCH} is no record of a search of schema 1")
        return None
    return record


def _of_search(record: Mapping[str, Any]) -> tuple[list[Chart], list[str]]:
    """Trials in their order, and which settings mattered."""
    drawn, said = [], []
    trials = [one for one in record["trials"] if isinstance(one, dict) and isinstance(one.get("place"), int)]
    trials = sorted(trials, key=lambda one: one["place"])[: tables.MOST_ROWS]
    places = [one["place"] for one in trials]  # with gaps where trials are left out of the record
    for i, (name, mode) in enumerate(record["objectives"].items()):
        values = [
            float(v[i]) if isinstance(v := one.get("values"), list) and i < len(v) and is_number(v[i]) else None
            for one in trials
        ]  # fmt: skip
        if any(value is not None for value in values):
            units = sweep_table.score_units(str(name))
            unit = f"{name} (nats per image)" if units == "nats" else str(name)
            drawn.append(charts.trials(f"{name} of each trial", unit, places, values, str(mode), "search"))
    importances = record.get("importances")
    for name, shares in importances.items() if isinstance(importances, dict) else ():
        known = (
            {str(k): float(v) for k, v in shares.items() if is_number(v)} if isinstance(shares, dict) else {}
        )
        if known:
            text = ", ".join(f"{key} {share:.2f}" for key, share in known.items())
            said.append(f"{name}: {text}")
            series = [Series("share", list(known), list(known.values()))]
            caption = f"Shares of the variance of {name} that each setting explains (fANOVA): {text}."
            drawn.append(
                charts.bars(
                    f"What mattered for {name}", "share of the variance", "setting", series, caption, "search"
                )
            )
    return drawn, said


def _settings_text(one: Configuration) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in one.settings.items()) or one.id


def _job_text(job: Job) -> str:
    return " ".join(f"{key}={_short(value)}" for key, value in job.swept.items())


def _short(value: Any) -> str:
    return printable(f"{value:.4g}" if isinstance(value, float) else charts.short(typed(value), 80))


def _counted(statuses: Sequence[str]) -> list[tuple[str, int]]:
    return sorted(((one, statuses.count(one)) for one in {*statuses}), key=lambda pair: (-pair[1], pair[0]))


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
