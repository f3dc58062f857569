"""What a search does with a study; runs are stood in for (objective.py), all else is real."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, OperationalError

from searching import carry_out, close_all, job_of, study_of, sweep_in
from vaelab.errors import RunFailed, SettingError
from vaelab.runs import read_json
from vaelab.runs.interruption import Interrupted
from vaelab.sweeps.job import Job
from vaelab.sweeps.search import search, summary
from vaelab.sweeps.search.storage import SQLITE, open_storage, placed
from vaelab.sweeps.search.study import LOST, PLACE, SURPLUS, Study, Taken

SEARCHING = str(Path(__file__).parents[1] / "searching.py")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    yield
    close_all()


@pytest.fixture(params=["sqlite", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return placed(None if request.param == "sqlite" else "study.journal", tmp_path / "s")


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return placed(None, tmp_path / "s")


def begun(tmp_path: Path) -> list[str]:
    """The runs that processes were started for since the last call."""
    file = tmp_path / "started"
    lines = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return sorted(lines)


def states(study: Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_every_trial_is_made_and_its_number_is_that_of_the_selected_checkpoint(
    storage: str, tmp_path: Path
) -> None:
    study = study_of(storage, 5)
    carry_out(study, tmp_path / "s")
    assert states(study) == ["COMPLETE"] * 5
    for trial in study.trials:
        assert trial.values == pytest.approx([-((trial.params["x"] - 0.3) ** 2)], rel=1e-12)
    assert len(begun(tmp_path)) == 5
    assert study.standing.ended == study.total == 5


def test_more_trials_are_added_and_none_is_made_twice(storage: str, tmp_path: Path) -> None:
    carry_out(study_of(storage, 3), tmp_path / "s")
    first = [trial.params for trial in study_of(storage, 3).trials]
    carry_out(study_of(storage, 3), tmp_path / "s")
    assert len(begun(tmp_path)) == 3
    study = study_of(storage, 5)
    assert study.standing.waiting == 2
    carry_out(study, tmp_path / "s")
    assert len(begun(tmp_path)) == 2
    assert [trial.params for trial in study.trials][:3] == first
    earlier = study_of(storage, 5)
    study_of(storage, 6)
    assert earlier.standing.waiting == 1
    with pytest.raises(SettingError, match=r"sweep.trials=4: s has 6 trials already"):
        study_of(storage, 4)


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "nsgaii"])
def test_what_is_proposed_does_not_depend_on_interruptions(sampler: str, tmp_path: Path) -> None:
    """Each trial's proposal is a function of the seed, its place, and what is known."""
    space = ("x=interval(0,1)", "y=int(interval(1,9))", "z=a,b")

    def proposed(folder: str, *, opened_each_time: bool) -> list[dict[str, Any]]:
        where = placed(None, tmp_path / folder)
        study = study_of(where, 14, *space, sampler=sampler, seed=3)
        found = []
        for _ in range(14):
            if opened_each_time:
                study = study_of(where, 14, *space, sampler=sampler, seed=3)
            trial = study.take()
            assert trial is not None
            found.append(dict(trial.params))
            study.complete(trial, [-(trial.params["x"] ** 2)])
        return found

    straight = proposed("a", opened_each_time=False)
    assert proposed("b", opened_each_time=True) == straight
    assert len({trial["x"] for trial in straight}) == 14
    assert {trial["z"] for trial in straight} == {"a", "b"}


def test_a_sampler_that_learns_comes_closer_than_chance(tmp_path: Path) -> None:
    """Fixed seeds: nothing here is by luck of the day."""

    def mean_distance(sampler: str) -> float:
        study = study_of(placed(None, tmp_path / sampler), 40, sampler=sampler)
        while (trial := study.take()) is not None:
            study.complete(trial, [-((trial.params["x"] - 0.3) ** 2)])
        later = [abs(trial.params["x"] - 0.3) for trial in study.trials[20:]]
        return sum(later) / len(later)

    assert mean_distance("tpe") < 0.5 * mean_distance("random")


