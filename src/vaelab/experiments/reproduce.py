"""A recorded run is made again, by its own code, in a process of its own, and compared with the record."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

import vaelab
from vaelab.data.own import OWN
from vaelab.errors import RunFailed, SettingError
from vaelab.experiments import rerun
from vaelab.experiments.assembly import Parts, assemble
from vaelab.experiments.check import accepted
from vaelab.experiments.resume import check_data, find_data, recorded_parent
from vaelab.experiments.train import data_record
from vaelab.runs import read_json, write_json
from vaelab.runs.drift import (
    Drift,
    Row,
    as_of_now,
    code_row,
    code_words,
    data_rows,
    device_rows,
    environment_rows,
    table,
)
from vaelab.runs.environment import intra_op, variables
from vaelab.runs.identity import is_recorded
from vaelab.runs.interruption import Interrupted, StopRequest
from vaelab.runs.record import Record
from vaelab.runs.status import utc_now
from vaelab.runs.verdict import Agreement, Verdict, judge
from vaelab.runs.worktree import HERE, Recorded, checked_out, differs, is_here, recorded_code

SCHEMA = 1  #: of reproductions.json
#: variables that speak of one machine's devices, and those that name a library to be loaded
NOT_TAKEN = re.compile(r"CUDA_VISIBLE_DEVICES|GOMP_CPU_AFFINITY|KMP_AFFINITY|OMP_PLACES|OMP_TOOL.*")
ACCELERATORS = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}
SECONDS_TO_STOP = 10.0  #: for the run, of which nothing is wanted any more, to end by itself


@dataclass(frozen=True)
class Reproduction:
    """What ``vae-reproduce`` found.

    Attributes:
        verdict: of the comparison.
        rows: what has changed since the run was recorded, and how it ran.
        kept: the run that was made; None if it is not kept.
    """

    verdict: Verdict
    rows: tuple[Row, ...]
    kept: Path | None


def reproduce(
    directory: Path | str,
    *,
    confirm: Callable[[str], bool],
    here: bool = False,
    steps: int | None = None,
    data_dir: str | None = None,
    keep: Path | None = None,
) -> Reproduction:
    """Run a recorded run again and compare it with its record.

    Its resolved configuration is carried out in a child process; of it only paths, tracker, and devices that are not here are replaced. The code is that of the record: the
    one that is here where it is the same, otherwise a worktree of the recorded commit with the recorded changes. The verdict is noted in ``reproductions.json`` of the
    run directory, of which nothing else is touched.

    Args:
        directory: of the run, wherever it lies by now, or of a W&B run.
        confirm: asked, with a question, before code is run that is not this repository's own history.
        here: take the code that is here in any case.
        steps: stop after so many optimizer steps, and compare the losses of the fingerprint until then; None = the whole run.
        data_dir: where the data lie, if not where they lay; of a file or folder of one's own its place.
        keep: the folder where the new run directory is made and kept; None = it is removed.

    Raises:
        SettingError: the record, its code, its data or its parent cannot be had.
        RunFailed: the run did not complete here.
        Interrupted: by a signal.
    """
    record = Record.open(directory)
    limit = _limit(record, steps)
    config = _config(record, data_dir)
    now = as_of_now()
    is_same = is_here(record.manifest, now["git"])
    code = None if here or is_same else recorded_code(record)
    parts = _assembled(record, config)
    if isinstance(parts, SettingError) and code is None:
        raise parts
    Console().print(table(rows := _drift(record, parts, now, is_same), str(record.path)))
    if isinstance(parts, Parts):
        check_data(parts, record.manifest["data"])
    reasons = [] if code is None else _reasons(code, parts)
    if reasons and not confirm(_question(record, reasons)):
        raise SettingError("code", code_words(record.manifest), f"was not agreed to; {HERE}")
    with ExitStack() as stack:
        stop = StopRequest()
        stack.enter_context(stop.watching())
        temporary = Path(stack.enter_context(TemporaryDirectory(prefix="vae-reproduce-")))
        source = Path(vaelab.__file__).resolve().parents[1]
        if code is not None:
            source = stack.enter_context(checked_out(code, temporary / "code"))
            if differs(source, record.manifest):
                print(
                    "commit, patch and archive do not give the code that ran: the record lacks a part of it, "
                    f"see code.left_out of {record.path / 'manifest.json'}"
                )
        folder = temporary / "run" if keep is None else keep
        name = _free_name(folder, record)
        config["paths"]["log_dir"] = str(folder)
        status = _carry_out(record, config, source, temporary, folder, name, limit)
        verdict, again = _judge(record, folder / name, limit, status)
        how = device_rows(record.manifest, again.manifest)
    Console().print(table(how, "how it ran"))
    rows += how
    kept = None if keep is None else folder / name
    reproduction = Reproduction(verdict, tuple(rows), kept)
    _note(record, reproduction, limit, "here" if code is None else code.commit)
    return reproduction


def _limit(record: Record, steps: int | None) -> int | None:
    """The step up to which the fingerprint is compared; None = everything."""
    if not record.fingerprint:
        raise SettingError("run", record.path, "has no fingerprint on record: there is nothing to compare")
    last = max(record.fingerprint)
    if steps is None and record.is_complete:
        return None
    if steps is None:
        print(
            f"the run is {record.manifest['status']} on record: compared up to step {last} of its fingerprint"
        )
        return last
    return min(steps, last)


def _config(record: Record, data_dir: str | None) -> dict[str, Any]:
    """The recorded configuration, for this machine."""
    config = copy.deepcopy(record.config)
    for group in ("data", "trainer", "paths"):
        if not isinstance(config.get(group), dict):
            raise SettingError("run", record.path, f"has no settings of {group}")
    data = config["data"]
    if data["name"] in OWN and data_dir is not None:
        inside = Path(data_dir) / Path(data["path"]).name
        data["path"] = str(inside if inside.exists() else data_dir)
    elif data["name"] not in OWN:
        find_data(config, data_dir)
    config["logger"] = {"name": "none"}
    config["trainer"]["enable_progress_bar"] = True
    _settle_devices(config["trainer"], record.manifest["device"])
    if config.get("init_from") is not None:
        config["init_from"] = str(_parent_place(config["init_from"], record))
    return config


def _settle_devices(trainer: dict[str, Any], device: Mapping[str, Any]) -> None:
    """The recorded kind of device, as many of them as there are here; a processor where there are none.

    ``accelerator=auto`` may have meant another one there.
    """
    kind, number = device["kind"], device.get("number", 1)
    there = {"cpu": number, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    trainer["num_nodes"] = 1
    if there.get(kind):
        trainer |= {"accelerator": ACCELERATORS[kind], "devices": min(number, there[kind])}
    else:
        trainer |= {"accelerator": "cpu", "devices": 1, "strategy": "auto"}


def _parent_place(directory: str, record: Record) -> Path:
    """Where the run that this one started from lies: where it lay, or in the folder of logs that this one lies in. Its digest says whether it is that one."""
    place = Path(directory)
    above = record.path.resolve().parents
    candidates = [place, above[0] / place.name]
    if len(above) > 1:
        candidates.append(above[1] / place.parent.name / place.name)
    return next((path for path in candidates if path.is_dir()), place)


def _assembled(record: Record, config: dict[str, Any]) -> Parts | SettingError:
    """The run as the code here would carry it out; or why it would not."""
    parent = recorded_parent(config, record.manifest)
    try:
        return assemble(accepted(copy.deepcopy(config), "run", record.path), parent)
    except SettingError as error:
        return error


def _drift(record: Record, parts: Parts | SettingError, now: Mapping[str, Any], is_same: bool) -> list[Row]:
    rows = [code_row(record.manifest, now, is_same), *environment_rows(record.manifest, now)]
    if not is_recorded(record.config, record.manifest):
        rows.append(Row("settings", "those of its hash", "config.yaml was changed", Drift.DIFFERENT))
    data = record.manifest["data"]
    if isinstance(parts, SettingError):
        return [*rows, Row("data", data["actual"], "not read by the code here", Drift.UNKNOWN)]
    return rows + data_rows(data, data_record(parts.data))


def _reasons(code: Recorded, parts: Parts | SettingError) -> list[str]:
    """Why a person is asked before the recorded code is run: earlier code may build what today's refuses."""
    reasons = [] if code.foreign is None else [code.foreign]
    return reasons + ([f"has settings that the code here does not take ({parts})"] if isinstance(parts, SettingError) else [])  # fmt: skip


