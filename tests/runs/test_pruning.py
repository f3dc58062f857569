"""vae-runs --prune removes checkpoints of finished runs, and nothing else, and says so in the record."""

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from recorded import a_run
from vaelab.commands.runs import main
from vaelab.errors import SettingError
from vaelab.runs import RunDirectory, Status, complete_manifest, read_manifest, write_status
from vaelab.runs.pruning import prune, survey

SIZES = {"best.ckpt": 3000, "last.ckpt": 2000, "previous.ckpt": 1000, "step_7.ckpt": 500}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def a_pruneable(logs: Path, name: str, status: Status = Status.COMPLETED) -> RunDirectory:
    run = RunDirectory(a_run(logs, name, None))
    for file, size in SIZES.items():
        content = file[0].encode() * size
        (run.checkpoints / file).write_bytes(content)
        (run.checkpoints / f"{file}.sha256").write_text(f"{digest(content)}  {file}\n")
    (run.figures / "samples.png").write_bytes(b"picture")
    if status is Status.COMPLETED:
        run.weights_file.write_bytes(b"weights")
        complete_manifest(run, status, best_step=7, weights=digest(b"weights"))
    elif status is not Status.RUNNING:
        complete_manifest(run, status)
    write_status(run.status_file, status, exit_status=None if status is Status.RUNNING else 0)
    return run


def files(run: RunDirectory) -> dict[str, bytes]:
    """What is in it, but for the manifest."""
    paths = (p for p in run.path.rglob("*") if p.is_file() and p != run.manifest_file)
    return {str(p.relative_to(run.path)): p.read_bytes() for p in paths}


def test_checkpoints_go_and_all_else_stays(tmp_path):
    run = a_pruneable(tmp_path, "a")
    before, manifest = files(run), read_manifest(run)
    assert main([str(tmp_path), "--prune", "--yes"]) == 0
    assert files(run) == {name: content for name, content in before.items() if ".ckpt" not in name}
    after = read_manifest(run)
    (note,) = after.pop("pruned")
    assert after == manifest, "nothing else of the record has changed, nor when the run finished"
    assert {each["file"]: each["bytes"] for each in note["removed"]} == SIZES
    for each in note["removed"]:
        assert each["sha256"] == digest(before[f"checkpoints/{each['file']}"])
    assert note["at"] > manifest["finished"]
    assert main([str(tmp_path), "--prune", "--yes"]) == 0
    assert read_manifest(run)["pruned"] == [note]


def test_without_a_terminal_it_only_lists(tmp_path, capsys):
    run = a_pruneable(tmp_path, "a")
    before, record = files(run), run.manifest_file.read_bytes()
    assert main([str(tmp_path), "--prune"]) == 2
    out = capsys.readouterr().out
    for name in SIZES:
        assert name in "".join(out.split())
    assert (files(run), run.manifest_file.read_bytes()) == (before, record)


@pytest.mark.parametrize(
    "answer, removed", [("y", True), ("yes", True), ("", False), ("n", False), (None, False)]
)
def test_a_person_is_asked(tmp_path, monkeypatch, answer, removed):
    def asked(_question):
        if answer is None:
            raise EOFError
        return answer

    run = a_pruneable(tmp_path, "a")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", asked)
    assert main([str(tmp_path), "--prune"]) == 0
    assert (not list(run.checkpoints.iterdir())) == removed


@pytest.mark.parametrize("status", [Status.INTERRUPTED, Status.FAILED, Status.PRUNED])
def test_one_that_did_not_complete_has_to_be_named_and_agreed_to(tmp_path, capsys, status):
    run = a_pruneable(tmp_path, "a", status)
    before = files(run)
    for asked, expected in (([str(tmp_path), "--prune", "--yes"], 0), ([str(run.path), "--prune"], 2)):
        assert main(asked) == expected
        assert status.value in capsys.readouterr().out
        assert files(run) == before
    assert main([str(run.path), "--prune", "--yes"]) == 0
    assert list(run.checkpoints.iterdir()) == []


def test_a_yes_to_the_question_is_none_for_one_that_did_not_complete(tmp_path, monkeypatch):
    complete, interrupted = a_pruneable(tmp_path, "a"), a_pruneable(tmp_path, "b", Status.INTERRUPTED)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _question: "y")
    before = files(interrupted)
    assert main([str(complete.path), str(interrupted.path), "--prune"]) == 2
    assert list(complete.checkpoints.iterdir()) == []
    assert files(interrupted) == before


def test_one_that_runs_keeps_everything_whatever_is_asked(tmp_path, capsys):
    run = a_pruneable(tmp_path, "a", Status.RUNNING)
    before = files(run)
    assert main([str(run.path), "--prune", "--yes"]) == 2
    assert "running" in capsys.readouterr().out
    assert files(run) == before


