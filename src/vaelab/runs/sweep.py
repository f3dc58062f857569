"""The folder of a sweep: which runs it was to have, how each stands, and which of them differ in their seed alone.

Everything is read from the run directories. ``sweep.json`` adds what has no run directory: what still waits, what was refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaelab.errors import SettingError
from vaelab.runs.files import read_json
from vaelab.runs.identity import canonical, config_hash, counts
from vaelab.runs.status import Status
from vaelab.runs.table import DEAD, Row, flatten

FILE = "sweep.json"
SCHEMA = 1
#: the folder in logs/ that holds the folders of sweeps
HOME = "sweeps"
SEED = "seed"
LARGEST = 1e300
#: of a job without a run directory, where nothing says that it waits or was refused
MISSING = "missing"


@dataclass(frozen=True)
class Job:
    """One run of a sweep, there or not.

    Attributes:
        name: of its run directory; empty where none is known.
        row: the run; None without a run directory.
        status: of the run; without one ``waiting``, ``refused``, ... or ``missing``.
        seed: None where it is not known.
        swept: what the sweep set, key -> value.
        error: the cause of a failure, one line.
        attempts: run directories that this job has had, this one included. Of several, one that completed counts, else the last.
    """

    name: str
    row: Row | None
    status: str
    seed: int | None
    swept: Mapping[str, Any]
    error: str | None = None
    attempts: int = 1

    @property
    def is_complete(self) -> bool:
        return self.status == Status.COMPLETED.value


@dataclass(frozen=True)
class Configuration:
    """Jobs that differ in their seed alone.

    Attributes:
        id: eight hexadecimal digits of the hash of all settings that can change a number, without the seed.
        settings: key -> value, of the keys by which the sweep's configurations differ; None where a job says nothing about it.
        jobs: in the order of their seeds.
    """

    id: str
    settings: Mapping[str, Any]
    jobs: tuple[Job, ...]

    @property
    def complete(self) -> tuple[Job, ...]:
        return tuple(job for job in self.jobs if job.is_complete)


@dataclass(frozen=True)
class Sweep:
    """What a folder holds.

    Attributes:
        name: of the sweep.
        folder: where it lies.
        swept: every key that the sweep set, the seed included.
        keys: those by which configurations differ, without the seed; and further settings, where those tell two configurations apart.
        shared: the overrides that all runs were given.
        configurations: in the order of their settings.
        unreadable: runs of which neither the configuration nor what was swept can be read.
        damage: what could not be read beside the runs.
    """

    name: str
    folder: Path
    swept: tuple[str, ...]
    keys: tuple[str, ...]
    shared: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    unreadable: tuple[Row, ...]
    damage: tuple[str, ...]

    @property
    def jobs(self) -> list[Job]:
        return [job for configuration in self.configurations for job in configuration.jobs]


def is_sweep(folder: Path, rows: Sequence[Row]) -> bool:
    """Whether ``folder``, in which ``rows`` were found, is that of a sweep: it has ``sweep.json``, or its runs say that they belong to one. Sweeps of
    versions before that are known by where they lie, in a folder called ``sweeps``.
    """
    if (folder / FILE).is_file():
        return True
    inside = bool(rows) and all(row.path.parent.resolve() == folder.resolve() for row in rows)
    return inside and (any(row.sweep for row in rows) or folder.resolve().parent.name == HOME)


def read(folder: Path, rows: Sequence[Row]) -> Sweep:
    """The sweep in ``folder``, of which ``rows`` are all runs."""
    damage: list[str] = []
    record = _record(folder, damage)
    typed = {id(row): _typed(row) for row in rows}
    recorded = [row.sweep for row in rows if row.sweep]
    swept = list(dict.fromkeys(k for one in [*recorded, *record["jobs"]] for k in _swept(one)))
    if not swept:
        swept = _differing([typed[id(row)] for row in rows])
    jobs: list[Job] = []
    waiting = {job["id"]: job for job in record["jobs"]}
    for found in _attempts(rows):
        row = found[0]
        known = waiting.pop(_identity(row) or "", {})
        of_row = _swept(row.sweep or {}) or _swept(known)
        of_row = of_row or {key: typed[id(row)][key] for key in swept if key in typed[id(row)]}
        jobs.append(_job(row, of_row, known, len(found)))
    for entry in waiting.values():
        status = str(entry.get("status"))
        status = MISSING if status in (Status.COMPLETED.value, Status.PRUNED.value) else status
        values, error = _swept(entry), entry.get("error")
        name, seed = str(entry.get("run") or entry.get("name") or ""), _integer(values.get(SEED))
        jobs.append(Job(name, None, status, seed, values, None if error is None else str(error)))

    groups = _groups([job for job in jobs if job.swept or _config(job)])
    if not record["jobs"] and SEED in swept:
        groups = _with_missing(groups)
    keys, settings = _settings(groups, [key for key in swept if key != SEED], typed)
    configurations = [
        Configuration(name, values, tuple(sorted(group, key=_by_seed)))
        for (name, group), values in zip(groups.items(), settings)
    ]
    configurations.sort(key=lambda one: [order(value) for value in one.settings.values()])
    overrides = [row.overrides for row in rows if row.overrides]
    shared = [text for text in overrides[0] if all(text in own for own in overrides)] if overrides else []
    name = next((str(one["name"]) for one in [record, *recorded] if one.get("name")), folder.resolve().name)
    return Sweep(
        name, folder, tuple(swept), tuple(keys), tuple(shared), tuple(configurations),
        tuple(job.row for job in jobs if job.row is not None and not (job.swept or _config(job))), tuple(damage),
    )  # fmt: skip


def order(value: Any) -> tuple[int, float, str]:
    """Sorts settings: numbers by size, before text; what is not set comes first."""
    if value is None:
        return (0, 0.0, "")
    if is_number(value):
        return (1, float(value), "")
    return (2, 0.0, value if isinstance(value, str) else canonical(value))


def is_number(value: Any) -> bool:
    """Whether a value has a place on an axis."""
    return isinstance(value, int | float) and type(value) is not bool and abs(value) < LARGEST


def _record(folder: Path, damage: list[str]) -> dict[str, Any]:
    """``sweep.json``, as far as it can be read."""
    if not (folder / FILE).is_file():
        return {"jobs": []}
    try:
        content = read_json(folder / FILE)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise SettingError("DIR", folder / FILE, f"is no record of a sweep of schema {SCHEMA}")
        jobs = content.get("jobs")
        entries = [job for job in jobs if isinstance(job, dict)] if isinstance(jobs, list) else []
        return {**content, "jobs": [job for job in entries if isinstance(job.get("id"), str)]}
    except SettingError as error:
        damage.append(f"{FILE} {error.rule}")
        return {"jobs": []}


def _swept(record: Mapping[str, Any]) -> dict[str, Any]:
    values = record.get("swept")
    return {key: _parsed(value) for key, value in values.items()} if isinstance(values, dict) else {}


def _typed(row: Row) -> dict[str, Any]:
    """Key -> value of what was typed, without what changes no number."""
    pairs = (text.lstrip("+~").partition("=") for text in row.overrides)
    return {key: _parsed(value) for key, _, value in pairs if counts(key)}


def _parsed(value: Any) -> Any:
    """A value as typed: numbers, booleans, null and lists are no text.

    >>> [_parsed(text) for text in ("8", "1e-3", "true", "conv", "[1, 2]")]
    [8, 0.001, True, 'conv', [1, 2]]
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=str)
    except (ValueError, RecursionError):
        return value


