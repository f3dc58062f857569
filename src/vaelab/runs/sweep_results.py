"""``results.csv`` and ``configurations.csv`` of a sweep, for a spreadsheet or pandas: a row a run, and a row a configuration."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaelab.runs.cards import Card, measurement, typed
from vaelab.runs.files import write_atomically
from vaelab.runs.identity import canonical
from vaelab.runs.selection import apart, distinction
from vaelab.runs.sweep import SEED, Job, Sweep
from vaelab.runs.sweep_table import Block

RUNS, CONFIGURATIONS = "results.csv", "configurations.csv"


def write(sweep: Sweep, blocks: Sequence[Block]) -> tuple[Path, Path]:
    """Write both files into the folder of the sweep, each whole or not at all, and return their paths. Raises OSError."""
    written = sweep.folder / RUNS, sweep.folder / CONFIGURATIONS
    for path, rows in zip(written, (runs(sweep), configurations(sweep, blocks))):
        write_atomically(path, _text(rows))
    return written


def runs(sweep: Sweep) -> list[dict[str, Any]]:
    """A row for each run of the sweep, also those that failed or are not there.

    ``configuration`` is shared by runs that differ in their seed alone. The numbers of cards are called ``test/elbo``, with ``test/elbo_se_images`` beside it; where
    runs hold numbers of one name that cannot be compared, each measurement has a column of its own, called by what sets it apart.
    """
    names = _names([card for job in sweep.jobs for card in _cards(job)])
    found = []
    for configuration in sweep.configurations:
        for job in configuration.jobs:
            row = job.row
            cards = {_kind(card): card for card in _cards(job)}
            numbers: dict[str, float | None] = {}
            for kind, name in names.items():
                card = cards.get(kind)
                numbers[name] = None if card is None else card.value
                numbers[f"{name}_se_images"] = None if card is None else card.se_images
            found.append(
                {
                    "run": job.name,
                    "configuration": configuration.id,
                    **{key: job.swept.get(key) for key in sweep.swept if key != SEED},
                    **configuration.settings,
                    SEED: job.seed,
                    "status": job.status,
                    "error": job.error,
                    "attempts": job.attempts,
                    "seconds": None if row is None else row.seconds,
                    "score_name": None if row is None else row.score_name,
                    "score": None if row is None else row.score,
                    **numbers,
                }
            )
    return found


def configurations(sweep: Sweep, blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """A row for each line of the table. ``block`` counts the sets of numbers that can be compared: a configuration has a row in each that it stands in, and an
    empty ``block`` where it has no number; ``rank`` is within the block, empty where nothing orders it.
    """
    there = {line.configuration.id for block in blocks for line in block.lines}
    names = list(dict.fromkeys(column.name for block in blocks for column in block.columns))
    found = []
    for number, block in enumerate(blocks, start=1):
        for rank, line in enumerate(block.lines, start=1):
            means = {column.name: mean for column, mean in zip(block.columns, line.numbers)}
            ordered = block.mode is not None and line.numbers[0] is not None
            found.append((line.configuration, number, rank if ordered else None, means))
    found += [(one, None, None, {}) for one in sweep.configurations if one.id not in there]
    rows = []
    for configuration, number, rank, means in found:
        row = {
            "configuration": configuration.id,
            "block": number,
            "rank": rank,
            **configuration.settings,
            "num_runs": len(configuration.jobs),
            "num_complete": len(configuration.complete),
        }
        for name in names:
            mean = means.get(name)
            key = name.replace(" ", "/", 1) if name.startswith(("test ", "val ")) else name
            row |= {
                f"{key}_mean": None if mean is None else mean.value,
                f"{key}_se": None if mean is None else mean.se,
            }
        rows.append(row)
    return rows


def _cards(job: Job) -> Sequence[Card]:
    return () if job.row is None else job.row.cards


def _kind(card: Card) -> str:
    """One text for all cards that can be compared."""
    return canonical(measurement(card))


def _names(cards: Sequence[Card]) -> dict[str, str]:
    """What the column of each measurement is called."""
    of_name: dict[str, dict[str, Card]] = {}
    for card in cards:
        of_name.setdefault(f"{card.split}/{card.metric}", {}).setdefault(_kind(card), card)
    named = {}
    for name, kinds in of_name.items():
        own = apart([measurement(card) for card in kinds.values()])[1]
        fields = list(dict.fromkeys(field for one in own for field in one))
        for kind, one in zip(kinds, own):
            named[kind] = f"{name} ({distinction(one, fields)})" if len(kinds) > 1 else name
    return named


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else typed(value)
