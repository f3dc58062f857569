"""A run that reports its validations, and is given up by whoever it reports to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from vaelab.experiments.evaluate import evaluate
from vaelab.experiments.reproduce import reproduce
from vaelab.experiments.resume import resume
from vaelab.experiments.train import train
from vaelab.runs import RunDirectory, Status, read_cards, read_manifest, read_status
from vaelab.runs.equality import differences
from vaelab.runs.metrics import read
from vaelab.sweeps.search.storage import open_storage
from vaelab.sweeps.search.trial import Trial, TrialReport
from vaelab.training import read_checkpoint

Compose = Callable[..., dict[str, Any]]
#: 10 steps an epoch, 5 epochs
SETTINGS = (
    "data=digits", "data.batch_size=120", "latent_dim=2", "trainer=cpu", "encoder.hidden=[16]", "decoder.hidden=[16]", "trainer.enable_progress_bar=false",
    "trainer.max_epochs=5", "trainer.log_every_n_steps=7", "estimator.num_samples=10", "optimizer.ema_decay=0.9", "data.binarize=dynamic",
)  # fmt: skip


class Stub:
    """Gives a run up at one of its validations, and remembers what it was told."""

    def __init__(self, at: int | None = None, look: Callable[[int], None] | None = None) -> None:
        self.at, self.look = at, look
        self.told: list[tuple[int, float]] = []

    def __call__(self, score: float, validation: int) -> bool:
        self.told.append((validation, score))
        if self.look is not None:
            self.look(validation)
        return validation == self.at


def made(config: dict[str, Any], stub: Stub) -> RunDirectory:
    return RunDirectory(train(config, report=stub).directory)


def status(run: RunDirectory) -> tuple[Status, int | None]:
    record = read_status(run.status_file)
    return record.status, record.exit_status


def test_the_run_ends_at_the_validation_at_which_it_is_given_up(
    compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best_there = []

    def look(validation: int) -> None:
        (checkpoints,) = tmp_path.glob("logs/vae/*/checkpoints")
        best_there.append(read_checkpoint(checkpoints / "best.ckpt")["global_step"])

    stub = Stub(at=2, look=look)
    result = train(compose(*SETTINGS), report=stub)
    run = RunDirectory(result.directory)
    assert [validation for validation, _ in stub.told] == [1, 2]
    assert best_there == [10, 20], "the best checkpoint is saved before anybody is asked"
    rows = {row["step"]: row["val/elbo"] for row in read(run.metrics_file) if "val/elbo" in row}
    assert list(rows) == [10, 20]
    # Lightning keeps what is watched in float32
    assert list(rows.values()) == pytest.approx([score for _, score in stub.told], rel=1e-6)
    last = read_checkpoint(run.last_checkpoint)
    assert (last["global_step"], last["progress"]["finished"]) == (20, False)

    assert (result.cards, result.score) == ([], stub.told[1][1])
    assert status(run) == (Status.PRUNED, 0)
    assert read_status(run.status_file).error == "at validation 2 of 5"
    manifest = read_manifest(run)
    assert (manifest["status"], manifest["best_score"]) == ("pruned", max(score for _, score in stub.told))
    assert manifest["given_up"] == {"validation": 2, "validations": 5, "step": 20, "score": stub.told[1][1]}
    assert {*manifest["checkpoints"]} >= {"last.ckpt", "best.ckpt"}
    for none in (run.evaluation_file, run.weights_file, run.path / "per_image.npz"):
        assert not none.exists()
    out = capsys.readouterr().out
    assert f"pruned at validation 2 of 5: val/elbo {stub.told[1][1]:.6g}; vae-resume {run.path}" in out
    assert "pruned at validation 2" in run.console_file.read_text()


#: what decides when validations come, and the step of the third one
WHEN = {
    "each epoch": ((), 30, 5),
    "within epochs": (("trainer.val_check_interval=8",), 24, 7),
    "each second epoch": (("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=9"), 60, 4),
}


@pytest.mark.parametrize("when", WHEN)
def test_gone_on_with_it_is_the_run_that_nobody_gave_up_bit_for_bit(
    compose: Compose, tmp_path: Path, when: str
) -> None:
    settings, step, validations = WHEN[when]
    whole = made(compose(*SETTINGS, *settings, f"paths.log_dir={tmp_path}/whole"), Stub())
    run = made(compose(*SETTINGS, *settings), Stub(at=3))
    assert read_manifest(run)["given_up"]["step"] == step
    assert read_manifest(run)["given_up"]["validations"] == validations
    resume(run.path)
    assert status(run) == (Status.COMPLETED, 0)
    found = differences(whole, run)
    assert not found, "\n".join(map(str, found))
    assert len(read_cards(run.evaluation_file)) > 0
    assert read_manifest(run)["resumed"][0]["step"] == step


def test_validations_are_counted_on_after_a_resume_and_those_before_it_are_told_again(
    compose: Compose,
) -> None:
    """Whoever asks may be another one than before: a search that was stopped gives its runs new trials."""
    first, second = Stub(at=2), Stub(at=4)
    run = made(compose(*SETTINGS), first)
    resume(run.path, report=second)
    assert [validation for validation, _ in second.told] == [1, 2, 3, 4]
    assert [score for _, score in second.told[:2]] == pytest.approx([score for _, score in first.told])
    assert status(run) == (Status.PRUNED, 0)
    assert read_manifest(run)["given_up"]["validation"] == 4


def test_an_answer_to_an_earlier_validation_counts_at_the_next_one(compose: Compose) -> None:
    run = made(compose(*SETTINGS), Stub(at=2))
    resume(run.path, report=Stub(at=1))
    assert read_manifest(run)["given_up"]["validation"] == 3


@pytest.mark.parametrize(
    "settings, at",
    [
        ((), 5),
        (("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=1000.0"), 2),
        (("+trainer.min_epochs=6",), 4),
    ],
    ids=["at its last step", "stopped early", "asked for a least length"],
)  # fmt: skip
def test_a_training_that_has_come_to_its_end_is_tested(
    compose: Compose, settings: tuple[str, ...], at: int
) -> None:
    stub = Stub(at=at)
    run = made(compose(*SETTINGS, *settings), stub)
    assert at in [validation for validation, _ in stub.told], "it is told all the same"
    assert status(run) == (Status.COMPLETED, 0)
    assert "given_up" not in read_manifest(run)


def test_a_run_that_was_given_up_can_be_measured_with_a_warning(compose: Compose) -> None:
    run = made(compose(*SETTINGS), Stub(at=2))
    options = compose(f"run={run.path}", "estimator=elbo", "num_images=20", config_name="evaluate")
    (card, *_) = evaluate(options)
    assert card.warning == "of a run that was given up before its end"
    assert status(run) == (Status.PRUNED, 0)


def test_a_run_that_was_given_up_is_reproduced_as_far_as_it_came(compose: Compose) -> None:
    run = made(compose(*SETTINGS), Stub(at=2))
    found = reproduce(run.path, confirm=lambda _: False, here=True)
    assert str(found.verdict) == "bitwise up to step 20"


#: trials before the one at hand: what they had at each validation
EARLIER = {"better": [-30.0] * 5, "worse": [-100.0] * 5}


def study(folder: Path, scores: list[float]) -> Trial:
    """A study in which five trials have completed with these scores, and the next one, which runs."""
    url = f"sqlite:///{folder}/study.db"
    there = optuna.create_study(storage=open_storage(url), study_name="s", direction="maximize")
    for _ in range(5):
        trial = there.ask()
        for validation, score in enumerate(scores, start=1):
            trial.report(score, validation)
        there.tell(trial, scores[-1])
    return Trial(url, "s", there.ask().number, "median", {}, 5)


@pytest.mark.parametrize(
    "earlier, ends, validations", [("better", Status.PRUNED, 2), ("worse", Status.COMPLETED, 5)]
)
def test_a_trial_that_is_worse_than_the_median_is_given_up(
    compose: Compose, tmp_path: Path, earlier: str, ends: Status, validations: int
) -> None:
    trial = study(tmp_path, EARLIER[earlier])
    result = train(compose(*SETTINGS), report=TrialReport(trial).report)
    run = RunDirectory(result.directory)
    assert status(run) == (ends, 0)
    reported = optuna.load_study(storage=open_storage(trial.storage), study_name="s").trials[-1]
    rows = [row["val/elbo"] for row in read(run.metrics_file) if "val/elbo" in row]
    assert list(reported.intermediate_values) == list(range(1, validations + 1))
    assert list(reported.intermediate_values.values()) == pytest.approx(rows)


def test_a_study_out_of_reach_changes_no_number(
    compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaelab.sweeps.search import trial

    monkeypatch.setattr(trial, "SECONDS", 0.5)
    alone = RunDirectory(train(compose(*SETTINGS, f"paths.log_dir={tmp_path}/alone")).directory)
    (tmp_path / "file").touch()
    lost = Trial(f"sqlite:///{tmp_path}/file/study.db", "s", 0, "median", {}, 5)
    run = RunDirectory(train(compose(*SETTINGS), report=TrialReport(lost).report).directory)
    assert status(run) == (Status.COMPLETED, 0)
    assert not differences(alone, run)
    assert capsys.readouterr().out.count("is left out from here on") == 1


def command(folder: Path, program: str, *words: str, trial: Trial) -> str:
    environment = {**os.environ, **trial.variables()}
    argv = [str(Path(sys.executable).with_name(program)), *words]
    done = subprocess.run(argv, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_commands_are_told_their_trial_and_no_record_says_which(tmp_path: Path) -> None:
    trial = study(tmp_path, EARLIER["better"])
    out = command(tmp_path, "vae-train", *SETTINGS, "logger=none", f"paths.log_dir={tmp_path}/logs", trial=trial)  # fmt: skip
    assert "pruned at validation 2 of 5" in out
    (path,) = (tmp_path / "logs" / "vae").iterdir()
    for file in filter(Path.is_file, path.rglob("*")):
        assert trial.storage.encode() not in file.read_bytes(), file
    out = command(tmp_path, "vae-resume", str(path), trial=trial)
    assert "on from step 20 of 50" in out
    assert "pruned at validation 3 of 5" in out
    assert read_status(RunDirectory(path).status_file).status is Status.PRUNED


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp"])
def test_two_real_processes_end_together_and_go_on_together(tmp_path: Path, strategy: str) -> None:
    """The main process asks for both: of copies of it (ddp_fork), and of processes that were started by the command (ddp)."""
    trial = study(tmp_path, EARLIER["better"])
    two = ("trainer=ddp_cpu", f"trainer.strategy={strategy}", "logger=none")
    settings = [word for word in SETTINGS if word != "trainer=cpu"]
    out = command(tmp_path, "vae-train", *settings, *two, f"paths.log_dir={tmp_path}/logs", trial=trial)
    assert out.count("pruned at validation 2 of 5") == 1
    (path,) = (tmp_path / "logs" / "vae").iterdir()
    run = RunDirectory(path)
    assert status(run) == (Status.PRUNED, 0)
    out = command(tmp_path, "vae-resume", str(path), trial=trial)
    assert "pruned at validation 3 of 5" in out
    assert read_manifest(run)["given_up"]["step"] == 30
    reported = optuna.load_study(storage=open_storage(trial.storage), study_name="s").trials[-1]
    assert list(reported.intermediate_values) == [1, 2, 3]
