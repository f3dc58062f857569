"""Runs that are trained together come out as those that are trained by themselves."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from offline import ended
from vaelab.commands.resume import main as vae_resume
from vaelab.experiments.stack import Member, Outcome, train_together
from vaelab.experiments.train import train
from vaelab.runs import RunDirectory, Status, read_manifest, read_status, write_status
from vaelab.runs.companions import companions
from vaelab.runs.equality import differences
from vaelab.runs.metrics import read
from vaelab.training import read_checkpoint
from vaelab.training.stacked import StackedStep

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
#: 20 steps an epoch, the last one shorter; everything with a state: schedules, dynamic binarisation, importance weights, averages
SETTINGS = (
    "data=digits", "data.batch_size=62", "data.binarize=dynamic", "latent_dim=2", "trainer=cpu", "encoder.hidden=[16]", "decoder.hidden=[16]",
    "trainer.enable_progress_bar=false", "trainer.max_epochs=5", "trainer.log_every_n_steps=7", "estimator.num_samples=10", "estimator.repetitions=2",
    "objective=iwae", "objective.num_samples=3", "optimizer.ema_decay=0.9", "optimizer.schedule=cosine",
    "report=false", "logger=none",
)  # fmt: skip
#: of three members
DIFFERENT = (
    ("seed=0", "schedule=linear", "schedule.warmup_epochs=2"),
    ("seed=1", "optimizer.lr=3e-3", "objective.beta=2.0"),
    ("seed=2", "optimizer.clip_norm=5.0", "optimizer.ema_decay=null", "schedule=cyclical"),
)


def composed(logs: Path, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=[*SETTINGS, f"paths.log_dir={logs}", *overrides])
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return config


def members(logs: Path, *overrides: str, of: Any = DIFFERENT) -> list[Member]:
    return [Member(composed(logs, *own, *overrides)) for own in of]


def runs(outcomes: list[Outcome]) -> list[RunDirectory]:
    assert [outcome.cause for outcome in outcomes] == [None] * len(outcomes)
    in_order = sorted(outcomes, key=lambda outcome: outcome.member)
    return [RunDirectory(outcome.result.directory) for outcome in in_order if outcome.result is not None]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> list[RunDirectory]:
    return runs(train_together(members(tmp_path_factory.mktemp("logs"))))


def test_each_member_leaves_what_its_run_by_itself_leaves(stack: list[RunDirectory], tmp_path: Path) -> None:
    for place, (run, member) in enumerate(zip(stack, members(tmp_path), strict=True)):
        assert member.config is not None
        alone = RunDirectory(train(member.config).directory)
        assert files(run) == files(alone)
        mine, its = read_manifest(run), read_manifest(alone)
        assert mine.pop("stack") == {"id": stack_of(stack[0])["id"], "members": 3, "member": place}
        assert mine.keys() == its.keys()
        assert mine["identity"] == its["identity"]
        assert mine["best_step"] == its["best_step"]
        assert structure(read_checkpoint(run.last_checkpoint)) == structure(
            read_checkpoint(alone.last_checkpoint)
        )
        for found, expected in zip(read(run.metrics_file), read(alone.metrics_file), strict=True):
            values = {k: v for k, v in expected.items() if not k.startswith("time/")}
            assert {k: found[k] for k in values} == pytest.approx(values, rel=1e-5, abs=1e-7)
        fingerprints = [m["fingerprint"]["loss"] for m in (mine, its)]
        assert fingerprints[0] == pytest.approx(fingerprints[1], rel=1e-5)
        assert read_status(run.status_file).status is Status.COMPLETED
        shown = run.console_file.read_text()
        assert f"trained as member {place} of 3 runs together\n" in shown
        assert shown.count("number card") == 1


def stack_of(run: RunDirectory) -> dict[str, Any]:
    return read_manifest(run)["stack"]


def files(run: RunDirectory) -> list[str]:
    return sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*"))


def structure(node: Any) -> Any:
    """Keys, types, shapes, and how much memory is saved."""
    if isinstance(node, dict):
        return {key: structure(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [structure(value) for value in node]
    shape = (node.shape, node.dtype, node.untyped_storage().nbytes()) if hasattr(node, "shape") else None
    return type(node), shape


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three members that were stopped by a signal within their 27th step."""
    logs = tmp_path_factory.mktemp("logs")
    carry_out = StackedStep.__call__

    def stopping(self: StackedStep, own: Any) -> Any:
        if own[0].number + 1 == 27:
            os.kill(os.getpid(), signal.SIGTERM)
        return carry_out(self, own)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StackedStep, "__call__", stopping)
        outcomes = train_together(members(logs))
    assert [(outcome.exit_status, "vae-resume" in str(outcome.cause)) for outcome in outcomes] == [
        (75, True)
    ] * 3
    return logs / "vae"


