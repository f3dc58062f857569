"""A job that Slurm starts again goes on with the run that it began."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vaelab.commands.train import main
from vaelab.experiments.request import Request
from vaelab.experiments.requeue import carry_on
from vaelab.runs import Status, read_manifest, read_status
from vaelab.runs.directory import RunDirectory
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
