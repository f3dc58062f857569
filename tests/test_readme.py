"""Every command of the README is run, in a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import postgresql
from slurm_cluster import Cluster, _cluster, cluster  # noqa: F401 (fixtures)
from vaelab.runs import Status, read_status, write_status

REPOSITORY = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- (?P<how>[^>]+) -->\n```bash\n(?P<lines>.*?)```", re.DOTALL)
HOW = (
    "run",
    "run with debug=fast",
    "run with two trials",
    "run in a run directory",
    "run in an interrupted run directory",
    "run last in a run directory",
    "refused",
    "run by .ci/run",
    "run in a copy",
    "run on a Slurm cluster",
)


def commands(how: str) -> list[str]:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    lines = [
        line for block in BLOCK.finditer(text) if block["how"] == how for line in block["lines"].splitlines()
    ]
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def test_the_checks_run_the_test_commands() -> None:
    checks = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert commands("run by .ci/run") == ["make test", 'make test ARGS="-m slow"']
    assert "make test" in checks
    assert "-m slow" in checks


def call(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    scripts = Path(sys.executable).parent
    words = ["bash", "-c", command]
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        words, cwd=folder, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True, timeout=1500, check=False
    )  # fmt: skip


def test_every_block_is_marked_with_a_way_that_a_test_knows() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert {block["how"] for block in BLOCK.finditer(text)} == set(HOW)
    unmarked = list(re.findall(r"^(vae-\S+)", re.sub(BLOCK, "", text), re.MULTILINE))
    assert unmarked == [], "commands outside the marked blocks are not run"


@pytest.mark.slow
@pytest.mark.parametrize("command", commands("refused"))
def test_readme_commands_in_real_processes_refused(command: str, tmp_path: Path) -> None:
    done = call(command, tmp_path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", commands("run with debug=fast"))
def test_readme_commands_in_real_processes_shortened_by_debug_fast(
    command: str, tmp_path: Path, mnist_dir: Path
) -> None:
    done = call(f"{command} debug=fast", tmp_path, DATA_DIR=str(mnist_dir))
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.rglob("evaluation.json"))


@pytest.mark.slow
@pytest.mark.parametrize("command", commands("run with two trials"))
def test_readme_commands_in_real_processes_searches_of_two_short_trials(command: str, tmp_path: Path) -> None:
    command = re.sub(r" sweep.trials=\d+", "", command)
    with postgresql.server() as url:
        command = command.replace("postgresql://me@host/studies", url)
        done = call(f"{command} sweep.trials=2 data=digits debug=fast", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trials: 2 completed" in done.stdout


@pytest.mark.slow
def test_readme_commands_in_real_processes_make_train_then_look_at_the_run(
    tmp_path: Path, mnist_dir: Path
) -> None:
    first, *others = commands("run")
    assert first == "make train"
    logs = tmp_path / "logs"
    done = call(first, REPOSITORY, DATA_DIR=str(mnist_dir), VAELAB_LOG_DIR=str(logs))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "grey-bce" in done.stdout
    (run,) = (logs / "quickstart").iterdir()
    for command in [*others, *(c.replace("DIR", str(run), 1) for c in commands("run in a run directory"))]:
        done = call(command, tmp_path, DATA_DIR=str(mnist_dir))
        assert done.returncode == 0, command + done.stdout + done.stderr
    write_status(run / "status.json", Status.INTERRUPTED, exit_status=75)
    for command in commands("run in an interrupted run directory"):
        done = call(command.replace("DIR", str(run)), tmp_path, DATA_DIR=str(mnist_dir))
        assert done.returncode == 0, command + done.stdout + done.stderr
        assert read_status(run / "status.json").status is Status.COMPLETED
    for command in commands("run last in a run directory"):
        done = call(command.replace("DIR", str(run)), tmp_path, DATA_DIR=str(mnist_dir))
        assert done.returncode == 0, command + done.stdout + done.stderr
        assert list((run / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_readme_commands_in_real_processes_on_a_slurm_cluster(
    cluster: Cluster,  # noqa: F811
    tmp_path: Path,
) -> None:
    (command,) = commands("run on a Slurm cluster")
    done = call(f"{command} data=digits debug=fast logger=none", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 completed" in done.stdout
    assert len(cluster.jobs()) == 4


@pytest.mark.slow
def test_readme_commands_in_real_processes_the_two_lines_of_uv(tmp_path: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    for name in listed.splitlines():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    for command in commands("run in a copy"):
        done = call(command, tmp_path, VIRTUAL_ENV="")
        assert done.returncode == 0, command + done.stdout + done.stderr
    done = call(".venv/bin/vae-train --help", tmp_path)
    assert "mlp" in done.stdout