def left(interrupted: Path, folder: Path) -> list[RunDirectory]:
    """A copy of them, in their order."""
    shutil.copytree(interrupted, folder / "vae")
    found = [RunDirectory(path) for path in (folder / "vae").iterdir()]
    return sorted(found, key=lambda run: stack_of(run)["member"])


def test_all_members_stop_at_one_step_and_go_on_bit_for_bit(
    stack: list[RunDirectory], interrupted: Path, tmp_path: Path
) -> None:
    there = left(interrupted, tmp_path)
    for run in there:
        assert read_status(run.status_file).status is Status.INTERRUPTED
        assert read_checkpoint(run.last_checkpoint)["global_step"] == 27
    assert vae_resume([str(there[1].path)]) == 0  # any of them will do
    for run, other in zip(there, stack, strict=True):
        assert list(differences(run, other)) == []
        assert read_manifest(run)["resumed"][0]["changed"] == []


def test_a_member_goes_on_by_itself(
    stack: list[RunDirectory], interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, run, last = left(interrupted, tmp_path)
    assert vae_resume(["--solo", str(run.path)]) == 0
    assert "trained 3 runs together -> by itself" in capsys.readouterr().out
    assert read_status(run.status_file).status is Status.COMPLETED
    assert read_status(first.status_file).status is Status.INTERRUPTED
    for found, expected in zip(read(run.metrics_file), read(stack[1].metrics_file), strict=True):
        values = {k: v for k, v in expected.items() if not k.startswith("time/")}
        found = {k: found[k] for k in values}
        if expected["step"] <= 27:
            assert found == values
        assert found == pytest.approx(values, rel=1e-5, abs=1e-7)
    assert companions(first) == [first, last]
    write_status(last.status_file, Status.FAILED, exit_status=1)
    assert companions(first) == [first]


def test_a_member_that_diverges_fails_and_the_others_are_as_without_it(tmp_path: Path) -> None:
    of = (("seed=0",), ("seed=1", "optimizer.lr=1e30", "optimizer.max_skipped=5"), ("seed=2",))
    once = "trainer.max_epochs=1"
    outcomes = sorted(train_together(members(tmp_path / "with", once, of=of)), key=lambda one: one.member)
    assert [outcome.exit_status for outcome in outcomes] == [0, 1, 0]
    assert "steps were skipped (optimizer.max_skipped=5)" in str(outcomes[1].cause)
    (path,) = [p for p in (tmp_path / "with" / "vae").iterdir() if stack_of(RunDirectory(p))["member"] == 1]
    assert read_status(RunDirectory(path).status_file).status is Status.FAILED
    without = runs(train_together(members(tmp_path / "without", once, of=(of[0], of[2]))))
    for run, other in zip(runs([outcomes[0], outcomes[2]]), without, strict=True):
        assert list(differences(run, other)) == []


def test_a_member_that_is_refused_keeps_nobody_from_training(tmp_path: Path) -> None:
    refused = members(tmp_path, "data.train_size=100000", of=(("seed=1",),))
    outcomes = sorted(
        train_together([*members(tmp_path, of=(("seed=0",),)), *refused]), key=lambda one: one.member
    )
    assert [outcome.exit_status for outcome in outcomes] == [0, 2]
    assert str(outcomes[1].cause).startswith("data.train_size=100000: ")
    assert len(list((tmp_path / "vae").iterdir())) == 1


def test_each_member_has_its_own_run_of_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    short = ("logger=wandb", "trainer.max_epochs=1", "callbacks=none")
    for run in runs(train_together(members(tmp_path, *short, of=(("seed=0",), ("seed=1",))))):
        (folder,) = (run.path / "wandb").glob("offline-run-*")
        tracked = ended(folder)
        assert tracked.exit_codes == [0]
        assert tracked.config["seed"] == json.dumps(read_manifest(run)["seed"]), tracked.config
        logged = [json.loads(row["train/loss"]) for row in tracked.rows if "train/loss" in row]
        assert logged == [row["train/loss"] for row in read(run.metrics_file) if "train/loss" in row]
