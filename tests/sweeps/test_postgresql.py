"""A study in a PostgreSQL server that two processes share; runs are stood in for (objective.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

import postgresql
from searching import close_all, study_of
from vaelab.runs import find_runs, read_json
from vaelab.sweeps.search.storage import open_storage, placed, shown

SEARCHING = str(Path(__file__).parents[1] / "searching.py")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgresql.server() as url:
        yield url


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


def test_a_study_is_made_found_and_goes_on(url: str, tmp_path: Path) -> None:
    storage = placed(url, tmp_path)
    study = study_of(storage, 3, name="few")
    trial = study.take()
    assert trial is not None
    study.complete(trial, [-1.0])
    again = study_of(storage, 4, name="few")
    assert again.standing.waiting == 3
    assert again.trials[0].values == [-1.0]


def test_a_server_that_is_not_there_is_refused_and_the_password_not_shown(url: str, tmp_path: Path) -> None:
    gone = placed(url.replace("vaelab@", "vaelab:geheim@").rpartition(":")[0] + ":1/postgres", tmp_path)
    assert "geheim" not in shown(gone)
    with pytest.raises(ValueError, match="cannot be used") as refused:
        open_storage(gone, 2)
    assert "geheim" not in str(refused.value)


@pytest.mark.slow
def test_two_processes_make_sixty_trials_between_them_with_processes_of_jobs(
    url: str, tmp_path: Path
) -> None:
    """Exactly sixty, none lost or made twice, in one folder."""
    environment = {**os.environ, "STARTED": str(tmp_path / "started"), "SECONDS": "0.05"}
    command = [sys.executable, SEARCHING, url, str(tmp_path / "s"), "60", "1"]
    with (
        subprocess.Popen(command, env=environment) as one,
        subprocess.Popen(command, env=environment) as other,
    ):
        assert (one.wait(), other.wait()) == (0, 0)
    study = study_of(placed(url, tmp_path), 60)
    ended = [trial for trial in study.study.trials if trial.state is TrialState.COMPLETE]
    assert len(ended) == len({trial.params["x"] for trial in ended}) == 60
    assert study.standing.completed == study.standing.total == 60
    started = (tmp_path / "started").read_text().split()
    assert len(started) == len(set(started)) == 60
    assert {run.name for run in find_runs(tmp_path / "s")} == set(started)
    jobs = read_json(tmp_path / "s" / "sweep.json")["jobs"]
    assert {job["run"] for job in jobs} == set(started)
    assert {job["status"] for job in jobs} == {"completed"}
    workers = {trial.user_attrs["vaelab:worker"]["pid"] for trial in ended}
    assert len(workers) == 2, "one of the processes made all trials by itself"
