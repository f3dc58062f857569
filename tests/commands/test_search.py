"""``-m hydra/sweeper=optuna`` as it is typed. The commands of single runs are stood in for by a script; other applications are real."""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from omegaconf import OmegaConf

import postgresql
from vaelab.commands import entry, train
from vaelab.runs import find_runs, read_json, read_manifest
from vaelab.sweeps.search.study import Study

SMALL = ("data=digits", "logger=none", "trainer=cpu", "hydra/sweeper=optuna")

#: val/elbo = -(latent_dim - 8)² - |log10(lr) + 3|; fails where the folder has a file called as the encoder
SCRIPT = """
    #!{python}
    import math, os, sys
    from pathlib import Path
    from vaelab.runs import RunDirectory, Status, write_json, write_status
    from vaelab.sweeps.job import Place
    if "-m" in sys.argv:
        from vaelab.commands.train import main
        sys.exit(main())
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    place = Place.told()
    run = RunDirectory.create(place.folder, place.directory)
    elbo = -(int(given.get("latent_dim", 8)) - 8) ** 2 - abs(math.log10(float(given.get("optimizer.lr", 1e-3))) + 3)
    write_json(run.manifest_file, {{"schema": 2, "sweep": place.sweep, "best_score": elbo, "best_step": 5}})
    run.metrics_file.write_text(f"step,val/elbo,val/rate,val/distortion\\n5,{{elbo!r}},{{-elbo!r}},{{1 + elbo!r}}\\n")
    if Path(given.get("encoder", "")).is_file():
        write_status(run.status_file, Status.FAILED, exit_status=1, error="no good")
        sys.exit(1)
    write_status(run.status_file, Status.COMPLETED, exit_status=0)
    """

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """What is typed after ``vae-train -m`` -> exit status, what is printed, and what is said of errors."""
    script = tmp_path / "bin" / "vae-train"
    script.parent.mkdir()
    script.write_text(dedent(SCRIPT).lstrip().format(python=sys.executable))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def _command(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(script), "-m", *argv])
        status = entry.run("train", train.task, planned=train.planned)
        out, err = capsys.readouterr()
        return status, out, err

    return _command


LR = "optimizer.lr=tag(log,interval(1e-4,1e-2))"


def test_a_search_its_continuation_and_what_it_prints(command: Command) -> None:
    typed = (*SMALL, "latent_dim=4,8", LR)
    status, out, err = command(*typed, "sweep.trials=6")
    assert (status, err) == (0, ""), out
    folder = Path("logs/sweeps/vae_latent_dim_optimizer.lr")
    assert out.startswith("vae_latent_dim_optimizer.lr: 6 trials; tpe, 2 at a time, 1 thread each | ")
    record = read_json(folder / "search.json")
    assert [trial["state"] for trial in record["trials"]] == ["complete"] * 6
    scores = [trial["values"][0] for trial in record["trials"]]
    assert record["best"] == [scores.index(max(scores))]
    best = record["trials"][record["best"][0]]["params"]
    assert f"\n  latent_dim={best['latent_dim']} optimizer.lr={best['optimizer.lr']}\n" in out
    again = f"vae-train -m hydra/sweeper=grid data=digits logger=none trainer=cpu latent_dim={best['latent_dim']} optimizer.lr={best['optimizer.lr']} seed=0,1,2,3,4"
    assert f"\n  {again}\n" in out
    assert "\n6 trials: 6 completed\n" in out
    assert out.splitlines()[-2:] == [str(folder), f"report  {folder}/report.html"]

    status, out, _ = command(*typed, "sweep.trials=8")
    assert status == 0, out
    assert "8 trials, 6 of them made already; tpe" in out
    assert len(list(find_runs(folder))) == 8
    status, out, err = command(*typed, "sweep.trials=8")
    assert (status, err) == (0, ""), out
    assert "\n8 trials: 8 completed\nbest: " in out
    status, out, err = command(*typed, "sweep.trials=8", "data.batch_size=64")
    assert (status, out) == (2, "")
    assert "\n  data.batch_size: 64 here, 16 in the study" in err


