"""``-m``: from what is typed to the commands of single runs, and from how they end to an exit status. The commands are stood in for by a script."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from vaelab.commands import entry, sample, train
from vaelab.commands.multirun import Multirun
from vaelab.data import sources
from vaelab.runs import RunDirectory, read_json, read_manifest
from vaelab.sweeps.job import Job

TASKS = {"train": (train.task, train.planned), "sample": (sample.task, None)}
SMALL = ("data=digits", "logger=none", "trainer=cpu", "sweep.slots=2")

#: notes what it was told; ends as NAME=VALUE -> status in $ENDS says
SCRIPT = """
    #!{python}
    import json, os, sys
    from pathlib import Path
    from vaelab.runs import RunDirectory, write_json, write_status
    from vaelab.sweeps.job import Place
    told = {{"argv": sys.argv, "full_error": os.environ.get("HYDRA_FULL_ERROR"), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}}
    place = Place.told()
    ends = {{word: end for word, end in json.loads(os.environ["ENDS"]).items() if word in sys.argv}}
    end = next(iter(ends.values()), "completed")
    if place is not None and end != "refused":
        run = RunDirectory.create(place.folder, place.directory)
        write_json(run.manifest_file, {{"schema": 2, "sweep": place.sweep, "best_score": float(len(sys.argv))}})
        write_status(run.status_file, end, error=None if end == "completed" else f"it is {{end}}")
    Path("told").mkdir(exist_ok=True)
    Path("told", str(os.getpid())).write_text(json.dumps(told))
    print(f"{{Path(sys.argv[0]).name}}: the last words")
    sys.exit({{"completed": 0, "failed": 1, "refused": 2, "interrupted": 75}}[end])
    """

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """(name, what is typed, how single runs end) -> exit status, what is printed, and what is said of errors."""
    (tmp_path / "bin").mkdir()
    for name in ("vae-train", "vae-sample"):
        script = tmp_path / "bin" / name
        script.write_text(dedent(SCRIPT).lstrip().format(python=sys.executable))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def _command(name: str, *argv: str, ends: dict[str, str] | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(tmp_path / "bin" / f"vae-{name}"), *argv])
        monkeypatch.setenv("ENDS", json.dumps(ends or {}))
        task, planned = TASKS[name]
        status = entry.run(name, task, planned=planned)
        out, err = capsys.readouterr()
        return status, out, err

    return _command


def told() -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in Path("told").iterdir()]
    return sorted(found, key=lambda one: one["argv"])


def test_a_job_is_the_command_of_a_single_run(command: Command, tmp_path: Path) -> None:
    (tmp_path / "more" / "experiment").mkdir(parents=True)
    (tmp_path / "more" / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine")
    typed = ["experiment=mine", *SMALL, f"hydra.searchpath=[file://{tmp_path}/more]"]
    status, out, err = command("train", "-m", "latent_dim=2,3", *typed, "hydra.sweeper.max_batch_size=null")
    assert (status, err) == (0, ""), out
    search_path = f"hydra.searchpath=[file://{tmp_path}/more]"
    assert [one["argv"] for one in told()] == [
        [str(tmp_path / "bin" / "vae-train"), search_path, f"latent_dim={dim}", "experiment=mine", *SMALL]
        for dim in (2, 3)
    ]
    assert [one["full_error"] for one in told()] == ["0", "0"]
    runs = sorted(Path("logs/sweeps/mine_latent_dim").glob("latent_dim=*"))
    assert [run.name.partition("_lat")[0][:12] for run in runs] == ["latent_dim=2", "latent_dim=3"]
    assert read_manifest(RunDirectory(runs[1]))["sweep"] == {
        "name": "mine_latent_dim",
        "swept": {"latent_dim": 3},
    }
    assert out.splitlines()[-4:] == [
        "       8  latent_dim=2",
        "       8  latent_dim=3",
        "2 completed  logs/sweeps/mine_latent_dim",
        "report  logs/sweeps/mine_latent_dim/report.html",
    ]


@pytest.mark.parametrize(
    "how, ends, status",
    [
        ((), {}, 0),
        ((), {"seed=1": "failed"}, 3),
        ((), {"seed=1": "refused"}, 3),
        ((), {"seed=1": "interrupted"}, 3),
        ((), {"seed=0": "refused", "seed=1": "refused", "seed=2": "refused"}, 2),
        ((), {"seed=0": "failed", "seed=1": "failed", "seed=2": "failed"}, 3),
        (("hydra.sweeper.max_batch_size=1",), {"seed=1": "failed"}, 3),
        (("hydra/launcher=basic",), {"seed=1": "failed"}, 3),
    ],
)
def test_exit_status(command: Command, how: tuple[str, ...], ends: dict[str, str], status: int) -> None:
    found, out, err = command("train", "-m", "seed=0,1,2", *SMALL, *how, ends=ends)
    assert found == status, out + err
    assert len(told()) == 3, "the others go on"
    for end in ends.values():
        reason = "the last words" if end == "refused" else f"it is {end}"
        assert f"{end}: {reason}" in out


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"schema": 9, "jobs": []}', '{"schema": 1, "jobs": [{}]}', "\x00\xff"]
)
def test_a_record_that_cannot_be_used_is_said_and_made_anew(command: Command, content: str) -> None:
    folder = Path("logs/sweeps/vae_seed")
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(content)
    status, out, err = command("train", "-m", "seed=0,1", *SMALL)
    assert (status, err) == (0, "")
    assert "sweep.json is not used and made anew (" in out
    assert len(read_json(folder / "sweep.json")["jobs"]) == 2


def test_a_record_that_cannot_be_written(command: Command) -> None:
    (Path("logs/sweeps/vae_seed/sweep.json") / "in-the-way").mkdir(parents=True)
    status, out, err = command("train", "-m", "seed=0,1,2", *SMALL)
    assert status == 1, out
    assert err == (
        f"vae-train: {Path.cwd()}/logs/sweeps/vae_seed/sweep.json: Is a directory; 3 jobs were not begun: the same command goes on with the sweep\n"
    )
    assert not Path("told").exists()


def test_jobs_of_another_command_with_the_same_name_stay_and_are_mentioned(command: Command) -> None:
    for typed in ("seed=0,1", "latent_dim=2,3", "seed=0,1,2"):
        status, out, _ = command("train", "-m", typed, *SMALL, "sweep.name=s")
        assert status == 0
        others = "2 other jobs are there already, as {}: they stay, in one table with these; sweep.name=NAME keeps them apart"
        said = [line for line in out.splitlines() if "other job" in line]
        mentioned = {"latent_dim=2,3": "seed=0", "seed=0,1,2": "latent_dim=2"}
        assert said == [others.format(mentioned.get(typed))] * (typed in mentioned)
    names = [job["name"] for job in read_json(Path("logs/sweeps/s/sweep.json"))["jobs"]]
    assert names == ["seed=0", "seed=1", "latent_dim=2", "latent_dim=3", "seed=2"]


def test_a_sweep_that_a_configuration_asks_for(command: Command) -> None:
    status, out, _ = command("train", "-m", "experiment=rate_distortion", *SMALL)
    assert status == 0, out
    runs = [*Path("logs/sweeps/rate_distortion_objective.beta").glob("objective*")]
    assert len(runs) == 5
    assert {run.name.partition("_")[0] for run in runs} >= {"objective.beta=0.1", "objective.beta=10"}


def test_a_job_is_no_sweep_whatever_its_configuration_says(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("configs/experiment").mkdir(parents=True)
    Path("configs/experiment/many.yaml").write_text("# @package _global_\nhydra: {mode: MULTIRUN}\nseed: 5")
    seen: list[int] = []
    monkeypatch.setitem(TASKS, "train", (lambda cfg, typed: seen.append(cfg.seed), train.planned))
    monkeypatch.setenv("VAELAB_SWEEP", "{}")
    assert command("train", "experiment=many", *SMALL)[0] == 0
    assert seen == [5]


def test_a_command_that_makes_no_runs_shows_what_each_job_printed(command: Command) -> None:
    status, out, err = command("sample", "-m", "run=a,b", "sweep.slots=1", "seed=3")
    assert (status, out) == (2, "")
    assert "sweep.slots" in err
    status, out, _ = command("sample", "-m", "run=a,b", "seed=3")
    assert status == 0
    assert "# vae-sample run=a seed=3\nvae-sample: the last words\n" in out
    assert out.splitlines()[-2:] == ["run=a seed=3  done", "run=b seed=3  done"]
    status, out, _ = command("sample", "-m", "run=a,b", ends={"run=b": "failed"})
    assert status == 3
    assert out.splitlines()[-1] == "run=b  exit status 1"


@pytest.mark.parametrize("trainer, gpus", [("default", ["GPU-a", "GPU-b"]), ("cpu", [None, None])])
def test_each_job_has_a_gpu_of_its_own(
    trainer: str, gpus: list[str | None], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-a)'\necho 'GPU 1: B (UUID: GPU-b)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    small = [word for word in SMALL if not word.startswith("trainer=")]
    status, out, _ = command("train", "-m", "seed=0,1", *small, f"trainer={trainer}")
    assert status == 0, out
    assert sorted([one["gpus"] for one in told()], key=str) == gpus


def test_refused_where_the_command_is_not_installed(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "vae-train").unlink()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, err = command("train", "-m", "seed=0,1", *SMALL)
    assert status == 1
    assert "vae-train is started as a command of its own, and is not installed" in err


@pytest.mark.parametrize("arrives", [True, False])
def test_data_are_fetched_once_before_the_first_job(
    arrives: bool, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[list[str]] = []

    def require(name: str, data_dir: str, *, download: bool = True) -> sources.Availability:
        if name == "digits" or (fetched and arrives):
            return sources.Availability(name, "embedded", Path(data_dir))
        if not download:
            raise sources.DataUnavailable(name, "the server has gone away")
        return sources.Availability(name, "network", Path(data_dir))

    def run(words: list[str], **_: object) -> None:
        fetched.append(words[-2:])

    monkeypatch.setattr(sources, "require", require)
    monkeypatch.setattr(train.subprocess, "run", run)
    data_dir = f"paths.data_dir=nowhere-{arrives}"
    typed = ("-m", "seed=0,1", "data=mnist", data_dir, "logger=none", "trainer=cpu", "sweep.slots=2")
    status, out, err = command("train", *typed)
    assert fetched == [["mnist", f"nowhere-{arrives}"]]
    assert status == (0 if arrives else 2), out
    assert ("the server has gone away" in err) is not arrives


@pytest.mark.parametrize(
    "typed",
    [
        ("data=digits",),
        ("data=mnist", "data.fallback=digits", "paths.data_dir=empty"),
        (
            "data=digits",
            "name=d${latent_dim}${hydra:runtime.choices.encoder}",
            "+trainer.max_time=00:01:00:00",
            "tags=[a,b]",
        ),
        ("data=arrays", "data.path=own.npz", "data.val_size=4"),
        ("init_from=parent", "optimizer.lr=1e-4", "train_only=decoder"),
    ],
    ids=["plain", "fallback", "odd", "own data", "init_from"],
)
def test_a_job_has_the_identity_of_the_single_run(
    typed: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import numpy as np

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    tiny = (
        "debug=fast",
        "logger=none",
        "trainer=cpu",
        "encoder.hidden=[8]",
        "decoder.hidden=[8]",
        "latent_dim=2",
    )
    if "init_from=parent" in typed:
        assert entry.run("train", train.task, argv=["data=digits", *tiny]) == 0
        (parent,) = Path("logs/debug").iterdir()
        parent.rename("parent")
        tiny = ("logger=none", "trainer=cpu", "latent_dim=2")
    images = np.zeros((40, 8, 8), dtype=np.uint8)
    np.savez("own.npz", train=images, test=images)
    jobs: list[Job] = []

    def instead(self: Multirun, job_overrides: Any, *_: object) -> list[Any]:
        jobs.extend(self.jobs(job_overrides))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Multirun, "launch", instead)
        status = entry.run("train", train.task, planned=train.planned, argv=["-m", *typed, *tiny, "seed=7,8"])
    assert status == 130
    assert entry.run("train", train.task, argv=[*jobs[1].overrides]) == 0, capsys.readouterr()
    runs = [path.parent for path in Path("logs").rglob("manifest.json")]
    identities = [read_manifest(RunDirectory(run))["identity"]["sha256"] for run in runs]
    assert jobs[1].identity in identities
    assert jobs[0].identity not in identities
    assert os.environ.get("VAELAB_SWEEP") is None
