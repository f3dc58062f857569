"""A run that is stopped and resumed comes out as one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaelab.errors import RunFailed, SettingError
from vaelab.experiments.resume import resume
from vaelab.experiments.train import train
from vaelab.runs import (
    MetricsWriter,
    RunDirectory,
    Status,
    read_manifest,
    read_status,
    read_yaml,
    write_status,
    write_yaml,
)
from vaelab.runs.equality import differences
from vaelab.runs.identity import config_hash
from vaelab.runs.lock import held
from vaelab.runs.metrics import read
from vaelab.training import OptimisationStep, VAEModule, read_checkpoint
from vaelab.training.checkpoints import AtomicCheckpointIO

Compose = Callable[..., dict[str, Any]]
STEPS = 30
#: 10 steps an epoch; everything with a state: schedules, dynamic binarisation, importance weights, averages, accumulated parts
SETTINGS = (
    "data=digits", "data.batch_size=60", "data.binarize=dynamic", "latent_dim=2", "trainer=cpu", "encoder.hidden=[16]", "decoder.hidden=[16]",
    "trainer.enable_progress_bar=false", "trainer.max_epochs=3", "trainer.log_every_n_steps=7", "estimator.num_samples=10", "estimator.repetitions=2",
    "objective=iwae", "objective.num_samples=3", "optimizer.ema_decay=0.9", "optimizer.accumulate=2", "optimizer.schedule=cosine",
    "schedule=linear", "schedule.warmup_epochs=2", "callbacks=early_stopping", "callbacks.early_stopping.patience=50",
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return RunDirectory(train(composed(tmp_path_factory.mktemp("logs"))).directory)


def composed(logs: Path, *overrides: str) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(Path(__file__).resolve().parents[2] / "configs"), version_base="1.3"):
        cfg = compose("train", overrides=[*SETTINGS, "logger=none", f"paths.log_dir={logs}", *overrides])
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return config


def stopped_at(step: int, signum: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal arrives within an optimizer step, which is the ``step``-th."""
    carry_out = OptimisationStep.__call__

    def stopping(self: OptimisationStep, index: Any, number: int, *arguments: Any) -> Any:
        if number + 1 == step:
            os.kill(os.getpid(), signum)
        return carry_out(self, index, number, *arguments)

    monkeypatch.setattr(OptimisationStep, "__call__", stopping)


def interrupted(config: dict[str, Any], exit_status: int = 75) -> RunDirectory:
    with pytest.raises(RunFailed) as caught:
        train(config)
    assert caught.value.exit_status == exit_status
    (path,) = (Path(config["paths"]["log_dir"]) / "vae").iterdir()
    run = RunDirectory(path)
    assert read_status(run.status_file).status is Status.INTERRUPTED
    assert f"vae-resume {path}" in str(caught.value)
    return run


