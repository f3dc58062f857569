"""How a run was asked for. Imports no torch: it is made before that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """How a run was asked for, for its record.

    Attributes:
        argv: the command line.
        overrides: what was typed, without Hydra's own settings.
        experiment: name of the experiment file, or None.
        chosen: ``group=entry`` of the groups whose entry the experiment's file chose.
        requested_data: the data set asked for, where another one is used instead.
        fallback_reason: why, in a sentence.
        parent: folder of the run directory, where it is not ``<log_dir>/<name>``.
        note: a file that is to name the run directory, once it is there.
        defaults: the configuration of the command with nothing typed, resolved; None = not known.
        directory: name of the run directory in it, where it is not made of the time.
        sweep: the sweep that the run is a job of, for its manifest: its ``name``, and ``swept``, this job's value of each key that is swept over; None = a
            run by itself.
        stack: the runs that it is trained together with, for its manifest: ``id`` of the stack, number of ``members``, and which ``member`` this is, from 0 on; None = none.
    """

    argv: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    experiment: str | None = None
    chosen: tuple[str, ...] = ()
    requested_data: str | None = None
    fallback_reason: str | None = None
    parent: Path | None = None
    directory: str | None = None
    sweep: dict[str, Any] | None = None
    note: Path | None = None
    defaults: dict[str, Any] | None = None
    stack: dict[str, Any] | None = None
