"""The recorded code is had again beside the working tree, and nothing is left of it."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vaelab.errors import SettingError
from vaelab.runs import RunDirectory, Secrets
from vaelab.runs.code import PATCH, UNTRACKED, code_record, source_digest
from vaelab.runs.record import Record
from vaelab.runs.worktree import checked_out, differs, is_here, recorded_code


@dataclass
class Project:
    """A repository with a package, and a run that was recorded there."""

    top: Path
    run: RunDirectory

    @property
    def package(self) -> Path:
        return self.top / "src" / "vaelab"

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        done = subprocess.run(["git", "-C", str(self.top), *identity, *arguments], check=True, capture_output=True, text=True)  # fmt: skip
        return done.stdout.strip()

    def record(self) -> Record:
        """Of the working tree as it is."""
        shutil.rmtree(self.run.code, ignore_errors=True)
        found = code_record(self.run, Secrets({}), self.package)
        found["code"]["package"]["source"] = source_digest(self.package)
        return Record(self.run.path, self.run, {"vaelab": "0.1.0", **found}, {}, {1: 1.0})


@pytest.fixture
def project(tmp_path: Path) -> Project:
    top = tmp_path / "project"
    made = Project(top, RunDirectory.create(tmp_path / "logs"))
    made.package.mkdir(parents=True)
    for name in ("__init__.py", "loss.py"):
        (made.package / name).write_text("value = 1\n")
    made.git("init", "-b", "main")
    made.git("add", ".")
    made.git("commit", "-m", "first")
    return made


def texts(source: Path) -> dict[str, str]:
    return {path.relative_to(source).as_posix(): path.read_text() for path in sorted(source.rglob("*.py"))}


def test_commit_patch_and_archive_are_the_code_again(project: Project, tmp_path: Path) -> None:
    (project.package / "loss.py").write_text("value = 2\n")
    (project.package / "new.py").write_text("value = 3\n")
    record, then = project.record(), texts(project.top / "src")
    project.git("add", ".")
    project.git("commit", "-m", "second")
    (project.package / "loss.py").write_text("value = 4\n")
    code = recorded_code(record, project.package)
    assert code.foreign == "carries a patch and an archive of files in the record"
    with checked_out(code, tmp_path / "tree") as source:
        assert source == tmp_path / "tree" / "src"
        assert texts(source) == then
        assert not differs(source, record.manifest)
        (source / "vaelab" / "loss.py").write_text("value = 5\n")
        assert differs(source, record.manifest)
    assert not (tmp_path / "tree").exists()
    assert len(project.git("worktree", "list").splitlines()) == 1
    assert (project.package / "loss.py").read_text() == "value = 4\n"


def test_nothing_is_left_of_one_that_was_broken_off(project: Project, tmp_path: Path) -> None:
    code = recorded_code(project.record(), project.package)
    with pytest.raises(KeyboardInterrupt), checked_out(code, tmp_path / "tree"):
        raise KeyboardInterrupt
    assert not (tmp_path / "tree").exists()
    assert len(project.git("worktree", "list").splitlines()) == 1


def test_no_hook_runs(project: Project, tmp_path: Path) -> None:
    hook = project.top / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    with checked_out(recorded_code(project.record(), project.package), tmp_path / "tree"):
        assert not (tmp_path / "ran").exists()


def test_history_of_a_branch_is_ones_own(project: Project) -> None:
    record = project.record()
    assert recorded_code(record, project.package).foreign is None
    project.git("checkout", "--detach")
    (project.package / "loss.py").write_text("value = 2\n")
    project.git("commit", "-am", "of no branch")
    record = project.record()
    assert recorded_code(record, project.package).foreign is None, "it is what is checked out"
    project.git("checkout", "main")
    assert recorded_code(record, project.package).foreign == "is a commit of no branch here"
    project.git("branch", "side", record.manifest["git"]["commit"])
    assert recorded_code(record, project.package).foreign is None


def test_what_is_imported_is_known_by_its_digest(project: Project) -> None:
    from vaelab.runs.code import package_record
    from vaelab.runs.git import git_state

    record, state = project.record(), git_state()
    assert not is_here(record.manifest, state)
    assert is_here({**record.manifest, "code": {"package": package_record()}}, state)
    early = {"git": {"repository": "package", "commit": "1" * 40, "dirty": False}}
    for here, same in ((early["git"], True), ({**early["git"], "dirty": True}, False), ({**early["git"], "commit": "2" * 40}, False), (None, False)):  # fmt: skip
        assert is_here(early, here) is same


def without_commit(record: Record) -> dict[str, Any]:
    return {"git": {**record.manifest["git"], "commit": "1" * 40}}


REFUSED: list[tuple[Callable[[Record], dict[str, Any]], str]] = [
    (without_commit, r"code=1{40}: is no commit of the repository .*--here"),
    (lambda record: {"git": {**record.manifest["git"], "commit": "--output=x"}}, "code=--output=x: is no commit"),
    (lambda record: {"git": None}, "vaelab 0.1.0, installed: is not the package that is here.*--here"),
    (lambda record: {"git": {**record.manifest["git"], "dirty": True}, "code": None}, "changes that are not on record"),
    (lambda record: {"code": {**record.manifest["code"], "patch": {"file": "../x", "sha256": ""}}}, "is no file of a record"),
]  # fmt: skip


@pytest.mark.parametrize("change, said", REFUSED)
def test_refused(project: Project, change: Callable[[Record], dict[str, Any]], said: str) -> None:
    record = project.record()
    changed = Record(record.path, record.run, {**record.manifest, **change(record)}, {}, {})
    with pytest.raises(SettingError, match=said):
        recorded_code(changed, project.package)


def test_a_piece_that_was_changed_is_refused(project: Project) -> None:
    (project.package / "loss.py").write_text("value = 2\n")
    record = project.record()
    (project.run.path / PATCH).write_bytes(b"something else")
    with pytest.raises(SettingError, match=r"changes\.patch: is not what was recorded"):
        recorded_code(record, project.package)
    (project.run.path / PATCH).unlink()
    with pytest.raises(SettingError, match=r"changes\.patch: cannot be read"):
        recorded_code(record, project.package)


def archive(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, "src/vaelab/loss.py", len(content)
        packed.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


LINK = b"diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc\n"
HOSTILE = {
    "above": (UNTRACKED, archive("../outside.py"), "is not unpacked"),
    "a link": (UNTRACKED, archive("link.py", tarfile.SYMTYPE), "is not unpacked"),
    "over a file": (UNTRACKED, archive("src/vaelab/loss.py"), "is there already"),
    "a patch with a link": (PATCH, LINK, "is not applied"),
    "a patch of something else": (PATCH, b"diff --git a/y b/y\n--- a/y\n+++ b/y\n@@ -1 +1 @@\n-x\n+z\n", "is not applied"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pieces_write_nothing_outside(project: Project, tmp_path: Path, kind: str) -> None:
    name, content, said = HOSTILE[kind]
    record = project.record()
    path = record.path / name
    path.parent.mkdir()
    path.write_bytes(content)
    described = {"file": name, "sha256": hashlib.sha256(content).hexdigest()}
    record.manifest["code"]["patch" if name == PATCH else "untracked"] = described
    code = recorded_code(record, project.package)
    (tmp_path / "work").mkdir()
    before = texts(project.top)
    with pytest.raises(SettingError, match=said), checked_out(code, tmp_path / "work" / "tree"):
        pytest.fail("it was unpacked")
    assert {path.name for path in (tmp_path / "work").iterdir()} <= {"patch", "untracked"}
    assert not list(tmp_path.glob("outside*")) + list(tmp_path.glob("x"))
    assert texts(project.top) == before
