"""The archive and the patch of a run directory's code are other people's files."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from vaelab.errors import SettingError
from vaelab.runs.archive import unpack
from vaelab.runs.patch import apply_patch, safe_git

Fill = Callable[[tarfile.TarFile], None]


def packed(path: Path, *fills: Fill, form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w:gz", format=form) as tar:
        for fill in fills:
            fill(tar)
    return path


def file(name: str, content: bytes = b"x", **of_the_record: object) -> Fill:
    def fill(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for key, value in of_the_record.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(content))

    return fill


def special(name: str, kind: bytes, target: str = "") -> Fill:
    return file(name, b"", type=kind, linkname=target)


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "worktree"
    (folder / "there").mkdir(parents=True)
    (folder / "there" / "file.py").write_text("mine")
    (folder / "link").symlink_to(tmp_path)
    return folder


def state(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_files_are_unpacked_with_their_content_and_nothing_else(into: Path, tmp_path: Path) -> None:
    archive = packed(
        tmp_path / "a.tar.gz", file("new/deep/a.py", b"a = 1\n", mode=0o600, uid=0, mtime=5), file("b.sh", b"", mode=0o755), file("there/ünï.txt"),
        file("new/" + "n" * 150 + ".py"),
    )  # fmt: skip
    found = unpack(archive, into)
    assert [path.relative_to(into).as_posix() for path in found] == [
        "new/deep/a.py", "b.sh", "there/ünï.txt", "new/" + "n" * 150 + ".py",
    ]  # fmt: skip
    assert (into / "new/deep/a.py").read_bytes() == b"a = 1\n"
    assert os.access(into / "b.sh", os.X_OK)
    assert not (into / "new/deep/a.py").stat().st_mode & 0o111
    assert unpack(packed(tmp_path / "empty.tar.gz"), into) == []


@pytest.mark.parametrize(
    "fill, words",
    [
        (file("/etc/x"), "not a path"),
        (file("../x"), "not a path"),
        (file("a/../../x"), "not a path"),
        (file("./x"), "not a path"),
        (file("a//x"), "not a path"),
        (file("a\\..\\x"), "not a path"),
        (file("C:x"), "not a path"),
        (file("a\nx"), "not a path"),
        (file("x" * 256), "not a path"),
        (file(".git/hooks/post-checkout", mode=0o755), "git's own"),
        (file("sub/.GIT/config"), "git's own"),
        (file(".g\u200cit/config"), r"not a path|git's own"),
        (file("\uff0egit/config"), "git's own"),
        (file(".git ./config"), "git's own"),
        (file("GIT~1/config"), "git's own"),
        (special("x", tarfile.SYMTYPE, "/etc/passwd"), "no regular file"),
        (special("x", tarfile.LNKTYPE, "ok.py"), "no regular file"),
        (special("x", tarfile.CHRTYPE), "no regular file"),
        (special("x", tarfile.FIFOTYPE), "no regular file"),
        (special("x", tarfile.DIRTYPE), "no regular file"),
        (special("x", tarfile.CONTTYPE), "no regular file"),
        (file("x", mode=0o4755), "another user"),
        (file("x", mode=0o2755), "another user"),
        (file("ok.py"), "twice"),
        (file("OK.py"), "twice"),
        (file("ok.py/x"), "twice"),
        (file("there/file.py"), "there already"),
        (file("there/file.py/x"), "no folder"),
        (file("there"), "there already"),
        (file("link/x"), "no folder"),
        (file("x", bytes(2_000_000)), "more than"),
        (file("x", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}), "run="),
        (file("x", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "100"}), "no regular file"),
        (file("x", pax_headers={"path": "../y"}), "not a path"),
        (file("x", pax_headers={"size": "-512"}), "run="),
    ],
)  # fmt: skip
def test_an_archive_is_refused_whole(fill: Fill, words: str, into: Path, tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar.gz", file("ok.py"), fill)
    before, beside = state(into), sorted(os.listdir(tmp_path))
    with pytest.raises(SettingError, match=words) as raised:
        unpack(archive, into, max_bytes=1_000_000)
    assert "a.tar.gz" in str(raised.value)
    assert state(into) == before
    assert sorted(os.listdir(tmp_path)) == beside


def a_bomb_in_a_header() -> bytes:
    """A name of 200 MB, which tarfile would read into memory: 200 kB."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 200_000_000
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(info.size), 1)


@pytest.mark.parametrize(
    "content",
    [gzip.compress(bytes(200_000_000), 1), a_bomb_in_a_header(), b"", b"no gzip", gzip.compress(b"no tar" * 1000), gzip.compress(bytes(10_240))[:-9],
     gzip.compress(bytes(10_240)) * 2],
    ids=["a bomb", "a bomb in a header", "empty", "no gzip", "no tar", "cut off", "two"],
)  # fmt: skip
def test_what_is_no_archive_or_a_bomb_is_refused_in_little_memory(
    content: bytes, into: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    before = state(into)
    tracemalloc.start()
    with pytest.raises(SettingError, match=r"a\.tar\.gz"):
        unpack(tmp_path / "a.tar.gz", into, max_bytes=1_000_000, max_files=100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
    assert state(into) == before


def test_many_files_and_headers_without_end_are_refused(into: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="more than"):
        unpack(packed(tmp_path / "a.tar.gz", *(file(f"f{i}") for i in range(11))), into, max_files=10)
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(header.tobuf() * 5_000))
    with pytest.raises(SettingError, match=r"b\.tar\.gz"):
        unpack(tmp_path / "b.tar.gz", into)


# -- patches ---------------------------------------------------------------------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    environment = os.environ | {
        f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.py").write_text("a = 1\n")
    (folder / "picture.bin").write_bytes(bytes(range(256)) * 20)
    (folder / "old.sql").write_text("-- ../x\nselect\n")
    (folder / "pointer").symlink_to("a.py")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "x")
    return folder