def test_a_grid_has_its_points_as_trials(sqlite: str, tmp_path: Path) -> None:
    study = study_of(sqlite, None, "x=0.1,0.2", "y=range(1,4)", sampler="grid")
    assert study.total == 6
    carry_out(study, tmp_path / "s")
    points = [(trial.params["x"], trial.params["y"]) for trial in study.trials]
    assert points == [("0.1", 1), ("0.1", 2), ("0.1", 3), ("0.2", 1), ("0.2", 2), ("0.2", 3)]
    with pytest.raises(SettingError, match=r"sweep.trials=9: a grid has as many as it has points, here 6"):
        study_of(sqlite, 9, "x=0.1,0.2", "y=range(1,4)", sampler="grid")
    with pytest.raises(SettingError, match="has no grid"):
        study_of(placed(None, tmp_path / "t"), 9, sampler="grid")


def test_a_point_of_a_grid_whose_process_was_killed_before_it_had_its_values(sqlite: str) -> None:
    study = study_of(sqlite, None, "x=0.1,0.2", sampler="grid")
    number = study.trials[1].number
    trial_id = study._backend.get_trial_id_from_study_id_trial_number(study._id, number)
    study._backend.set_trial_state_values(trial_id, TrialState.RUNNING)
    study._lose(study._trial(number))
    found = []
    while (trial := study.take()) is not None:
        found.append(trial.params["x"])
    assert found == ["0.1", "0.2"]


def test_several_objectives(sqlite: str, tmp_path: Path) -> None:
    objectives = {"val/rate": "min", "val/distortion": "min"}
    study = study_of(sqlite, 6, objectives=objectives, sampler="nsgaii")
    carry_out(study, tmp_path / "s")
    for trial in study.trials:
        assert trial.values == [trial.params["x"], 1 - trial.params["x"]]
    assert sorted(search.best_places(study)) == list(
        range(6)
    )  # their sum is one: none is better than another
    assert any("no other one is better than in everything" in line for line in summary.lines(study, None, []))


def test_a_failed_trial_is_none_of_the_others_business_and_tried_again_at_the_next_start(
    sqlite: str, tmp_path: Path
) -> None:
    def third_raises(trial: Taken) -> Job:
        return job_of(trial, "raises" if trial.place == 2 else "completes")

    carry_out(study_of(sqlite, 4), tmp_path / "s", make=third_raises)
    study = study_of(sqlite, 4)  # retry=0
    assert states(study) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[2].user_attrs["vaelab:error"] == "ValueError: no good"
    again = study_of(sqlite, 4, retry=1)
    assert states(again) == ["COMPLETE", "COMPLETE", "WAITING", "COMPLETE"]
    carry_out(again, tmp_path / "s")
    assert states(again) == ["COMPLETE"] * 4
    assert again.trials[2].params == study.trials[2].params


