"""What a run reports to its trial, what it is told, and what it does about a storage in trouble."""

from __future__ import annotations

import math
import resource
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import optuna
import pytest
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

from vaelab.errors import SettingError
from vaelab.sweeps.search import pruners, trial
from vaelab.sweeps.search.storage import open_storage
from vaelab.sweeps.search.trial import TRIAL, Trial, TrialReport

VALIDATIONS = 10


@pytest.fixture(params=["sqlite:///{}/study.db", "{}/study.journal"], ids=["sqlite", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.param.format(tmp_path)


def a_study(storage: str, direction: Literal["maximize", "minimize"] = "maximize") -> optuna.Study:
    return optuna.create_study(storage=open_storage(storage), study_name="s", direction=direction)


def completed(study: optuna.Study, *curves: Sequence[float]) -> None:
    """Trials that nobody gave up, with these scores."""
    for curve in curves:
        one = study.ask()
        for validation, score in enumerate(curve, start=1):
            one.report(score, validation)
        study.tell(one, curve[-1])


def carried_out(storage: str, number: int, curve: Sequence[float], pruner: str) -> int:
    """A run with these scores, of which the trial is told. Returns after which validation it was given up; 0 = it was not."""
    told = TrialReport(Trial(storage, "s", number, pruner, {}, VALIDATIONS))
    return next((at for at, score in enumerate(curve, start=1) if told.report(score, at)), 0)


RISING = [float(-100 + 5 * validation) for validation in range(1, VALIDATIONS + 1)]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_median_gives_up_what_is_worse_and_nothing_before_five_have_completed(
    storage: str, direction: Literal["maximize", "minimize"]
) -> None:
    sign = 1.0 if direction == "maximize" else -1.0
    study = a_study(storage, direction)
    worse = [sign * (score - 3) for score in RISING]
    better = [sign * (score + 3) for score in RISING]
    completed(study, *[[sign * (score + shift) for score in RISING] for shift in (-1, 0, 1, 2)])
    ends = [carried_out(storage, study.ask().number, worse, "median")]
    completed(study, [sign * score for score in RISING])
    for curve in (better, worse, [math.nan] * VALIDATIONS):
        ends.append(carried_out(storage, study.ask().number, curve, "median"))
    assert ends == [0, 0, 2, 2], "the first validation is not looked at"
    reported = study.trials[-2].intermediate_values
    assert reported == {1: worse[0], 2: worse[1]}
    assert all(math.isnan(value) for value in study.trials[-1].intermediate_values.values())


def test_a_late_improvement_keeps_a_run_from_being_given_up_after_it(storage: str) -> None:
    """What is compared is the best so far: a score that falls is none of a worse run."""
    study = a_study(storage)
    completed(study, *[RISING] * 5)
    falling = [0.0, -100.0, -100.0, -100.0]
    assert carried_out(storage, study.ask().number, falling, "median") == 0


def test_hyperband_lets_the_best_third_go_on(storage: str) -> None:
    """Ten validations make brackets that look first at validations 1, 3 and 9; of runs with the same curve, but for a shift, the best one goes on and the worst does not."""
    study = a_study(storage)
    ends = [
        carried_out(storage, study.ask().number, [score - shift for score in RISING], "hyperband")
        for shift in range(12)
    ]
    assert ends[0] == 0, "the best one so far goes on"
    assert {*ends} >= {0, 1, 3}, "each bracket begins elsewhere"
    assert {*ends} <= {0, 1, 3, 9}
    assert sum(end > 0 for end in ends) >= 6
    again = study.ask().number
    assert carried_out(storage, again, [score + 10 for score in RISING], "hyperband") == 0
    assert len(study.trials[again].intermediate_values) == VALIDATIONS


def test_a_score_that_is_no_number_ends_at_hyperbands_first_look(storage: str) -> None:
    study = a_study(storage)
    assert carried_out(storage, study.ask().number, [math.nan] * VALIDATIONS, "hyperband") in (1, 3, 9)
    assert carried_out(storage, study.ask().number, [-math.inf] * VALIDATIONS, "none") == 0


@pytest.mark.parametrize("direction, curve", [("maximize", -math.inf), ("minimize", math.inf)])
def test_infinite_scores_are_reported_as_they_are(
    storage: str, direction: Literal["maximize", "minimize"], curve: float
) -> None:
    study = a_study(storage, direction)
    completed(study, *[RISING] * 5)
    assert carried_out(storage, study.ask().number, [curve] * VALIDATIONS, "median") == 2
    assert study.trials[-1].intermediate_values == {1: curve, 2: curve}


def test_a_run_whose_process_came_back_reports_the_same_validation_twice(storage: str) -> None:
    study = a_study(storage)
    completed(study, *[RISING] * 5)
    number = study.ask().number
    assert carried_out(storage, number, [0.0, 0.0], "median") == 0
    assert carried_out(storage, number, [0.0, 0.0, 0.0], "median") == 0
    assert study.trials[number].intermediate_values == {1: 0.0, 2: 0.0, 3: 0.0}


# -- trouble -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sqlite(tmp_path: Path) -> Path:
    """A study with a trial."""
    path = tmp_path / "study.db"
    a_study(f"sqlite:///{path}").ask()
    return path


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again and again is given up before long, but not before a busy machine has heard why it failed."""
    monkeypatch.setattr(trial, "SECONDS", 3.0)


def told_of(path: Path, study: str = "s", number: int = 0) -> TrialReport:
    return TrialReport(Trial(f"sqlite:///{path}", study, number, "median", {}, VALIDATIONS))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """A trial for each attempt to open its storage."""
    attempts: list[Trial] = []
    opened = trial._Opened.of

    def count(one: Trial) -> object:
        attempts.append(one)
        return opened(one)

    monkeypatch.setattr(trial._Opened, "of", count)
    monkeypatch.setattr(trial, "SECONDS_BETWEEN", 0.01)
    return attempts


def left_out(report: TrialReport, capsys: pytest.CaptureFixture[str]) -> str:
    """Report twice and return why the study was left out, which is said once."""
    assert [report.report(1.0, validation) for validation in (1, 2)] == [False, False]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("the study ")
    assert line.endswith("): the run goes on to its end")
    return line


def test_a_lock_that_stays_is_waited_for_once(
    sqlite: Path, impatient: None, capsys: pytest.CaptureFixture[str], asked: list[Trial]
) -> None:
    other = sqlite3.connect(sqlite)
    try:
        other.execute("BEGIN EXCLUSIVE")
        assert "is locked by another program" in left_out(told_of(sqlite), capsys)
        assert len(asked) > 1, "it might have gone"
    finally:
        other.close()


def test_a_lock_that_goes_is_waited_for(
    sqlite: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "SECONDS", 60.0)
    report = told_of(sqlite)
    report.report(1.0, 1)
    other = sqlite3.connect(sqlite, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    threading.Timer(0.7, other.rollback).start()
    assert report.report(2.0, 2) is False
    other.close()
    assert capsys.readouterr().out == ""
    there = optuna.load_study(storage=open_storage(f"sqlite:///{sqlite}"), study_name="s")
    assert there.trials[0].intermediate_values == {1: 1.0, 2: 2.0}


def test_what_cannot_be_opened_is_left_out(
    sqlite: Path, impatient: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert "sweep.storage" not in left_out(told_of(tmp_path / "file" / "study.db"), capsys)


def test_a_disk_without_room_is_left_out(
    sqlite: Path, impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    report = told_of(sqlite)
    report.report(0.0, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # no file may grow beyond a few bytes
    try:
        line = left_out(report, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be" in line


@pytest.mark.parametrize(
    "study, number, why", [("t", 0, "KeyError"), ("s", 3, "KeyError")], ids=["no study", "no trial"]
)
def test_a_study_that_is_gone_is_left_out(
    sqlite: Path, capsys: pytest.CaptureFixture[str], study: str, number: int, why: str, asked: list[Trial]
) -> None:
    assert why in left_out(told_of(sqlite, study, number), capsys)
    assert len(asked) == 1, "it does not come back"


def test_a_trial_that_another_process_has_ended_is_left_out(
    sqlite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = optuna.load_study(storage=open_storage(f"sqlite:///{sqlite}"), study_name="s")
    study.tell(0, state=optuna.trial.TrialState.FAIL)
    assert "has already finished" in left_out(told_of(sqlite), capsys)


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """Waiting for it is hanging; let go when the test is over."""
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name == "study":
            thread.join(10)
            assert not thread.is_alive()


def test_a_server_that_never_answers_holds_up_no_run_and_its_password_is_not_shown(
    sqlite: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, never: threading.Event
) -> None:
    asked = []

    def hang(*_: object) -> None:
        asked.append(1)
        never.wait()
        raise OSError("at last")

    monkeypatch.setattr(trial, "open_storage", hang)
    monkeypatch.setattr(trial, "SECONDS", 0.5)
    url = "postgresql+psycopg://me:very-secret@nowhere.example/studies"
    line = left_out(TrialReport(Trial(url, "s", 0)), capsys)
    assert "no answer within 0.5 s" in line
    assert "very-secret" not in line
    assert asked == [1], "it is not asked again"


# -- being told --------------------------------------------------------------------------------------------------------


def test_a_process_is_told_once_and_those_that_it_starts_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Trial("postgresql://me:very-secret@host/db", "s", 7, "hyperband", {"reduction_factor": 4}, 20)
    (variable,) = sent.variables().items()
    monkeypatch.setenv(*variable)
    assert Trial.told() == sent
    assert Trial.told() is None
    child = subprocess.run([sys.executable, "-c", f"import os; print({TRIAL!r} in os.environ)"], capture_output=True, text=True, check=True)  # fmt: skip
    assert child.stdout == "False\n"
    assert "very-secret" not in repr(sent)


# -- pruners -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, kind", [("none", NopPruner), ("median", MedianPruner), ("hyperband", HyperbandPruner)]
)
@pytest.mark.parametrize("validations", [None, 1, 2, 10, 1000])
def test_each_pruner_is_made_of_its_name(name: str, kind: type, validations: int | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # experimental, deprecated, ...
        assert type(pruners.build(name, None, validations)) is kind


def test_options_replace_ours(storage: str) -> None:
    study = a_study(storage)
    completed(study, RISING)
    options = {"n_startup_trials": 1, "n_warmup_steps": 1, "interval_steps": None}
    told = TrialReport(Trial(storage, "s", study.ask().number, "median", options, VALIDATIONS))
    assert told.report(-1000.0, 1)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("medain", {}, "sweep.pruner=medain: must be one of none, median, hyperband (did you mean 'median'?)"),
        ("median", {"n_startup": 3}, "sweep.pruner=median: has no option n_startup; it has n_startup_trials, n_warmup_steps, interval_steps, n_min_trials (did you mean 'n_startup_trials'?)"),
        ("none", {"n_startup_trials": 3}, "sweep.pruner=none: has no option n_startup_trials; it has none at all"),
        ("median", {"interval_steps": 0}, "sweep.pruner.interval_steps=0: must be a positive integer"),
        ("median", {"n_warmup_steps": 1.5}, "sweep.pruner.n_warmup_steps=1.5: must be an integer >= 0"),
        ("hyperband", {"reduction_factor": 1}, "sweep.pruner.reduction_factor=1: must be an integer >= 2"),
        ("hyperband", {"min_resource": 11}, "sweep.pruner.min_resource=11: is more than the 10 validations of a whole run"),
    ],
)  # fmt: skip
def test_what_no_pruner_could_follow_is_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        pruners.build(name, options, 10)
    assert str(caught.value) == message


def test_hyperband_that_is_to_wait_has_to_know_for_how_long() -> None:
    with pytest.raises(SettingError, match=r"sweep\.pruner\.bootstrap_count=3: needs to be told"):
        pruners.build("hyperband", {"bootstrap_count": 3}, None)