def same(a: RunDirectory, b: RunDirectory, epochs: int = STEPS // 10) -> None:
    found = differences(a, b)
    assert not found, "\n".join(map(str, found))
    assert len(read(a.metrics_file)) == len(read(b.metrics_file))
    frames = [{path.name: path.read_bytes() for path in (run.path / "frames").iterdir()} for run in (a, b)]
    assert frames[0] == frames[1]
    assert len(frames[0]) == 1 + epochs, "before the first step, and after each epoch"
    assert (a.figures / "samples.gif").read_bytes() == (b.figures / "samples.gif").read_bytes()
    for name in ("per_image.npz",):
        with np.load(a.path / name) as left, np.load(b.path / name) as right:
            assert set(left.files) == set(right.files)
            assert all(np.array_equal(left[key], right[key]) for key in left.files)
    for name in ("last.ckpt", "best.ckpt"):
        left, right = (read_checkpoint(run.checkpoints / name) for run in (a, b))
        assert_equal(left, right, name)


def assert_equal(a: Any, b: Any, where: str) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            if key != "paths":
                assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_equal(left, right, f"{where}[{i}]")
    else:
        assert a == b, where


FAST = (1, 9, 10, 14, 20, 29, 30)


@pytest.mark.parametrize(
    "step", [pytest.param(k, marks=[] if k in FAST else pytest.mark.slow) for k in range(1, STEPS + 1)]
)
def test_stopped_after_any_step(
    undisturbed: RunDirectory, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopped_at(step, signal.SIGTERM, patch)
        run = interrupted(composed(tmp_path))
    assert read_checkpoint(run.last_checkpoint)["global_step"] == step
    assert resume(run.path).directory == run.path
    assert read_status(run.status_file).status is Status.COMPLETED
    same(undisturbed, run)


@pytest.mark.parametrize(
    "signum, exit_status", [(signal.SIGINT, 130), (signal.SIGUSR1, 75), (signal.SIGHUP, 75)]
)
def test_whoever_asks_the_run_stops_after_the_step(
    tmp_path: Path, signum: int, exit_status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signum)
    if before is signal.SIG_IGN:  # the tests themselves may have been started to outlive a terminal
        before = signal.SIG_DFL
        signal.signal(signum, before)
    stopped_at(14, signum, monkeypatch)
    run = interrupted(composed(tmp_path), exit_status)
    assert read_checkpoint(run.last_checkpoint)["global_step"] == 14
    assert signal.getsignal(signum) == before
    assert read_status(run.status_file).exit_status == exit_status


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out = OptimisationStep.__call__

    def impatient(self: OptimisationStep, index: Any, number: int, *arguments: Any) -> Any:
        if number == 13:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return carry_out(self, index, number, *arguments)

    monkeypatch.setattr(OptimisationStep, "__call__", impatient)
    with pytest.raises(RunFailed, match="interrupted by Ctrl-C") as caught:
        train(composed(tmp_path))
    assert caught.value.exit_status == 130
    (path,) = (tmp_path / "vae").iterdir()
    assert read_checkpoint(path / "checkpoints" / "last.ckpt")["global_step"] == 10, (
        "half a step is no place to go on from"
    )


#: (what is running when the signal comes, the step that the run then stands at)
MOMENTS = [
    ("vaelab.training.module.VAEModule.validation_step", 10),
    ("vaelab.training.checkpoints.AtomicCheckpointIO.save_checkpoint", 20),
    ("vaelab.training.module.VAEModule.test_step", 30),
    ("vaelab.experiments.train.draw_pictures", 30),
    ("vaelab.experiments.train.make_cards", 30),
]


@pytest.mark.parametrize("moment, step", MOMENTS, ids=[name.rpartition(".")[2] for name, _ in MOMENTS])
def test_stopped_in_the_middle_of_something_else(
    undisturbed: RunDirectory, tmp_path: Path, moment: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def stopping(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        # the second epoch's last checkpoint is the fourth: two of each epoch, the best and the last one
        if calls == (4 if "save_checkpoint" in moment else 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **named)

    with monkeypatch.context() as patch:
        original = pkgutil.resolve_name(moment)
        patch.setattr(moment, stopping)
        run = interrupted(composed(tmp_path))
    assert read_checkpoint(run.last_checkpoint)["global_step"] == step
    resume(run.path)
    same(undisturbed, run)


#: what decides where checkpoints and validations lie
PLACES = {
    "between": ("checkpoints.every_n_steps=4", "trainer.val_check_interval=6"),
    "at once": ("checkpoints.every_n_steps=5", "trainer.val_check_interval=5"),
    "no validation": ("data.val_size=0", "checkpoints.every_n_steps=7", "~callbacks.early_stopping"),
    "now and then": ("trainer.check_val_every_n_epoch=2", "checkpoints.every_n_steps=10"),
    "all kept": (
        "checkpoints.keep=all",
        "trainer.max_steps=25",
        "trainer.limit_train_batches=8",
        "trainer.max_epochs=4",
    ),
    "eight at a time": ("engine.chunk_steps=8", "trainer.log_every_n_steps=3"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "step", [10, 12, pytest.param(15, marks=pytest.mark.slow), 20, pytest.param(25, marks=pytest.mark.slow)]
)
def test_wherever_validations_and_checkpoints_lie(
    tmp_path: Path, place: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RunDirectory(train(composed(tmp_path / "whole", *PLACES[place])).directory)
    with monkeypatch.context() as patch:
        stopped_at(step, signal.SIGTERM, patch)
        run = interrupted(composed(tmp_path / "stopped", *PLACES[place]))
    resume(run.path)
    found = differences(whole, run)
    assert not found, "\n".join(map(str, found))
    names = [sorted(path.name for path in r.checkpoints.iterdir()) for r in (whole, run)]
    if place != "all kept":  # where it was stopped there is one more
        assert names[0] == names[1]


@pytest.mark.parametrize("step", [3, 14, 23])
def test_killed_between_two_checkpoints(
    undisturbed: RunDirectory, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed process leaves: rows of later steps, and no word about its end."""
    carry_out = OptimisationStep.__call__

    def dying(self: OptimisationStep, index: Any, number: int, *arguments: Any) -> Any:
        if number == step:
            raise RuntimeError("killed")
        return carry_out(self, index, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(OptimisationStep, "__call__", dying)
        with pytest.raises(RunFailed, match="killed"):
            train(composed(tmp_path))
    (path,) = (tmp_path / "vae").iterdir()
    run = RunDirectory(path)
    (run.path / "per_image").mkdir()
    (run.path / "per_image" / "left.npz").write_bytes(b"of other weights")
    resume(run.path)
    same(undisturbed, run)
    (resumed,) = read_manifest(run)["resumed"]
    assert resumed["step"] == step // 10 * 10
    assert resumed["changed"] == []


def test_what_has_changed_meanwhile_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_at(14, signal.SIGTERM, monkeypatch)
    run = interrupted(composed(tmp_path))
    monkeypatch.undo()
    manifest = read_manifest(run)
    manifest["versions"]["torch"] = "1.0"
    manifest["code"]["package"]["source"] = "0" * 64
    manifest["device"]["cpu_capability"] = "ALTIVEC"
    run.manifest_file.write_text(json.dumps(manifest))
    resume(run.path)
    (resumed,) = read_manifest(run)["resumed"]
    assert [line.partition(" ")[0] for line in resumed["changed"]] == ["code", "torch", "vector"]
    assert "not what it was when the run began" in (out := capsys.readouterr().out)
    assert f"torch 1.0 -> {torch.__version__.partition('+')[0]}" in out


def test_killed_in_the_validation_that_is_due_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RunDirectory(train(composed(tmp_path / "whole", *PLACES["at once"])).directory)
    validation_step = VAEModule.validation_step

    def dying(self: VAEModule, *arguments: Any) -> None:
        if self.trainer.global_step == 15:
            raise RuntimeError("killed")
        validation_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(VAEModule, "validation_step", dying)
        with pytest.raises(RunFailed, match="killed"):
            train(composed(tmp_path / "killed", *PLACES["at once"]))
    (path,) = (tmp_path / "killed" / "vae").iterdir()
    resume(path)
    found = differences(whole, RunDirectory(path))
    assert not found, "\n".join(map(str, found))


def test_twice_in_one_run(undisturbed: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stopped_at(7, signal.SIGTERM, patch)
        run = interrupted(composed(tmp_path))
    with monkeypatch.context() as patch:
        stopped_at(18, signal.SIGTERM, patch)
        run.evaluation_file.write_text("a number of the weights at step 7")
        with pytest.raises(RunFailed):
            resume(run.path)
    assert not run.evaluation_file.exists()
    resume(run.path)
    same(undisturbed, run)
    assert [resumed["step"] for resumed in read_manifest(run)["resumed"]] == [7, 18]
    assert "on from step 18 of 30" in run.console_file.read_text()


def test_early_stopping_that_has_stopped_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training ended before its last step; the test was interrupted."""
    stops = (
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=1000.0",
        "schedule.warmup_epochs=1",
    )
    whole = RunDirectory(train(composed(tmp_path / "whole", *stops)).directory)
    assert read_checkpoint(whole.last_checkpoint)["global_step"] == 20
    test_step = VAEModule.test_step

    def stopping(self: VAEModule, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        test_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(VAEModule, "test_step", stopping)
        run = interrupted(composed(tmp_path / "stopped", *stops))
    resume(run.path)
    assert not differences(whole, run)


@pytest.fixture
def stopped(undisturbed: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of the finished run, as if it had been interrupted in its last epoch."""
    path = tmp_path / "copy"
    shutil.copytree(undisturbed.path, path)
    run = RunDirectory(path)
    write_status(run.status_file, Status.INTERRUPTED, exit_status=75)
    return run


def test_a_damaged_checkpoint_is_passed_over_aloud(
    undisturbed: RunDirectory, stopped: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(stopped.last_checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    stopped.last_checkpoint.write_bytes(bytes(content))
    resume(stopped.path)
    assert "last.ckpt: is damaged" in capsys.readouterr().out
    (resumed,) = read_manifest(stopped)["resumed"]
    assert (resumed["step"], resumed["checkpoint"]) == (30, "best.ckpt"), (
        "written at the same step, before the last one"
    )
    same(undisturbed, stopped)


def test_without_its_best_checkpoint_it_goes_back_to_where_there_was_none(
    undisturbed: RunDirectory, stopped: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped.best_checkpoint.write_bytes(b"")
    resume(stopped.path)
    out = capsys.readouterr().out
    assert "best.ckpt: is damaged" in out
    assert "no checkpoint to go on from: from the first step" in out
    same(undisturbed, stopped)


def test_settings_that_were_changed_are_refused(stopped: RunDirectory) -> None:
    text = stopped.config_file.read_text()
    assert "  lr: 0.001\n" in text
    stopped.config_file.write_text(text.replace("  lr: 0.001\n", "  lr: 0.01\n"))
    with pytest.raises(SettingError, match=r"config\.yaml: is not the one that the run began with"):
        resume(stopped.path)


def test_settings_that_a_later_version_adds_are_no_change(stopped: RunDirectory) -> None:
    config = read_yaml(stopped.config_file)
    del config["init_from_optimizer"]
    write_yaml(stopped.config_file, config)
    identity = config_hash(config)
    stopped.manifest_file.write_text(json.dumps({**read_manifest(stopped), "identity": identity}))
    resume(stopped.path)


@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_a_status_that_is_lost_stops_nobody(
    undisturbed: RunDirectory,
    stopped: RunDirectory,
    content: bytes | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = read_manifest(stopped)
    stopped.manifest_file.write_text(json.dumps({**manifest, "status": "interrupted"}))
    stopped.status_file.unlink()
    if content is not None:
        stopped.status_file.write_bytes(content)
    resume(stopped.path)
    assert "not used: run=" in capsys.readouterr().out
    same(undisturbed, stopped)
    stopped.status_file.unlink()
    with pytest.raises(SettingError, match="is complete"):
        resume(stopped.path)


def test_metrics_that_are_lost_are_missed_aloud(
    stopped: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped.metrics_file.unlink()
    resume(stopped.path)
    assert "metrics.csv is gone: what was logged up to step" in capsys.readouterr().out


def test_who_was_started_to_outlive_the_terminal_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        stopped_at(14, signal.SIGHUP, monkeypatch)
        assert (
            read_status(RunDirectory(train(composed(tmp_path)).directory).status_file).status
            is Status.COMPLETED
        )
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_at_once(stopped: RunDirectory) -> None:
    with held(stopped.path), pytest.raises(SettingError, match="is being carried out by another process"):
        resume(stopped.path)
    assert read_status(stopped.status_file).status is Status.INTERRUPTED


def test_what_is_logged_is_on_the_disk_before_the_checkpoint_that_knows_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    flush, save = MetricsWriter.flush, AtomicCheckpointIO.save_checkpoint

    def flushed(self: MetricsWriter) -> None:
        flush(self)
        events.append(self.path.name)

    def saved(self: AtomicCheckpointIO, *arguments: Any, **named: Any) -> None:
        events.append("checkpoint")
        save(self, *arguments, **named)

    monkeypatch.setattr(MetricsWriter, "flush", flushed)
    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", saved)
    train(composed(tmp_path, "trainer.max_epochs=1"))
    assert "checkpoint" in events
    for place in (i for i, event in enumerate(events) if event == "checkpoint"):
        assert sorted(events[place - 2 : place]) == ["fingerprint.csv", "metrics.csv"]


def test_a_damaged_record_is_refused_by_name(stopped: RunDirectory) -> None:
    content = stopped.metrics_file.read_text()
    stopped.metrics_file.write_text(content + "99,1,2,3\n")
    with pytest.raises(SettingError, match=r"metrics\.csv: is not a table of metrics"):
        resume(stopped.path)
    stopped.metrics_file.write_text(content)
    manifest = read_manifest(stopped)
    stopped.manifest_file.write_text(json.dumps({**manifest, "threads": None}))
    with pytest.raises(SettingError, match=r"manifest\.json: lacks threads"):
        resume(stopped.path)


def test_refused(undisturbed: RunDirectory, stopped: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"is complete; a new run from its weights: vae-train init_from="):
        resume(undisturbed.path)
    with pytest.raises(SettingError, match="no such run directory"):
        resume(tmp_path / "nowhere")
    write_status(stopped.status_file, Status.RUNNING)
    with pytest.raises(SettingError, match=f"is still going: process {os.getpid()}, last heard of 0 s ago"):
        resume(stopped.path)
    write_status(stopped.status_file, Status.INTERRUPTED, exit_status=75)
    manifest = json.loads(stopped.manifest_file.read_text())
    manifest["data"]["digests"] = dict.fromkeys(manifest["data"]["digests"], "0" * 64)
    stopped.manifest_file.write_text(json.dumps(manifest))
    before = stopped.metrics_file.read_bytes()
    with pytest.raises(SettingError, match="other data than the run was trained on"):
        resume(stopped.path)
    assert stopped.metrics_file.read_bytes() == before


def test_the_command(
    undisturbed: RunDirectory, stopped: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    from vaelab.commands.resume import main

    assert main([str(undisturbed.path)]) == 2
    assert f"vae-train init_from={undisturbed.path}" in capsys.readouterr().err
    assert main([str(stopped.path)]) == 0
    assert "trained to its end, step 30: on with the test" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "trainer", [("trainer=ddp_cpu",), ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")]
)
def test_two_real_processes_stop_together_and_go_on(tmp_path: Path, trainer: tuple[str, ...]) -> None:
    """The first one alone is told."""
    settings = ("data=digits", "latent_dim=2", "encoder.hidden=[16]", "decoder.hidden=[16]", "data.binarize=dynamic", "logger=none", "estimator=elbo",
                "trainer.max_epochs=40", *trainer)  # fmt: skip

    def command(name: str, *arguments: str) -> list[str]:  # a script: ddp runs it again for the second rank
        return [str(Path(sys.executable).parent / f"vae-{name}"), *arguments]

    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    subprocess.run(command("train", *settings, f"paths.log_dir={whole}"), check=True, timeout=240)
    with subprocess.Popen(
        command("train", *settings, f"paths.log_dir={stopped}"), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 3/"):
                process.send_signal(signal.SIGTERM)
                break
        process.stdout.read()
    assert process.returncode == 75
    (a,), (b,) = ((logs / "vae").iterdir() for logs in (whole, stopped))
    assert 3 <= read_checkpoint(b / "checkpoints" / "last.ckpt")["global_step"] // 10 < 40
    subprocess.run(command("resume", str(b)), check=True, timeout=240)
    found = differences(RunDirectory(a), RunDirectory(b))
    assert not found, "\n".join(map(str, found))


def test_resumed_within_a_passage_through_the_labelled_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("data.num_labels=50", "data.labelled_per_batch=10", "model=semi_supervised", "objective=semi_supervised",
           "objective.num_samples=2", "optimizer.samples_at_once=1", "trainer.max_epochs=1")  # fmt: skip
    whole = RunDirectory(train(composed(tmp_path / "whole", *few)).directory)
    with monkeypatch.context() as patch:
        stopped_at(8, signal.SIGTERM, patch)
        run = interrupted(composed(tmp_path / "stopped", *few))
    resume(run.path)
    same(whole, run, epochs=1)
