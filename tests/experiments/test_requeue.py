"""A job that Slurm starts again goes on with the run that it began."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vaelab.commands.resume import main as resume
from vaelab.commands.train import main
from vaelab.experiments.request import Request
from vaelab.experiments.requeue import carry_on
from vaelab.runs import Status, read_json, read_manifest, read_status, write_json
from vaelab.runs.directory import RunDirectory
from vaelab.runs.status import utc_now
from vaelab.sweeps.job import PLACE
from vaelab.training import OptimisationStep

SETTINGS = ("data=digits", "trainer=cpu", "encoder.hidden=[8]", "decoder.hidden=[8]", "latent_dim=2", "estimator=elbo", "logger=none", "trainer.max_steps=20",
            "trainer.enable_progress_bar=false")  # fmt: skip


def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *typed: str) -> int:
    monkeypatch.setattr("sys.argv", ["vae-train", *SETTINGS, f"paths.log_dir={tmp_path}", *typed])
    return main()


def interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out = OptimisationStep.__call__

    def stopping(self: OptimisationStep, index: Any, number: int, *arguments: Any) -> Any:
        if number == 8:
            os.kill(os.getpid(), signal.SIGUSR1)  # Slurm's warning before the end of the time
        return carry_out(self, index, number, *arguments)

    monkeypatch.setattr(OptimisationStep, "__call__", stopping)


@pytest.mark.parametrize(
    "job",
    [{"SLURM_JOB_ID": "17"}, {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "1"}],
)
def test_started_again_by_slurm_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patch:
        interrupt(patch)
        assert command(tmp_path, patch) == 75
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    if "SLURM_ARRAY_JOB_ID" in job:  # the id of the task's own job may be another one
        monkeypatch.setenv("SLURM_JOB_ID", "19")
    assert command(tmp_path, monkeypatch) == 0
    assert "started again by Slurm" in capsys.readouterr().out
    (path,) = (tmp_path / "vae").iterdir()
    run = RunDirectory(path)
    assert read_status(run.status_file).status is Status.COMPLETED
    assert [resumed["step"] for resumed in read_manifest(run)["resumed"]] == [9]
    assert command(tmp_path, monkeypatch) == 0
    assert f"{path} is complete already" in capsys.readouterr().out
    assert command(tmp_path, monkeypatch, "seed=1") == 0, "another command of the same job is another run"
    assert len(list((tmp_path / "vae").iterdir())) == 2


def test_started_again_after_it_was_given_up_it_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: Callable[..., dict[str, Any]]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    config, asked = compose(*SETTINGS, "trainer.val_check_interval=5"), Request(overrides=("seed=1",))
    first = carry_on(config, asked, lambda score, validation: validation == 2)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert carry_on(config, asked) == first
    assert read_status(first.directory / "status.json").status is Status.PRUNED


def test_another_job_begins_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert command(tmp_path, monkeypatch) == 0
    assert command(tmp_path, monkeypatch) == 0, "the same job, not started again"
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert command(tmp_path, monkeypatch) == 0
    assert len(list((tmp_path / "vae").iterdir())) == 3


def test_outside_of_slurm_nothing_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert command(tmp_path, monkeypatch) == 0
    assert not (tmp_path / ".slurm").exists()


def place(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """As a sweep tells one of its jobs."""
    told = {"folder": str(folder), "directory": "seed=0_1f3a", "swept": {"seed": 0}}
    monkeypatch.setenv(PLACE, json.dumps(told))
    return folder / "seed=0_1f3a"


def test_a_job_of_a_sweep_that_is_started_again_goes_on_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    path = place(monkeypatch, tmp_path / "s")
    with monkeypatch.context() as patch:
        interrupt(patch)
        assert command(tmp_path, patch) == 75
    assert not (tmp_path / ".slurm").exists(), "the place is note enough"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for said in ("started again by Slurm", "is complete already"):
        place(monkeypatch, tmp_path / "s")
        assert command(tmp_path, monkeypatch) == 0
        assert said in capsys.readouterr().out
    assert [one.name for one in (tmp_path / "s").iterdir()] == [path.name]
    assert [resumed["step"] for resumed in read_manifest(RunDirectory(path))["resumed"]] == [9]


def test_what_had_not_begun_makes_room_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    path = place(monkeypatch, tmp_path / "s")
    (path / "checkpoints").mkdir(parents=True)
    assert command(tmp_path, monkeypatch) == 2, "another process's, for all it knows"
    assert "exists" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    place(monkeypatch, tmp_path / "s")
    assert command(tmp_path, monkeypatch) == 0
    assert read_status(RunDirectory(path).status_file).status is Status.COMPLETED


def test_resumed_after_a_node_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On another node nobody can ask whether the process is gone: its silence is waited for. Outside of such a job the run is taken for one that goes on."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with monkeypatch.context() as patch:
        interrupt(patch)
        assert command(tmp_path, patch) == 75
    (path,) = (tmp_path / "vae").iterdir()
    run = RunDirectory(path)
    elsewhere = {**read_json(run.status_file), "status": "running", "process": "0123456789ab:1"}
    write_json(run.status_file, {**elsewhere, "updated": utc_now()})
    assert resume([str(path)]) == 2
    assert "is still going" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr("vaelab.runs.status.SILENCE", 2.0)
    write_json(run.status_file, {**elsewhere, "updated": utc_now()})
    begun = time.monotonic()
    assert resume([str(path)]) == 0
    assert time.monotonic() - begun > 1.5, "it was waited for"
    assert resume([str(path)]) == 0
    assert "is complete already" in capsys.readouterr().out
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert resume([str(path)]) == 2
