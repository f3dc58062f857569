"""An interrupted run goes on in its own directory, bit for bit."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from vaelab.errors import SettingError
from vaelab.experiments.assembly import Parts, assemble, build_trainer, check_engine
from vaelab.experiments.check import stored_config
from vaelab.experiments.environment import torch_record
from vaelab.experiments.parent import Parent
from vaelab.experiments.ranks import is_main_process
from vaelab.experiments.screen import heading
from vaelab.experiments.train import PER_IMAGE, Result, as_rank, carry_out, data_record, prepare_process
from vaelab.runs import (
    MetricsWriter,
    RunDirectory,
    Secrets,
    Status,
    complete_manifest,
    drift,
    read_config,
    read_status,
    recorded_data,
)
from vaelab.runs.drift import Drift
from vaelab.runs.environment import intra_op
from vaelab.runs.frames import Frames
from vaelab.runs.identity import is_recorded
from vaelab.runs.lock import held
from vaelab.runs.manifest import whole_manifest
from vaelab.runs.status import is_live, seconds_since, utc_now
from vaelab.runs.worktree import is_here
from vaelab.training import Callback, Report, Trainer
from vaelab.training.checkpoints import Found, file_digest, newest, reinstate
from vaelab.training.engines import Eager


def resume(
    directory: Path | str,
    data_dir: str | None = None,
    report: Report | None = None,
    callbacks: Sequence[Callback] = (),
    stack: Mapping[str, Any] | None = None,
) -> Result:
    """Continue a run that was interrupted, killed or given up, or that failed, from its newest whole checkpoint, or from its first step where there is none.

    On the same machine with the same versions, weights and every metric outside ``time/`` come out as if nothing had happened: what was logged after the checkpoint is cut off and
    logged again.

    Args:
        directory: of the run.
        data_dir: where its data lie; None = where they lay.
        report: as of :func:`vaelab.experiments.train.train`; None = whoever gave the run up is not asked again.
        callbacks: Lightning callbacks beside those that the configuration names.
        stack: how many ``members`` go on together, for the record; None = this one by itself.

    Raises:
        SettingError: the run is complete or still going, its data or its parent are not what they were, or this machine lacks what it needs; nothing was written.
        RunFailed: it did not complete this time either.
    """
    prepare_process()
    run = RunDirectory.open(directory)
    if not is_main_process():
        return _resume(run, data_dir, report, callbacks, stack)
    with held(run.path, "carried out"):
        return _resume(run, data_dir, report, callbacks, stack)


def _resume(
    run: RunDirectory,
    data_dir: str | None,
    report: Report | None,
    callbacks: Sequence[Callback],
    stack: Mapping[str, Any] | None,
) -> Result:
    config, manifest = stored_config(run), whole_manifest(run.manifest_file)
    if is_main_process():
        _refuse(run, manifest)
    find_data(config, data_dir)
    if (threads := intra_op(manifest)) is not None:
        # sums of products depend on how many threads share them
        torch.set_num_threads(threads)
    found, wrong = newest(run.checkpoints)
    parts = assemble(config, None if found is not None else recorded_parent(config, manifest))
    check_data(parts, recorded_data(run))
    if not is_recorded(read_config(run), manifest):  # as it stands there, without what later versions add
        rule = "is not the one that the run began with: its settings have another hash than manifest.json has on record"
        raise SettingError("run", run.config_file, f"{rule}; with other settings: vae-train init_from=DIR")
    trainer = build_trainer(parts)
    trainer.callbacks.extend(callbacks)  # pyright: ignore[reportAttributeAccessIssue]
    instead = _engine_that_can(parts, trainer)
    if not is_main_process():
        return as_rank(parts, trainer)
    last = None if found is None else reinstate(found)
    _cut_back(run, found)

    def begin(_: Secrets) -> None:
        changed = _changed(manifest, trainer, stack)
        for line in wrong:
            print(f"not used: {line}")
        if instead is not None:
            print(instead)
        if changed:
            print(
                f"not what it was when the run began, so that it may not come out bit for bit: {'; '.join(changed)}"
            )
        _note(run, manifest, found, wrong, changed)
        _say(parts, trainer, run, found)

    tracker = manifest["tracker"]
    return carry_out(parts, trainer, run, begin, tracker["id"] if tracker else run.name, last, report)


def _engine_that_can(parts: Parts, trainer: Trainer) -> str | None:
    """Have a run go on step by step where its engine cannot be had here: only its rounding differs. Returns what is to be said of it."""
    try:
        check_engine(parts, trainer)
    except SettingError as error:
        if error.setting != "engine":
            raise
        name, parts.module.engine = parts.module.engine.name, Eager()
        return f"engine=eager in place of {name}, which {error.rule}"
    return None


def _refuse(run: RunDirectory, manifest: Mapping[str, Any]) -> None:
    """Refuse what has ended, and what still goes on."""
    status, damage = None, None
    try:
        status = read_status(run.status_file)
    except SettingError as error:  # as a power cut may leave it; the manifest says as much of the end
        damage = error
    if (manifest["status"] if status is None else status.status) == Status.COMPLETED:
        extend = f"vae-train init_from={shlex.quote(str(run.path))}"
        raise SettingError("run", run.path, f"is complete; a new run from its weights: {extend}")
    if status is None:
        print(f"not used: {damage}")
        return
    if is_live(status):
        age = f"{seconds_since(status.updated):.0f} s"
        raise SettingError("run", run.path, f"is still going: process {status.pid}, last heard of {age} ago")


def find_data(config: dict[str, Any], data_dir: str | None) -> None:
    """Put into ``config`` where the data lie: ``data_dir`` if it is given, else where they lay, else ``DATA_DIR`` of the environment."""
    if data_dir is not None or not Path(config["paths"]["data_dir"]).is_dir():
        config["paths"]["data_dir"] = data_dir or os.environ.get("DATA_DIR", config["paths"]["data_dir"])


def recorded_parent(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> Parent | None:
    """The run whose weights this one began with; None where it began with new ones.

    Raises:
        SettingError: it is not there, or its weights are others by now.
    """
    if config.get("init_from") is None:
        return None
    parent = Parent.open(config["init_from"])
    if file_digest(parent.run.weights_file) != manifest["parent"]["weights"]:
        raise SettingError(
            "init_from", parent.run.path, "its weights are no longer those that the run began with"
        )
    return parent


def check_data(parts: Parts, data: Mapping[str, Any]) -> None:
    """Refuse other images than those that a run was trained on, of which its manifest holds ``data``."""
    recorded, here = data.get("digests") or {}, data_record(parts.data)["digests"]
    changed = [name for name in {**recorded, **here} if recorded.get(name) != here.get(name)]
    if changed:
        rule = (
            f"other data than the run was trained on: {', '.join(changed)} differ from the digests on record"
        )
        raise SettingError("paths.data_dir", parts.config["paths"]["data_dir"], rule)


def _cut_back(run: RunDirectory, found: Found | None) -> None:
    """Leave of the record what the checkpoint knows of."""
    for path in (run.metrics_file, run.fingerprint_file):
        if path.is_file():
            with MetricsWriter(path) as writer:
                writer.truncate_after(0 if found is None else found.step)
        elif found is not None:
            print(f"{path} is gone: what was logged up to step {found.step} is missing in it")
    Frames(run.frames).cut_back(0 if found is None else found.step)
    run.skipped_batch_file.unlink(missing_ok=True)
    if found is None or not found.finished:  # what was measured was measured of other weights
        shutil.rmtree((run.path / PER_IMAGE).with_suffix(""), ignore_errors=True)
        run.evaluation_file.unlink(missing_ok=True)


def _changed(manifest: dict[str, Any], trainer: Trainer, stack: Mapping[str, Any] | None = None) -> list[str]:
    """What else than data and settings moves numbers, and is no longer as recorded."""
    now = {
        **drift.as_of_now(),
        "precision": str(trainer.precision),
        "stack": stack,
        **torch_record(trainer),
    }
    rows = [
        drift.code_row(manifest, now, is_here(manifest, now["git"])),
        *drift.environment_rows(manifest, now),
        *drift.device_rows(manifest, now),
    ]
    known = (Drift.SAME, Drift.UNKNOWN)
    return [f"{row.what} {row.recorded} -> {row.here}" for row in rows if row.drift not in known]


def _note(
    run: RunDirectory, manifest: dict[str, Any], found: Found | None, wrong: list[str], changed: list[str]
) -> None:
    resumed = {
        "at": utc_now(),
        "step": 0 if found is None else found.step,
        "checkpoint": None if found is None else found.path.name,
        "not_used": wrong,
        "changed": changed,
    }
    complete_manifest(run, Status.RUNNING, resumed=[*manifest.get("resumed", []), resumed])


def _say(parts: Parts, trainer: Trainer, run: RunDirectory, found: Found | None) -> None:
    Console().print(heading(parts, trainer, run))
    if found is None:
        print("no checkpoint to go on from: from the first step", flush=True)
    elif found.finished:
        print(f"trained to its end, step {found.step}: on with the test", flush=True)
    else:
        print(f"on from step {found.step} of {parts.plan.num_steps}", flush=True)