def test_values_that_do_not_go_together_are_a_failed_trial(
    sqlite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(trial: Taken) -> Job:
        if trial.place == 0:
            raise SettingError("model", "ladder", "does not take this prior")
        return job_of(trial)

    study = study_of(sqlite, 3)
    carry_out(study, tmp_path / "s", make=refuses)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert "trial 0 is refused: model=ladder: does not take this prior" in capsys.readouterr().out


@pytest.mark.parametrize(
    "objectives, word, error",
    [
        ({"val/elbo": "max"}, "is_nan", "holds a number that is not finite"),
        ({"val/kl": "min"}, "completes", "is not logged in validation; logged is val/distortion, val/elbo, val/rate"),
    ],
)  # fmt: skip
def test_a_run_without_the_number_is_a_failed_trial(
    objectives: dict[str, str], word: str, error: str, sqlite: str, tmp_path: Path
) -> None:
    study = study_of(sqlite, 1, objectives=objectives)
    carry_out(study, tmp_path / "s", make=lambda trial: job_of(trial, word))
    assert states(study) == ["FAIL"]
    assert error in study.trials[0].user_attrs["vaelab:error"]


def test_a_mistake_on_the_way_to_a_job_leaves_its_trial_to_the_next(sqlite: str, tmp_path: Path) -> None:
    def breaks(trial: Taken) -> Job:
        raise KeyError(trial.place)

    study = study_of(sqlite, 2)
    with pytest.raises(KeyError):
        carry_out(study, tmp_path / "s", make=breaks)
    assert states(study) == ["WAITING"] * 2


@pytest.mark.parametrize("slots", [1, 4])
def test_more_trials_than_there_are_values(sqlite: str, tmp_path: Path, slots: int) -> None:
    study = study_of(sqlite, 9, "x=0.1,0.1")
    carry_out(study, tmp_path / "s", slots)
    assert states(study) == ["COMPLETE"] * 9
    assert len(begun(tmp_path)) == 1


def test_trials_with_the_same_values_are_one_run(sqlite: str, tmp_path: Path) -> None:
    study = study_of(sqlite, 5, "x=0.1,0.2")
    carry_out(study, tmp_path / "s")
    assert states(study) == ["COMPLETE"] * 5
    assert len(begun(tmp_path)) == len({trial.params["x"] for trial in study.trials}) == 2
    assert summary.lines(study, None, [])[0] == "5 trials: 5 completed, in 2 configurations"


FIXED = {"seed": 0, "optimizer.lr": 0.1}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"typed": ("x=interval(0,2)",)}, "x: 0 to 2 here, 0 to 1 in the study"),
        ({"typed": ("y=interval(0,1)",)}, "x: is not searched here, 0 to 1 in the study"),
        ({"objectives": {"val/elbo": "min"}}, "val/elbo: min here, max in the study"),
        ({"objectives": {"val/rate": "max"}}, "val/elbo: is no objective here, max in the study"),
        ({"fixed": {**FIXED, "optimizer.lr": 0.2}}, "optimizer.lr: 0.2 here, 0.1 in the study"),
        ({"fixed": {"seed": 0}}, "optimizer.lr: has no value here, 0.1 in the study"),
        ({"fixed": {**FIXED, "new": 1}, "typed_fixed": frozenset({"new"})}, "new: 1 here, has no value in the study"),
    ],
)  # fmt: skip
def test_a_study_about_something_else_is_refused_with_the_difference(
    change: dict[str, Any], said: str, storage: str
) -> None:
    study_of(storage, 2, fixed=FIXED)
    typed = change.get("typed", ())
    others = {key: value for key, value in change.items() if key != "typed"}
    with pytest.raises(SettingError, match="is about something else") as refused:
        study_of(storage, 2, *typed, **{"fixed": FIXED, **others})
    assert f"\n  {said}" in str(refused.value)


def test_a_setting_that_a_later_version_adds_is_no_difference(sqlite: str) -> None:
    study_of(sqlite, 2, fixed=FIXED)
    study_of(sqlite, 2, fixed={**FIXED, "new": 1})


def test_a_study_of_others_is_refused(sqlite: str) -> None:
    theirs = optuna.create_study(study_name="s", storage=open_storage(sqlite), direction="maximize")
    theirs.enqueue_trial({})
    with pytest.raises(SettingError, match="is a study that something else has made"):
        study_of(sqlite, 2)