def test_two_objectives_with_the_numbers_of_the_selected_checkpoint(command: Command) -> None:
    objectives = "sweep.objectives={val/rate: min, val/distortion: min}"
    status, out, err = command(*SMALL, "latent_dim=int(interval(6,10))", "sweep.trials=5", objectives)
    assert (status, err) == (0, ""), out
    record = read_json(Path("logs/sweeps/vae_latent_dim/search.json"))
    for trial in record["trials"]:
        distance = (trial["params"]["latent_dim"] - 8) ** 2
        assert trial["values"] == [distance, 1 - distance]
    assert "that no other one is better than in everything" in out
    assert "val/elbo -" in out  # while it runs a job shows its score
    assert "seed=0,1,2,3,4" not in out


def test_a_job_that_fails_is_told_and_the_others_go_on(command: Command) -> None:
    Path("conv").touch()
    status, out, err = command(*SMALL, "encoder=mlp,conv", LR, "sweep.trials=6", "sweep.sampler=random")
    assert (status, err) == (3, ""), out
    record = read_json(Path("logs/sweeps/vae_encoder_optimizer.lr/search.json"))
    for trial in record["trials"]:
        failed = trial["params"]["encoder"] == "conv"
        assert (trial["state"], trial["error"]) == (("fail", "no good") if failed else ("complete", None))
    assert {trial["state"] for trial in record["trials"]} == {"fail", "complete"}
    again = (*SMALL, "encoder=mlp,conv", LR, "sweep.trials=6", "sweep.sampler=random", "sweep.retry=0")
    assert command(*again)[0] == 3, "there is nothing left to do, but it is not well"
    Path("conv").unlink()
    status, out, err = command(*again[:-1])
    assert (status, err) == (0, ""), out


def test_a_grid_by_the_sweeper(command: Command) -> None:
    status, out, err = command(*SMALL, "latent_dim=4,8", "encoder=mlp,conv", "sweep.sampler=grid")
    assert (status, err) == (0, ""), out
    assert "4 trials; grid" in out
    assert len(list(find_runs(Path("logs")))) == 4


def test_another_launcher_gets_batches(command: Command) -> None:
    typed = (*SMALL, "hydra/launcher=basic", "hydra.sweeper.batch=2", "latent_dim=4,8", LR, "sweep.trials=3")
    status, out, err = command(*typed)
    assert (status, err) == (0, ""), out
    assert "this launcher runs batches: 2 trials at a time" in out
    record = read_json(Path("logs/sweeps/vae_latent_dim_optimizer.lr/search.json"))
    assert [trial["state"] for trial in record["trials"]] == ["complete"] * 3