def _question(record: Record, reasons: Sequence[str]) -> str:
    return f"The code of {record.path} ({code_words(record.manifest)}) {', and '.join(reasons)}. It would be run with your rights. Run it?"


def _free_name(folder: Path, record: Record) -> str:
    """The name of the recorded run, with a number where it is taken."""
    name = record.run.name if record.run is not None else record.path.resolve().parent.name
    names = [name, *(f"{name}_{i}" for i in range(2, 10_000))]
    return next(name for name in names if not (folder / name).exists())


def _carry_out(
    record: Record,
    config: dict[str, Any],
    source: Path,
    temporary: Path,
    folder: Path,
    name: str,
    steps: int | None,
) -> int:
    """Run the child to its end. Returns its exit status."""
    data = record.manifest["data"]
    job = {
        "source": str(source),
        "config": config,
        "threads": intra_op(record.manifest),
        "steps": steps,
        "folder": str(folder),
        "name": name,
        "requested_data": data["requested"] if data.get("fallback_reason") else None,
        "fallback_reason": data.get("fallback_reason"),
    }
    return carry_out(job, temporary, environment(record.manifest, source))


def carry_out(job: Mapping[str, Any], folder: Path, variables: Mapping[str, str], screen: Path | None = None) -> int:  # fmt: skip
    """Run ``experiments/rerun.py`` in a child process to its end, or until this process is told to stop.

    Args:
        job: what it is to do; see :func:`vaelab.experiments.rerun.main`.
        folder: where the job is written down.
        variables: its environment.
        screen: the file that takes what it says; None = it is seen.

    Returns:
        its exit status.
    """
    job_file = folder / "job.json"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    with ExitStack() as stack:
        said = None if screen is None else stack.enter_context(screen.open("wb"))
        # a session of its own: of two that a terminal's Ctrl-C reaches, one would not know what the other does
        child = subprocess.Popen(
            [sys.executable, rerun.__file__, str(job_file)],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            return child.wait()
        except BaseException as error:
            child.send_signal(error.signum if isinstance(error, Interrupted) else signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(SECONDS_TO_STOP)
            raise
        finally:
            if child.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def environment(manifest: Mapping[str, Any], source: Path) -> dict[str, str]:
    """The variables of the child: those here, but for those that change numbers, which are the recorded ones; and the package from ``source``."""
    found = dict(os.environ)
    recorded = manifest.get("variables")
    if recorded is not None:
        for name in variables(found):
            if not NOT_TAKEN.fullmatch(name):
                del found[name]
        taken = variables({str(name): str(value) for name, value in recorded.items()})
        found |= {name: value for name, value in taken.items() if not NOT_TAKEN.fullmatch(name) and re.fullmatch(r"[\w.,:;+-]*", value)}  # fmt: skip
    paths = [str(source), *filter(None, [os.environ.get("PYTHONPATH")])]
    return found | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


def _judge(record: Record, path: Path, limit: int | None, status: int) -> tuple[Verdict, Record]:
    """The verdict; of a run that failed here, if its losses say why.

    Raises:
        RunFailed: it failed otherwise.
    """
    if status not in (0, 1) or not (path / "manifest.json").is_file():
        raise RunFailed(f"the run was not made again: exit status {status}", status if status > 0 else 1)
    again = Record.open(path)
    if status == 0:
        return judge(record, again, limit), again
    reached = max(again.fingerprint, default=0)
    if reached >= min(record.fingerprint):
        verdict = judge(record, again, reached if limit is None else min(reached, limit))
        if verdict.agreement is Agreement.DIVERGED or (limit is not None and reached >= limit):
            return verdict, again
    raise RunFailed(f"the run failed here; its losses agree as far as it came, step {reached}")


def _note(record: Record, found: Reproduction, steps: int | None, code: str) -> None:
    """Add the verdict to ``reproductions.json`` beside the record; a tracker's files are the tracker's."""
    if record.run is None:
        return
    path, verdict = record.path / "reproductions.json", found.verdict
    try:
        earlier = read_json(path)["reproductions"] if path.is_file() else []
        entry = {
            "at": utc_now(),
            "verdict": str(verdict),
            "agreement": verdict.agreement.value,
            "steps": steps,
            "code": code,
            "compared": list(verdict.compared),
            "not_compared": list(verdict.not_compared),
            "last_step": verdict.last,
            "first_step": verdict.first,
            "largest_relative_difference_of_losses": verdict.largest,
            "changed": [
                vars(row) | {"drift": row.drift.value} for row in found.rows if row.drift is not Drift.SAME
            ],
            "kept": None if found.kept is None else str(found.kept),
        }
        write_json(path, {"schema": SCHEMA, "reproductions": [*earlier, entry]})
    except (OSError, KeyError, TypeError, SettingError) as error:  # the verdict holds all the same
        print(f"not noted in {path}: {error}")