def test_a_trial_whose_process_is_gone_is_given_to_the_next_with_its_values(
    storage: str, tmp_path: Path
) -> None:
    script = f"""
import os
from searching import study_of
study = study_of({storage!r}, 3)
print(study.take().params["x"], flush=True)
os._exit(9)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(SEARCHING).parent)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 9, done.stderr
    study = study_of(storage, 3)
    assert states(study)[0] == "RUNNING"
    carry_out(study, tmp_path / "s")
    assert states(study) == ["COMPLETE"] * 3
    assert study.trials[0].params["x"] == float(done.stdout)
    lost = [trial for trial in study.study.trials if LOST in trial.user_attrs]
    assert [(trial.state, trial.user_attrs[PLACE]) for trial in lost] == [(TrialState.FAIL, 0)]


def test_a_process_of_another_machine_is_gone_after_a_silence(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = study_of(sqlite, 1)
    there._me["process"] = "another machine:17"
    trial = there.take()
    assert trial is not None
    here, now = study_of(sqlite, 1), 1000.0

    def beat_of(study: Study, at: float) -> list[str]:
        monkeypatch.setattr("vaelab.sweeps.search.study.time.monotonic", lambda: at)
        study.beat()
        return states(here)

    assert beat_of(here, now) == ["RUNNING"]
    assert beat_of(here, now + 100) == ["RUNNING"]
    beat_of(there, now + 110)
    assert beat_of(here, now + 130) == ["RUNNING"]  # it has given a sign of life
    assert beat_of(here, now + 249) == ["RUNNING"]
    assert beat_of(here, now + 256) == ["WAITING"]
    again = here.take()
    assert again is not None
    assert again.params == trial.params
    # it was only slow: its signs, its number and its error come too late, and end nothing
    beat_of(there, now + 300)
    there.fail(trial, "too late")
    there.complete(trial, [0.0])
    assert states(here) == ["RUNNING"]


def test_one_that_was_taken_for_lost_and_yet_completed_is_completed(sqlite: str) -> None:
    """The process that took it for lost was killed before it had failed it."""
    study = study_of(sqlite, 1)
    trial = study.take()
    assert trial is not None
    study._note(trial.number, LOST, True)
    study.complete(trial, [-1.0])
    again = study_of(sqlite, 1)
    assert states(again) == ["COMPLETE"]
    again.beat()
    assert len(again.study.trials) == 1


def test_a_batch_gives_signs_of_life_while_it_runs(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelab.sweeps.search.study.BEAT", 0.05)
    study, other = study_of(sqlite, 1), study_of(sqlite, 1)
    trial = study.take()
    assert trial is not None
    before = other.trials[0].user_attrs["vaelab:worker"]["at"]
    with study.alive():
        deadline = time.monotonic() + 20
        while other.trials[0].user_attrs["vaelab:worker"]["at"] == before and time.monotonic() < deadline:
            time.sleep(0.05)
    assert other.trials[0].user_attrs["vaelab:worker"]["at"] > before


def test_a_study_whose_maker_was_killed_before_it_said_what_it_is_about(sqlite: str, tmp_path: Path) -> None:
    optuna.create_study(study_name="s", storage=open_storage(sqlite), direction="maximize")
    study = study_of(sqlite, 1)
    carry_out(study, tmp_path / "s")
    assert states(study) == ["COMPLETE"]
    with pytest.raises(SettingError, match="is about something else"):
        study_of(sqlite, 1, fixed={"seed": 1})


def test_a_place_that_two_processes_reserve_at_the_same_moment_gets_one_trial(sqlite: str) -> None:
    one, other = study_of(sqlite, 2), study_of(sqlite, 2)
    for place in (0, 1):
        other._enqueue(place, 0, {})
    taken = []
    while (trial := one.take()) is not None:
        taken.append(trial.place)
    assert taken == [0, 1]
    surplus = [trial for trial in one.study.trials if SURPLUS in trial.user_attrs]
    assert [trial.state for trial in surplus] == [TrialState.FAIL] * 2
    assert one.standing.running == 2


def test_a_place_that_lost_its_trial_at_the_worst_moment_gets_another_one(sqlite: str) -> None:
    """The process that found a trial lost was killed before it enqueued its values."""
    study = study_of(sqlite, 1)
    trial = study.take()
    assert trial is not None
    study._note(trial.number, LOST, True)
    study.study.tell(trial.number, state=TrialState.FAIL)
    again = study_of(sqlite, 1)
    taken = again.take()
    assert taken is not None
    assert taken.params == trial.params


def test_an_interrupted_search_goes_on_with_its_runs(sqlite: str, tmp_path: Path) -> None:
    study = study_of(sqlite, 3)

    def first_waits(trial: Taken) -> Job:
        return job_of(trial, "waits" if trial.place == 0 else "completes")

    pid = os.getpid()
    interrupter = f"""
import glob, os, signal, time
while not glob.glob({str(tmp_path / "s")!r} + "/*/ready"):
    time.sleep(0.05)
