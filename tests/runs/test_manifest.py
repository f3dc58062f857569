import json
import subprocess
import sys

import pytest

from vaelab.errors import SettingError
from vaelab.runs import (
    RunDirectory,
    Status,
    complete_manifest,
    read_manifest,
    read_status,
    start_manifest,
    write_status,
)
from vaelab.runs.manifest import git_state

GIVEN = {
    "argv": ["vae-train"],
    "overrides": ["seed=3"],
    "experiment": "reference",
    "seed": 3,
    "device": {"type": "cpu"},
    "threads": 2,
    "precision": "32-true",
    "data": {"requested": "mnist", "actual": "digits", "fallback_reason": "no network"},
}


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_a_manifest_is_started_completed_and_free_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "planted-secret")
    run = RunDirectory.create(tmp_path)
    manifest = start_manifest(run, **GIVEN)
    assert read_manifest(run) == manifest
    assert manifest["schema"] == 1
    assert manifest["status"] == "running"
    assert manifest["data"]["actual"] == "digits"
    assert manifest["versions"]["torch"]
    complete_manifest(run, Status.COMPLETED, best={"score": -104.0})
    done = read_manifest(run)
    assert done["status"] == "completed"
    assert done["finished"] >= done["created"]
    assert done["best"] == {"score": -104.0}
    assert {k: done[k] for k in GIVEN} == {k: manifest[k] for k in GIVEN}
    assert "planted-secret" not in run.manifest_file.read_text()


def test_what_is_no_primitive_or_not_the_callers_is_refused(tmp_path):
    run = RunDirectory.create(tmp_path)
    with pytest.raises(TypeError, match=r"manifest\.json\.device\.type"):
        start_manifest(run, **{**GIVEN, "device": {"type": object()}})
    with pytest.raises(TypeError, match="created"):
        start_manifest(run, **GIVEN, created="never")
    assert not run.manifest_file.exists()


def test_the_git_state_of_the_package_else_of_the_current_directory(tmp_path, monkeypatch):
    package = tmp_path / "site" / "vaelab"
    package.mkdir(parents=True)
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if git_state(package) is not None:
        pytest.skip("the temporary folder lies in a repository")
    git(project, "init")
    monkeypatch.chdir(project)
    assert git_state(package) == {"repository": "cwd", "commit": None, "dirty": False, "branch": "main"}
    (project / "a").write_text("")
    assert (git_state(package) or {})["dirty"] is True
    git(project, "add", "a")
    git(project, "commit", "-m", "a")
    state = git_state(package) or {}
    assert (len(state["commit"]), state["dirty"], state["branch"]) == (40, False, "main")
    git(package, "init")
    assert (git_state(package) or {})["repository"] == "package"
    ignored = project / ".venv" / "vaelab"  # installed inside somebody's project: that repository is not ours
    ignored.mkdir(parents=True)
    (project / ".gitignore").write_text(".venv\n")
    assert (git_state(ignored) or {})["repository"] == "cwd"
    assert git_state(package, timeout=1e-9) is None


def test_a_status_keeps_its_start_and_one_line_of_the_error(tmp_path):
    path = tmp_path / "status.json"
    first = write_status(path, Status.RUNNING)
    last = write_status(path, Status.FAILED, exit_status=1, error="two\nlines")
    assert read_status(path) == last
    assert (last.started, last.error, last.exit_status) == (first.started, "two lines", 1)
    path.write_text("{")
    assert write_status(path, Status.INTERRUPTED, exit_status=75).status == "interrupted"
    for content in (
        {"schema": 2},
        {"schema": 1, "status": "fine"},
        [],
        {"schema": 1, "status": "failed", "x": 1},
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(SettingError, match="status record"):
            read_status(path)


def test_runs_and_its_command_answer_without_torch():
    code = (
        "import sys, vaelab.runs, vaelab.runs.difference, vaelab.runs.side_by_side, vaelab.commands.runs as c;"
        "c.main([sys.argv[1]]); c.main([sys.argv[1], '--metric', 'nll']);"
        "print([m for m in ('torch', 'lightning', 'hydra', 'omegaconf', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, "."], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