def _differing(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that not all records have with one value, in the order of their appearance."""
    names = dict.fromkeys(key for record in records for key in record)
    return [key for key in names if len({_text(record.get(key)) for record in records}) > 1]


def _text(value: Any) -> str:
    return canonical(value)


def _attempts(rows: Sequence[Row]) -> list[list[Row]]:
    """The run directories of each job, the one that counts first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(_identity(row) or f"unknown {row.path}", []).append(row)
    for attempts in found.values():
        attempts.sort(
            key=lambda row: (row.status == Status.COMPLETED.value, row.created or 0.0, row.name),
            reverse=True,
        )
    return list(found.values())


def _identity(row: Row) -> str | None:
    if row.identity is not None or not row.config:
        return row.identity
    return config_hash(row.config, row.parent_weights)["sha256"]


def _config(job: Job) -> dict[str, Any]:
    """The settings of a job's run without its seed; empty where they are not known."""
    config = {} if job.row is None else job.row.config
    return {key: value for key, value in config.items() if key != SEED}


def _job(row: Row, swept: Mapping[str, Any], known: Mapping[str, Any], attempts: int) -> Job:
    seed = _integer(row.config.get(SEED) if row.seed is None else row.seed)
    status, error = row.status, row.error
    if status == DEAD and known.get("status") in (Status.FAILED.value, Status.INTERRUPTED.value):
        status, error = (
            str(known["status"]),
            known.get("error"),
        )  # whoever waited for the process knows how it ended
    return Job(
        row.name, row, status, _integer(swept.get(SEED)) if seed is None else seed, swept,
        None if error is None else str(error), attempts,
    )  # fmt: skip


def _integer(value: Any) -> int | None:
    return value if type(value) is int else None


def _groups(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """Jobs that differ in their seed alone. Of one whose configuration is not known, what was swept is compared."""
    groups: dict[str, list[Job]] = {}
    known: dict[str, set[str]] = {}
    for job in jobs:
        if job.row is not None and (config := _config(job)):
            key = config_hash(config, job.row.parent_weights)["sha256"][:8]
            groups.setdefault(key, []).append(job)
            known.setdefault(_seedless(job), set()).add(key)
    for job in jobs:
        if not _config(job):
            homes = known.get(_seedless(job), set())
            own = config_hash({"swept": _seedless(job)})["sha256"][:8]
            groups.setdefault(next(iter(homes)) if len(homes) == 1 else own, []).append(job)
    return groups


def _seedless(job: Job) -> str:
    return canonical({key: value for key, value in job.swept.items() if key != SEED})


def _with_missing(groups: Mapping[str, list[Job]]) -> dict[str, list[Job]]:
    """Without ``sweep.json``: a grid has each configuration with each seed."""
    seeds = {job.seed for group in groups.values() for job in group if job.seed is not None}
    found = {}
    for key, group in groups.items():
        lacking = seeds - {job.seed for job in group}
        swept = group[0].swept
        found[key] = group + [Job("", None, MISSING, seed, {**swept, SEED: seed}) for seed in lacking]
    return found


def _by_seed(job: Job) -> tuple[bool, int, str]:
    return job.seed is None, job.seed or 0, job.name


def _settings(
    groups: Mapping[str, list[Job]], swept: Sequence[str], typed: Mapping[int, Mapping[str, Any]]
) -> tuple[list[str], list[dict[str, Any]]]:
    """The keys that tell configurations apart, and each one's values."""
    places: list[list[Mapping[str, Any]]] = []
    for group in groups.values():
        rows = [job.row for job in group if job.row is not None]
        config = next((flatten(row.config) for row in rows if row.config), {})
        places.append([*(job.swept for job in group), *(typed[id(row)] for row in rows), config])

    def values(key: str) -> list[Any]:
        return [next((place[key] for place in of_one if key in place), None) for of_one in places]

    keys = [key for key in swept if len({_text(value) for value in values(key)}) > 1]
    words = _differing(list(typed.values()))
    config = _differing([of_one[-1] for of_one in places if of_one[-1]])
    told = list(zip(*(map(_text, values(key)) for key in keys))) if keys else [()] * len(places)
    for key in [*words, *(key for key in config if counts(key))]:
        finer = [(*own, _text(value)) for own, value in zip(told, values(key))]
        if key != SEED and len({*finer}) > len({*told}):
            keys.append(key)
            told = finer
    columns = {key: values(key) for key in keys}
    return keys, [{key: columns[key][i] for key in keys} for i in range(len(places))]