time.sleep(0.5)
os.kill({pid}, signal.SIGTERM)
"""
    with subprocess.Popen([sys.executable, "-c", interrupter]), pytest.raises(Interrupted):
        carry_out(study, tmp_path / "s", make=first_waits)
    assert states(study)[0] == "WAITING"
    first = begun(tmp_path)
    again = study_of(sqlite, 3)
    sweep = carry_out(again, tmp_path / "s")
    assert states(again) == ["COMPLETE"] * 3
    resumed = [result for result in sweep.results if result.run is not None and result.run.name in first]
    assert any(f"x={again.trials[0].params['x']}" in str(result.run) for result in resumed)


@pytest.mark.parametrize("times", [2])
def test_processes_that_are_killed_lose_nothing(storage: str, tmp_path: Path, times: int) -> None:
    """Killed by SIGKILL in the middle, again and again; the last one is left alone."""
    environment = {**os.environ, "SECONDS": "0.2"}
    command = [sys.executable, SEARCHING, storage, str(tmp_path / "s"), "8", "2"]
    for _ in range(times):
        with subprocess.Popen(command, env=environment) as process:
            begun(tmp_path)
            while not (tmp_path / "started").exists() and process.poll() is None:
                time.sleep(0.02)
            time.sleep(0.3)
            process.send_signal(signal.SIGKILL)
        assert begun(tmp_path), "it was killed before anything ran"
    subprocess.run(command, env=environment, check=True)
    study = study_of(storage, 8)
    assert states(study) == ["COMPLETE"] * 8
    complete = [trial for trial in study.study.trials if trial.state is TrialState.COMPLETE]
    assert len({trial.params["x"] for trial in complete}) == len(complete) == 8


def test_a_storage_that_is_away_for_a_while_is_waited_for(
    sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "SECONDS_BETWEEN", 0.1)
    study = study_of(sqlite, 2)
    complete, calls = study.complete, []

    def away_twice(trial: Taken, values: list[float]) -> None:
        calls.append(trial)
        if len(calls) <= 2:
            raise SettingError("sweep.storage", "x", "is locked by another program")
        complete(trial, values)

    monkeypatch.setattr(study, "complete", away_twice)
    carry_out(study, tmp_path / "s")
    assert states(study) == ["COMPLETE"] * 2
    assert "is locked by another program; tried again every" in capsys.readouterr().out


def test_a_sweep_that_ends_for_another_reason_leaves_its_trials_to_the_next(
    sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(sqlite, 2)

    def disk_is_full(*_: object, **__: object) -> None:
        raise RunFailed("the disk is full")

    monkeypatch.setattr("vaelab.sweeps.sweep.Sweep.collect", disk_is_full)
    with pytest.raises(RunFailed, match="the disk is full"):
        carry_out(study, tmp_path / "s")
    assert states(study) == ["WAITING"] * 2


def test_a_storage_that_stays_away_ends_the_search_and_loses_no_run(
    sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SECONDS_BETWEEN", 0.1)
    monkeypatch.setattr(search, "LONGEST_OUTAGE", 0.3)
    study = study_of(sqlite, 1)

    def away(*_: object) -> None:
        raise SettingError("sweep.storage", "x", "is locked by another program")

    monkeypatch.setattr(study, "complete", away)
    with pytest.raises(RunFailed, match="the runs are kept"):
        carry_out(study, tmp_path / "s")
    begun(tmp_path)
    again = study_of(sqlite, 1)
    again._me["pid"] = 0
    monkeypatch.setattr("vaelab.sweeps.search.study._is_here", lambda sign: False)
    carry_out(again, tmp_path / "s")
    assert states(again) == ["COMPLETE"]
    assert begun(tmp_path) == []  # the run was there


def test_a_locked_database_is_refused_at_the_start(sqlite: str, tmp_path: Path) -> None:
    open_storage(sqlite)
    lock = sqlite3.connect(sqlite.removeprefix(SQLITE))
    lock.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(SettingError, match=r"study.db: is locked by another program"):
            open_storage(sqlite, 0.2)
    finally:
        lock.close()


@pytest.mark.parametrize(
    "text, said",
    [
        ("here", "here: is no storage"),
        ("postgresql://me:geheim@127.0.0.1:1/studies", r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/studies: cannot be used"),
        ("nosuch://x", "cannot be used: Can't load plugin"),
        ("sqlite://", "has no file"),
        ("sqlite:///:memory:", "has no file"),
        ("postgresql://127.0.0.1:1/studies?user=me&password=geheim", "cannot be used"),
    ],
)  # fmt: skip
def test_a_storage_that_cannot_be_had_is_refused_without_its_password(
    text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=said) as refused:
        open_storage(placed(text, tmp_path), 2)
    assert "geheim" not in str(refused.value)


def test_two_processes_that_make_the_tables_at_the_same_moment(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    class LateOne(optuna.storages.RDBStorage):
        def __init__(self, url: str, *arguments: Any) -> None:
            made.append(url)
            if len(made) == 1:
                original: sqlite3.Error = sqlite3.OperationalError("table studies already exists")
                raise OperationalError("CREATE TABLE studies", {}, original)
            if len(made) == 2:
                original = sqlite3.IntegrityError("UNIQUE constraint failed: alembic_version.version_num")
                raise IntegrityError("INSERT INTO alembic_version", {}, original)
            super().__init__(url, *arguments)

    monkeypatch.setattr("optuna.storages.RDBStorage", LateOne)
    study_of(sqlite, 1)
    assert len(made) == 3


def test_a_journal_with_a_damaged_line_is_said(tmp_path: Path) -> None:
    storage = placed("study.journal", tmp_path)
    study_of(storage, 1)
    with Path(storage).open("a") as file:
        file.write('{"op_code": 4, "worker_\n{"op_code"')
    with pytest.raises(SettingError, match="has a damaged line"):
        study_of(storage, 1)


def test_choices_alone_are_nothing_for_cmaes(sqlite: str) -> None:
    with pytest.raises(SettingError, match="moves in numbers, of which this space has none"):
        study_of(sqlite, 3, "x=0.1,0.2", sampler="cmaes")


def test_steps_of_a_range_are_as_they_would_be_typed(sqlite: str) -> None:
    study = study_of(sqlite, None, "x=range(0.1,0.5,0.1)", sampler="grid")
    typed = [study.question.space.overrides(point) for point in study.question.space.grid()]
    assert typed == [["x=0.1"], ["x=0.2"], ["x=0.3"], ["x=0.4"]]


def test_a_file_that_is_no_database_is_refused(sqlite: str, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    Path(sqlite.removeprefix(SQLITE)).write_text("nonsense " * 200)
    with pytest.raises(SettingError, match="cannot be used: file is not a database"):
        open_storage(sqlite)


def test_the_summary_names_the_best_and_what_mattered(sqlite: str, tmp_path: Path) -> None:
    study = study_of(sqlite, 12, "x=interval(0,1)", "y=interval(0,1)")
    while (trial := study.take()) is not None:
        study.complete(trial, [-((trial.params["x"] - 0.3) ** 2)])
    shares = summary.importances(study)["val/elbo"]
    assert shares["x"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)
    best = max(study.trials, key=lambda one: one.values[0])
    text = "\n".join(summary.lines(study, "vae-train -m", ["encoder=conv"]))
    assert f"x={best.params['x']} y={best.params['y']}" in text
    assert f"vae-train -m encoder=conv x={best.params['x']}" in text
    summary.write(study, tmp_path / "s", "random", "none")
    record = read_json(tmp_path / "s" / "search.json")
    assert record["best"] == [best.user_attrs[PLACE]]
    assert [one["params"]["x"] for one in record["trials"]] == [one.params["x"] for one in study.trials]


def test_a_search_that_has_nothing_yet_says_so(sqlite: str) -> None:
    study = study_of(sqlite, 2)
    assert summary.lines(study, None, []) == ["2 trials: 0 completed, 2 waiting"]


def test_a_free_slot_gets_the_next_trial_at_once(sqlite: str, tmp_path: Path) -> None:
    """While one job runs on, the other slot carries out all the others."""
    study = study_of(sqlite, 5)
    order: list[int] = []

    def first_is_slow(trial: Taken) -> Job:
        order.append(trial.place)
        return job_of(trial, "waits" if trial.place == 0 else "completes")

    sweep = sweep_in(tmp_path / "s")
    seen: list[str] = []
    tell = study.complete

    def complete(trial: Taken, values: list[float]) -> None:
        tell(trial, values)
        seen.append(states(study)[0])
        if states(study).count("COMPLETE") == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    study.complete = complete  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        search.run(study, sweep, first_is_slow, "val/elbo")
    sweep.close()
    assert order == [0, 1, 2, 3, 4]
    assert seen == ["RUNNING"] * 4
