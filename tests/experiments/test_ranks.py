"""The processes of one run, as srun starts them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vaelab.commands import train
from vaelab.errors import RunFailed, SettingError
from vaelab.experiments import ranks
from vaelab.experiments.evaluate import evaluate
from vaelab.experiments.ranks import CHECKPOINT, RUN_DIRECTORY, announce, is_main_process, meeting
from vaelab.runs import RunDirectory, read_manifest

SMALL = ("data=digits", "logger=none", "estimator=elbo", "encoder.hidden=[8]", "decoder.hidden=[8]", "latent_dim=2", "trainer.max_steps=5",
         "trainer.enable_progress_bar=false")  # fmt: skip


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Be this one of two processes that srun has started."""
    for name in (RUN_DIRECTORY, CHECKPOINT):  # removed afterwards, whoever sets them
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def _task(number: int) -> None:
        for name, value in {"JOB_ID": 17, "STEP_ID": 0, "STEP_NUM_TASKS": 2, "PROCID": number, "LOCALID": number, "NODEID": 0}.items():  # fmt: skip
            monkeypatch.setenv(f"SLURM_{name}", str(value))

    return _task


def test_the_others_are_told_which_run_it_is(tmp_path: Path, task: Callable[[int], None]) -> None:
    task(0)
    run, checkpoint = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt"
    with meeting(tmp_path / ".slurm") as resumed:
        assert resumed is None
        assert is_main_process()
        announce(run, checkpoint, resumed=True)
        task(1)
        for name in (RUN_DIRECTORY, CHECKPOINT):
            del os.environ[name]
        assert not is_main_process()
        with meeting(tmp_path / ".slurm") as resumed:
            assert resumed is True
        assert os.environ[RUN_DIRECTORY] == str(run)
        assert os.environ[CHECKPOINT] == str(checkpoint)
    assert list((tmp_path / ".slurm").iterdir()) == [], "nobody else takes it for theirs"


@pytest.mark.parametrize(
    "error, status",
    [(SettingError("seed", -1, "is wrong"), 2), (RunFailed("interrupted", 75), 75), (ValueError("ours"), 1)],
)
def test_the_others_end_as_the_first_one_did(
    tmp_path: Path, task: Callable[[int], None], error: Exception, status: int
) -> None:
    task(0)
    with pytest.raises(type(error)), meeting(tmp_path):
        raise error
    task(1)
    with pytest.raises(RunFailed, match="the first process has no run") as raised, meeting(tmp_path):
        pass
    assert raised.value.exit_status == status


def test_nobody_waits_for_ever(
    tmp_path: Path, task: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "LONGEST", 0.1)
    task(1)
    with pytest.raises(RunFailed, match="do all nodes see this folder"), meeting(tmp_path):
        pass


@pytest.mark.parametrize(
    "started, typed, message",
    [
        (True, ("trainer=cpu",), "trainer.devices=1: with trainer.num_nodes=1 that is 1 in all, and srun has started 2 processes: one a device"),
        (True, ("trainer=ddp_cpu",), "trainer.strategy=ddp_fork: starts processes, and srun has started 2; use trainer.strategy=ddp"),
        (False, ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2"), "trainer.num_nodes=2: several nodes need one process a device, started by srun"),
    ],
)  # fmt: skip
def test_what_would_train_twice_or_wait_for_ever_is_refused(
    tmp_path: Path,
    task: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    started: bool,
    typed: tuple[str, ...],
    message: str,
) -> None:
    if started:
        task(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["vae-train", *SMALL, *typed])
    assert train.main() == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "logs" / "vae").exists()


def test_an_evaluation_is_one_process(task: Callable[[int], None]) -> None:
    task(1)
    with pytest.raises(SettingError, match="vae-evaluate takes one process"):
        evaluate({})


def test_where_slurm_is_installed_a_run_is_still_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: Any
) -> None:
    """Lightning would warn that srun is not used; in a job of one task, it would wait for other processes, or refuse the number of devices."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(
        "sys.argv", ["vae-train", *SMALL, "trainer=cpu", "trainer.devices=2", "trainer.strategy=ddp_fork"]
    )
    monkeypatch.chdir(tmp_path)
    assert train.main() == 0
    assert not [warning for warning in recwarn if "srun" in str(warning.message)]
    for name, value in {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_NAME": "x"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    (tmp_path / "hpc_ckpt_1.ckpt").write_text("of another training of Lightning's, who would go on from it")
    assert train.main() == 0
    records = [read_manifest(RunDirectory(path)) for path in (tmp_path / "logs" / "vae").iterdir()]
    assert [(record["status"], record["device"]["number"]) for record in records] == [("completed", 2)] * 2