def test_one_that_was_killed_has_to_be_named_and_agreed_to(tmp_path, capsys):
    run = a_pruneable(tmp_path, "a", Status.RUNNING)
    record = json.loads(run.status_file.read_text())
    silent = {"process": "0123456789ab:17", "updated": "2026-01-01T00:00:00.000+00:00"}
    run.status_file.write_text(json.dumps({**record, **silent}))
    before = files(run)
    for asked, expected in (([str(tmp_path), "--prune", "--yes"], 0), ([str(run.path), "--prune"], 2)):
        assert main(asked) == expected
        assert "dead" in capsys.readouterr().out
        assert files(run) == before
    assert main([str(run.path), "--prune", "--yes"]) == 0
    assert list(run.checkpoints.iterdir()) == []


def test_one_that_is_resumed_while_the_question_stands_keeps_everything(tmp_path):
    run = a_pruneable(tmp_path, "a", Status.INTERRUPTED)
    (one,), _ = survey([run.path], yes=True)
    write_status(run.status_file, Status.RUNNING)
    before = files(run)
    with pytest.raises(SettingError, match="running"):
        prune(one)
    assert files(run) == before


def test_what_was_not_shown_is_not_removed(tmp_path):
    run = a_pruneable(tmp_path, "a")
    (one,), _ = survey([tmp_path], yes=False)
    (run.checkpoints / "step_9.ckpt").write_bytes(b"new")
    with pytest.raises(SettingError, match="has changed"):
        prune(one)
    assert (run.checkpoints / "best.ckpt").is_file()


@pytest.mark.parametrize("harm", ["missing", "altered", "no digest", "no selection"])
def test_checkpoints_stay_where_the_weights_cannot_be_told(tmp_path, capsys, harm):
    run = a_pruneable(tmp_path, "a")
    if harm == "missing":
        run.weights_file.unlink()
    elif harm == "altered":
        run.weights_file.write_bytes(b"others")
    else:
        record = json.loads(run.manifest_file.read_text())
        del record["weights" if harm == "no digest" else "best_step"]
        run.manifest_file.write_text(json.dumps(record))
    before = files(run)
    assert main([str(tmp_path), "--prune", "--yes"]) == 0
    assert "kept" in capsys.readouterr().out
    assert files(run) == before


def test_links_are_neither_followed_nor_removed(tmp_path):
    run = a_pruneable(tmp_path / "logs", "a")
    target = run.path / "elsewhere.bin"
    target.write_bytes(b"kept")
    link = run.checkpoints / "linked.ckpt"
    link.symlink_to(target)
    assert main([str(tmp_path / "logs"), "--prune", "--yes"]) == 0
    assert link.is_symlink()
    assert target.read_bytes() == b"kept"
    assert not (run.checkpoints / "best.ckpt").exists()


def test_a_folder_of_checkpoints_that_is_a_link_is_not_entered(tmp_path, capsys):
    run = a_pruneable(tmp_path, "a")
    run.checkpoints.rename(run.path / "others")
    run.checkpoints.symlink_to("others")
    before = files(run)
    assert main([str(tmp_path), "--prune", "--yes"]) == 0
    assert "link" in capsys.readouterr().out
    assert files(run) == before


def test_a_link_out_of_the_run_is_refused(tmp_path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "best.ckpt").write_bytes(b"somebody's")
    run = a_pruneable(tmp_path / "logs", "a")
    for path in run.checkpoints.iterdir():
        path.unlink()
    run.checkpoints.rmdir()
    run.checkpoints.symlink_to(outside)
    assert main([str(run.path), "--prune", "--yes"]) == 2
    assert "leads out of it" in " ".join(capsys.readouterr().out.split())
    assert (outside / "best.ckpt").read_bytes() == b"somebody's"


def test_what_cannot_be_removed_is_not_on_record_as_removed(tmp_path, monkeypatch, capsys):
    run = a_pruneable(tmp_path, "a")
    unlink = Path.unlink

    def stubborn(path, missing_ok=False):
        if path.name == "last.ckpt":
            raise PermissionError("not yours")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", stubborn)
    assert main([str(tmp_path), "--prune", "--yes"]) == 2
    assert "not yours" in capsys.readouterr().err
    (note,) = read_manifest(run)["pruned"]
    assert [each["file"] for each in note["removed"]] == ["best.ckpt"]
    assert (run.checkpoints / "last.ckpt").is_file()


def test_whatever_is_gone_is_on_record_when_the_process_ends_in_between(tmp_path, monkeypatch):
    run = a_pruneable(tmp_path, "a")
    (one,), _ = survey([tmp_path], yes=False)

    class Killed(BaseException):
        pass

    def killed(path, missing_ok=False):
        os.unlink(path)
        if path.name == "best.ckpt":
            raise Killed

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(Killed):
        prune(one)
    assert "best.ckpt" in {each["file"] for each in read_manifest(run)["pruned"][0]["removed"]}


@pytest.mark.parametrize(
    "more",
    [
        ["--yes"],
        ["--prune", "--yes", "--json"],
        ["--prune", "--yes", "--bounds"],
        ["--prune", "--yes", "--split", "test"],
    ],
)
def test_options_that_mean_nothing_together_are_refused(tmp_path, more):
    run = a_pruneable(tmp_path, "a")
    assert main([str(tmp_path), *more]) == 2
    assert (run.checkpoints / "best.ckpt").is_file()