def test_a_storage_that_goes_away_is_said_and_not_shown_as_a_mistake(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaelab.sweeps.search.search.LONGEST_OUTAGE", 0.0)
    monkeypatch.setattr("vaelab.sweeps.search.search.SECONDS_BETWEEN", 0.1)
    complete = Study.complete

    def loses_its_table(self: Study, trial: Any, values: Any) -> None:
        with sqlite3.connect("logs/sweeps/vae_latent_dim/study.db") as database:
            database.execute("ALTER TABLE trials RENAME TO gone")
        database.close()
        complete(self, trial, values)

    monkeypatch.setattr(Study, "complete", loses_its_table)
    status, out, err = command(*SMALL, "latent_dim=4,8", "sweep.trials=2", "sweep.slots=1")
    assert status == 1
    assert "no such table: trials; the runs are kept, and the same command goes on with them" in err
    assert "what was found cannot be shown" in out
    assert "mistake" not in err
    assert "Traceback" not in err


def test_a_server_s_password_is_in_no_record(command: Command, tmp_path: Path) -> None:
    with postgresql.server() as url:
        storage = url.replace("vaelab@", "vaelab:geheim@")  # the server trusts whoever is here
        status, out, err = command(*SMALL, "latent_dim=4,8", "sweep.trials=1", f"sweep.storage={storage}")
    assert (status, err) == (0, ""), out
    assert "postgresql+psycopg://vaelab:***@127.0.0.1" in out
    assert len(list(find_runs(Path("logs")))) == 1
    for file in tmp_path.rglob("*"):
        assert b"geheim" not in (file.read_bytes() if file.is_file() else b""), file


def test_a_search_that_an_experiment_asks_for(command: Command) -> None:
    Path("configs/experiment").mkdir(parents=True)
    experiment = {
        "defaults": [{"override /hydra/sweeper": "optuna"}],
        "sweep": {"trials": 2, "sampler": "random"},
        "hydra": {"sweeper": {"params": {"latent_dim": "4,8", "optimizer.lr": "interval(0.001, 0.002)"}}},
    }
    text = OmegaConf.to_yaml(OmegaConf.create(experiment))
    Path("configs/experiment/mine.yaml").write_text(f"# @package _global_\n{text}")
    small = [word for word in SMALL if not word.startswith("hydra/")]
    status, out, err = command("experiment=mine", *small)
    assert (status, err) == (0, ""), out
    assert "2 trials; random" in out
    for run in find_runs(Path("logs")):
        assert {*read_manifest(run)["sweep"]["swept"]} == {"latent_dim", "optimizer.lr"}
    (pasted,) = (line for line in out.splitlines() if line.endswith("seed=0,1,2,3,4"))
    status, out, err = command(*shlex.split(pasted)[2:])
    assert (status, err) == (0, ""), out
    assert "5 completed  logs/sweeps/vae_seed" in out


@pytest.mark.parametrize(
    "typed, said",
    [
        ((), "hydra/sweeper=optuna: no setting has several values: there is nothing to search"),
        (("seed=0,1", LR), "seed=0,1: is not searched: the best seed is only the luckiest one"),
        (("latent_dim=choice()",), "latent_dim=choice(): "),
        (("latent_dim=range(4,2)",), "latent_dim=range(4,2): holds no value"),
        (("latent_dimm=2,4",), "latent_dimm"),
        (("encoder=mlp,cov",), "encoder=cov"),
        (("optimizer.lr=tag(log,interval(0,1))",), "a logarithm needs numbers above 0"),
        (("optimizer.lr=interval(1,0.1)",), "its lower end 1 is above its upper end 0.1"),
        (("optimizer.lr=tag(lin,interval(0.1,1))",), "the tag lin says nothing here"),
        (("latent_dim=int(interval(-1,4))",), "latent_dim=-1: must be a positive integer"),
        (("latent_dim=interval(1,4)",), "latent_dim=interval(1,4): takes whole numbers: latent_dim=int(interval(1,4))"),
        ((LR, "sweep.trials=0"), "sweep.trials=0: must be a positive integer"),
        ((LR, "sweep.sampler=tpee"), "sweep.sampler=tpee: must be one of tpe, cmaes, random, grid, nsgaii (did you mean 'tpe'?)"),
        ((LR, "sweep.sampler_options={n_startup: 3}"), "TPESampler does not take them"),
        ((LR, "sweep.sampler=grid"), "has no grid: give values, or a range(...)"),
        ((LR, "sweep.sampler=cmaes", "sweep.objectives={val/rate: min, val/distortion: min}"), "sweep.sampler=cmaes: searches for one objective"),
        ((LR, "sweep.objectives={test/elbo: max}"), "sweep.objectives=test/elbo: must be one of val/elbo"),
        ((LR, "sweep.objectives={val/rate: least}"), "sweep.objectives.val/rate=least: must be one of min, max"),
        ((LR, "sweep.objectives=[val/rate]"), "must be a mapping"),
        ((LR, "score.name=val/foo"), "score.name=val/foo: must be what validation measures"),
        ((LR, "data.val_size=0"), "data.val_size=0: a search chooses by validation"),
        ((LR, "sweep.pruner=median", "sweep.objectives={val/rate: min, val/distortion: min}"), "sweep.pruner=median: a trial is given up by one number"),
        ((LR, "sweep.pruner=median", "hydra/launcher=basic"), "sweep.pruner=median: needs a launcher that takes jobs one by one"),
        ((LR, "sweep.pruner=median", "sweep.objectives={val/rate: min}"), "sweep.pruner=median: goes by the score that a run reports: set score.name=val/rate score.mode=min"),
        ((LR, "sweep.storage=5"), "sweep.storage=5: must be text"),
        (("latent_dim=4,8", "sweep.sampler=grid", "sweep.trials=1"), "sweep.trials=1: a grid has as many as it has points, here 2"),
        ((LR, "sweep.pruner=halving"), "sweep.pruner=halving: must be one of none, median, hyperband"),
        ((LR, "sweep.storage=nowhere"), "sweep.storage=nowhere: is no storage"),
        ((LR, "sweep.storage=postgresql://me:geheim@127.0.0.1:1/s"), "postgresql+psycopg://me:***@127.0.0.1:1/s: cannot be used"),
        ((LR, "hydra.sweeper.n_trials=3"), "n_trials"),
    ],
)  # fmt: skip
def test_what_is_refused_before_the_first_job(
    command: Command, tmp_path: Path, typed: tuple[str, ...], said: str
) -> None:
    status, out, err = command(*SMALL, *typed)
    assert status == 2, out + err
    assert said in err
    assert out == ""
    assert "Traceback" not in err
    assert "geheim" not in err
    assert list((tmp_path / "here").iterdir()) == []


def test_a_setting_of_a_search_without_one_is_refused(command: Command) -> None:
    grid = [word for word in SMALL if not word.startswith("hydra/")]
    status, out, err = command(*grid, "latent_dim=4,8", "sweep.trials=5")
    assert (status, out) == (2, "")
    assert "sweep.trials=5: says nothing of a grid; a search is hydra/sweeper=optuna" in err


def test_a_locked_database_is_refused_before_the_first_job(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaelab.sweeps.search.storage.PATIENCE", 0.2)
    folder = Path("logs/sweeps/vae_latent_dim")
    folder.mkdir(parents=True)
    with sqlite3.connect(folder / "study.db") as database:
        database.execute("CREATE TABLE t (x)")
        database.commit()
        database.execute("BEGIN EXCLUSIVE")
        status, out, err = command(*SMALL, "latent_dim=4,8")
    database.close()
    assert (status, out) == (2, "")
    assert "study.db: is locked by another program" in err
    assert list(find_runs(Path("logs"))) == []


APPLICATION = """
import hydra
from omegaconf import OmegaConf
from hydra.core.config_store import ConfigStore

ConfigStore.instance().store(name="application", node={"x": 0.0, "y": "a", "broken": False})

@hydra.main(version_base="1.3", config_path=None, config_name="application")
def main(cfg):
    if cfg.broken and cfg.x > 0.5:
        raise ValueError("too large")
    return (cfg.x - 0.3) ** 2 + (cfg.y == "b")

main()
"""


@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_any_other_application(launcher: str, tmp_path: Path) -> None:
    (tmp_path / "application.py").write_text(APPLICATION)
    typed = [
        "-m",
        "hydra/sweeper=optuna",
        f"hydra/launcher={launcher}",
        "hydra.sweeper.batch=2",
        "x=interval(0,1)",
        "y=a,b",
    ]
    typed += ["hydra.sweeper.trials=4", "hydra.sweeper.sampler=random"]
    if launcher == "local":
        typed.append("broken=true")

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "application.py", *typed], cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    out = run()
    assert "4 trials: " in out
    assert "best: value " in out
    assert "this launcher runs batches: 2 trials at a time" in out
    if launcher == "local":
        assert "failed: too large" in out
    assert "# " not in run()  # all have been made