def test_an_honest_patch_is_applied(repository: Path, tmp_path: Path) -> None:
    (repository / "a.py").write_text("a = 2\n")
    (repository / "picture.bin").write_bytes(bytes(range(256)) * 20 + b"more")
    (repository / "old.sql").write_text("select\n")
    (repository / "new").mkdir()
    (repository / "new" / "run.sh").write_text("#!/bin/sh\n")
    (repository / "new" / "run.sh").chmod(0o755)
    git(repository, "add", "-A")
    patch = tmp_path / "changes.patch"
    patch.write_text(git(repository, "diff", "--binary", "HEAD"))
    expected = {
        name: (repository / name).read_bytes() for name in ("a.py", "picture.bin", "old.sql", "new/run.sh")
    }
    git(repository, "reset", "-q", "--hard")
    apply_patch(patch, repository)
    assert {name: (repository / name).read_bytes() for name in expected} == expected
    assert os.access(repository / "new/run.sh", os.X_OK)
    (tmp_path / "none.patch").touch()
    apply_patch(tmp_path / "none.patch", repository)


def created(path: str, mode: str = "100644", text: str = "x") -> str:
    return f"diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+{text}\n"


@pytest.mark.parametrize(
    "patch",
    [
        created("../out.py"),
        created("/etc/out.py"),
        created(".git/hooks/post-checkout", "100755"),
        created("sub/.GIT/config"),
        created("b", "120000", "/etc/passwd"),
        created("b", "160000", "Subproject commit " + "1" * 40),
        created("b", "0120000", "/etc/passwd"),
        created("b", " 120000", "/etc/passwd"),
        created("b", "120000", "..") + created("b/out.py"),
        created("pointer/out.py"),
        "diff --git a/pointer b/pointer\nindex 1234567..89abcde 120000\n--- a/pointer\n+++ b/pointer\n@@ -1 +1 @@\n-a.py\n\\ No newline at end of file\n+../out.py\n\\ No newline at end of file\n",
        "diff --git a/a.py b/../out.py\nsimilarity index 100%\nrename from a.py\nrename to ../out.py\n",
        "--- a/a.py\n+++ b/../../out.py\n@@ -1 +1 @@\n-a = 1\n+a = 2\n",
        "diff --git a/a.py b/a.py\nold mode 100644\nnew mode 120000\n",
        created("ok.py") + created("a.py"),
        "no patch",
    ],
)  # fmt: skip
def test_a_patch_is_refused_whole(patch: str, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "changes.patch").write_text(patch)
    before, beside = state(repository), sorted(os.listdir(tmp_path))
    with pytest.raises(SettingError, match=r"changes\.patch: is not applied") as raised:
        apply_patch(tmp_path / "changes.patch", repository)
    assert "\n" not in str(raised.value)
    assert state(repository) == before
    assert sorted(os.listdir(tmp_path)) == beside


def test_what_git_lets_pass_is_looked_at_too(repository: Path, tmp_path: Path) -> None:
    git(repository, "config", "core.protectNTFS", "false")
    (tmp_path / "changes.patch").write_text(created("git~1/hooks/post-checkout", "100755"))
    with pytest.raises(SettingError, match="git's own"):
        apply_patch(tmp_path / "changes.patch", repository)
    assert not (repository / "git~1").exists()


def test_a_patch_runs_no_filter_hook_or_monitor(repository: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for setting in ("filter.f.smudge", "filter.f.clean", "filter.f.process", "core.fsmonitor"):
        git(repository, "config", setting, f"touch {canary}; cat")
    git(repository, "config", "filter.f.required", "true")
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {canary}\n")
    hook.chmod(0o755)
    (repository / ".gitattributes").write_text("*.py filter=f\n")
    change = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-a = 1\n+a = 2\n"
    (tmp_path / "changes.patch").write_text(change + created("new.py"))
    apply_patch(tmp_path / "changes.patch", repository)
    assert (repository / "a.py").read_text() == "a = 2\n"
    words, environment = safe_git(repository)
    subprocess.run(
        [*words, "worktree", "add", "-q", "--detach", str(tmp_path / "other")], env=environment, check=True
    )
    assert not canary.exists()
    subprocess.run(
        ["git", "-C", str(repository), "checkout", "-q", "--detach"], check=False
    )  # without such care
    assert canary.exists()


def test_a_patch_cannot_fill_the_disk(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaelab.runs.patch.MOST", 1 << 20)
    (repository / "big.bin").write_bytes((os.urandom(63) + bytes(1)) * 100_000)
    git(repository, "add", "-A")
    patch = tmp_path / "changes.patch"
    patch.write_text(git(repository, "diff", "--binary", "HEAD"))
    git(repository, "reset", "-q", "--hard")
    assert patch.stat().st_size < 1 << 17
    with pytest.raises(SettingError, match="is not applied"):
        apply_patch(patch, repository)
    assert not (repository / "big.bin").exists() or (repository / "big.bin").stat().st_size <= 1 << 20
