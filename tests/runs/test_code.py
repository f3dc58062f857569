"""The code of a run: whatever state a working tree is in, commit + patch + archive give it again, and no secret is in them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vaelab.runs import RunDirectory, Secrets
from vaelab.runs import code as code_of_a_run
from vaelab.runs.code import FILE_CAP, code_record, package_record
from vaelab.runs.git import git_state

SECRET = "s3cr3t-value-of-a-variable"
NO_SECRETS = Secrets({})


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a commit, where a person stands; the package is not in it."""
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    (folder / "tracked.py").write_text("a = 1\n" * 30)
    (folder / "sub" / "with ä space.py").write_text("b = 1\n")
    (folder / "deleted.py").write_text("c = 1\n")
    (folder / "moved.py").write_text("d = 1\n" * 30)
    (folder / "image.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "script.sh").write_text("true\n")
    (folder / ".gitignore").write_text("ignored.py\n.env\n/logs/\n")
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., tuple[dict, RunDirectory]]:
    def _record(secrets: Secrets = NO_SECRETS, seconds: float = 20.0) -> tuple[dict, RunDirectory]:
        run = RunDirectory.create(tmp_path / "logs")
        return code_record(run, secrets, package=tmp_path, seconds=seconds), run

    return _record


def contents(folder: Path) -> dict[str, tuple[bytes, bool]]:
    """Path -> content and whether it can be executed, of all files that are no git's."""
    paths = (p for p in folder.rglob("*") if p.is_file() and ".git" not in p.parts)
    return {str(p.relative_to(folder)): (p.read_bytes(), os.access(p, os.X_OK)) for p in paths}


def made_again(project: Path, record: dict, run: RunDirectory, where: Path) -> dict[str, tuple[bytes, bool]]:
    """The working tree from commit, patch and archive."""
    git(project.parent, "clone", "--quiet", str(project), str(where))
    git(where, "checkout", "--quiet", record["git"]["commit"])
    if record["code"]["patch"] is not None:
        git(where, "apply", "--binary", str(run.path / record["code"]["patch"]["file"]))
    if record["code"]["untracked"] is not None:
        with tarfile.open(run.path / record["code"]["untracked"]["file"]) as archive:
            archive.extractall(where, filter="data")
    return contents(where)


def left_out(record: dict) -> dict[str, str]:
    return {item["path"]: item["reason"] for item in record["code"]["left_out"]}


def test_a_changed_tree_is_made_again_from_its_record(project: Path, record, tmp_path: Path) -> None:
    (project / "tracked.py").write_text("a = 1\n" * 15 + "diff --git a/x b/x\n" + "a = 1\n" * 15)
    (project / "sub" / "with ä space.py").write_text('b = "é"')
    (project / "deleted.py").unlink()
    (project / "moved.py").rename(project / "sub" / "here.py")
    (project / "image.bin").write_bytes(bytes(reversed(range(256))) * 40)
    (project / "script.sh").chmod(0o755)
    (project / 'quo"ted\\.py').write_text("e = 1\n")
    git(project, "add", 'quo"ted\\.py', "sub/here.py")
    (project / "new" / "deep").mkdir(parents=True)
    (project / "new" / "deep" / "module.py").write_text("f = 1\n")
    (project / "new" / "run.sh").write_text("true\n")
    (project / "new" / "run.sh").chmod(0o755)
    (project / "ignored.py").write_text("not ours")
    found, run = record()
    assert found["git"] == {"repository": "cwd", "commit": git(project, "rev-parse", "HEAD"), "dirty": True, "branch": "main"}  # fmt: skip
    assert left_out(found) == {}
    expected = {path: content for path, content in contents(project).items() if path != "ignored.py"}
    assert made_again(project, found, run, tmp_path / "again") == expected
    for part in (found["code"]["patch"], found["code"]["untracked"]):
        content = (run.path / part["file"]).read_bytes()
        assert (part["sha256"], part["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    assert found["code"]["untracked"]["files"] == 2


def test_the_same_tree_gives_the_same_bytes(project: Path, record) -> None:
    (project / "tracked.py").write_text("other\n")
    (project / "new.py").write_text("x = 1\n")
    first, _ = record()
    os.utime(project / "new.py", (1, 1))
    time.sleep(1.1)  # gzip would write the time of day, in seconds
    second, _ = record()
    assert first["code"] == second["code"]


def test_a_persons_settings_of_git_do_not_change_the_patch(project: Path, record, tmp_path: Path) -> None:
    (project / "tracked.py").write_text("other\n")
    plain, _ = record()
    for key, value in (("diff.noprefix", "true"), ("color.diff", "always"), ("diff.external", "false"), ("diff.renames", "copies"),
                       ("status.showUntrackedFiles", "no"), ("status.relativePaths", "true"), ("core.quotePath", "false")):  # fmt: skip
        git(project, "config", key, value)
    changed, _ = record()
    assert plain["code"] == changed["code"]


def test_a_clean_tree_has_no_code_folder(project: Path, record) -> None:
    found, run = record()
    assert (found["code"]["patch"], found["code"]["untracked"]) == (None, None)
    assert found["git"]["dirty"] is False
    assert not run.code.exists()


@pytest.mark.parametrize(
    "path",
    ["tracked.py", "sub/with ä space.py", "image.bin", "untracked.py", "with-s3cr3t-value-of-a-variable.py"],
)
def test_what_holds_a_secret_is_left_out_whole(project: Path, record, path: str) -> None:
    """In a binary file, too, whose patch is compressed."""
    if path.endswith(".bin"):
        (project / path).write_bytes(b"\0\1" * 50 + SECRET.encode() + b"\0")
    else:
        (project / path).write_text(f"password = '{SECRET}'\n" if path.count("-") < 2 else "")
    (project / "deleted.py").write_text("changed\n")
    (project / "other.py").write_text("other\n")
    found, _ = record(Secrets.of({"MY_api_token": SECRET}))
    assert left_out(found) == {path: "holds the value of MY_api_token"}
    assert (found["code"]["patch"]["files"], found["code"]["untracked"]["files"]) == (1, 1)


@pytest.mark.parametrize("removed", [True, False])
def test_a_secret_that_was_committed_is_not_copied_from_there(project: Path, record, removed: bool) -> None:
    """As a line that is removed, as one beside a change, or in the binary content before."""
    (project / "tracked.py").write_text(f"key = '{SECRET}'\nb = 1\n")
    (project / "image.bin").write_bytes(b"\0" + SECRET.encode())
    git(project, "commit", "--all", "-m", "oh")
    (project / "tracked.py").write_text("b = 1\n" if removed else f"key = '{SECRET}'\nb = 2\n")
    (project / "image.bin").write_bytes(b"\0")
    found, _ = record(Secrets.of({"API_KEY": SECRET}))
    assert set(left_out(found)) == {"tracked.py", "image.bin"}
    assert found["code"]["patch"] is None


def test_files_for_secrets_are_left_out_by_name(project: Path, record) -> None:
    for name in (".env.local", "sub/.env", "prod.env", ".netrc", "credentials.json", "hf_token.txt"):
        (project / name).write_text("plain words")
    (project / ".env").write_text("ignored by git")
    for name in ("secrets.py", "token_mixer.yaml", "tokenizer.json"):
        (project / name).write_text("x: 1\n")
    git(project, "add", "--force", ".env.local")
    found, _ = record()
    private = {".env.local", "prod.env", ".netrc", "credentials.json", "hf_token.txt"}
    assert left_out(found) == dict.fromkeys(private, "is a file for secrets")
    assert found["code"]["untracked"]["files"] == 3


def test_caps_are_kept_and_what_is_beyond_them_is_named(
    project: Path, record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_of_a_run, "FILE_CAP", 10_000)
    monkeypatch.setattr(code_of_a_run, "PATCH_CAP", 9_000)
    monkeypatch.setattr(code_of_a_run, "ARCHIVE_CAP", 9_000)
    text = "".join(f"line {i}\n" for i in range(500))
    for name in ("deleted.py", "moved.py", "tracked.py"):  # in git's order
        (project / name).write_text(text)
    (project / "image.bin").write_bytes(os.urandom(20_000))
    for name in ("new1.py", "new2.py", "new3.py"):
        (project / name).write_text(text)
    with (project / "new4.py").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte without a byte
    (project / "data.npz").write_bytes(b"no source")
    found, run = record()
    assert left_out(found) == {
        "image.bin": "is larger than 0 MB",
        "new4.py": "is larger than 0 MB",
        "moved.py": "is beyond the 0 MB of a patch",
        "tracked.py": "is beyond the 0 MB of a patch",
        "new3.py": "is beyond the 0 MB of an archive",
    }
    assert found["code"]["patch"]["bytes"] <= 9_000
    assert found["code"]["untracked"]["files"] == 2
    assert found["code"]["num_other_untracked"] == 1
    git(project, "checkout", "--quiet", ".")
    git(project, "apply", "--check", str(run.path / found["code"]["patch"]["file"]))


def test_only_regular_files_and_no_records(project: Path, record, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text("outside")
    (project / "link.py").symlink_to(tmp_path / "outside.py")
    os.mkfifo(project / "pipe.py")
    (project / "tracked.py").unlink()
    (project / "tracked.py").symlink_to("deleted.py")
    for folder in ("runs/one", "runs/two"):
        (project / folder).mkdir(parents=True)
        (project / folder / "config.yaml").write_text("seed: 0\n")
    (project / "runs/one/manifest.json").write_text("{}")
    (project / "wandb").mkdir()
    (project / "wandb" / "config.yaml").write_text("a: 1\n")
    found, run = record()
    assert set(left_out(found).values()) == {"is no regular file", "is no regular file that can be read"}
    assert {"link.py", "tracked.py"} <= set(left_out(found))
    with tarfile.open(run.path / found["code"]["untracked"]["file"]) as archive:
        assert archive.getnames() == ["runs/two/config.yaml"]


def test_many_untracked_files_are_counted_and_not_listed(project: Path, record) -> None:
    for i in range(200):
        (project / f"{i}.pem").write_text("")
        (project / f"credentials{i}.json").write_text("")
    found, _ = record()
    assert found["code"]["num_other_untracked"] == 200
    assert found["code"]["num_left_out"] == 200
    assert len(found["code"]["left_out"]) == code_of_a_run.LISTED


def test_a_git_that_hangs_costs_no_more_than_its_time(
    project: Path, record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where what hangs is a filter that git has started and that holds its output open."""
    (project / ".gitattributes").write_text("*.py filter=slow\n")
    git(project, "config", "filter.slow.clean", f"sh -c 'echo $$ > {tmp_path}/pid; sleep 60'")
    os.utime(project / "tracked.py", (1, 1))
    (project / "tracked.py").write_text("b = 1\n" * 30)
    started = time.monotonic()
    found, _ = record(seconds=1.0)
    assert time.monotonic() - started < 10
    assert left_out(found) == {".": "git did not answer within 1 s"}
    assert found["git"]["dirty"] is None
    filter_pid = (tmp_path / "pid").read_text().strip()
    listing = ["ps", "-o", "stat=", "-p", filter_pid]
    state = subprocess.run(listing, capture_output=True, text=True, check=False).stdout.strip()
    assert state[:1] in ("", "Z"), "it is ended, too"


def test_without_git_the_package_is_on_record(
    record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found, run = record()
    assert found["git"] is None
    assert len(found["code"]["package"]["source"]) == 64
    assert not run.code.exists()


def test_the_package_is_known_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = package_record()
    source = Path(code_of_a_run.__file__).parents[1]
    shutil.copytree(source, tmp_path / "vaelab", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_of_a_run, "__file__", str(tmp_path / "vaelab" / "runs" / "code.py"))
    assert package_record()["source"] == before["source"]
    with (tmp_path / "vaelab" / "noise.py").open("a") as file:
        file.write("#\n")
    assert package_record()["source"] != before["source"]


def test_before_the_first_commit_there_is_nothing_to_compare_with(
    record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "fresh"
    folder.mkdir()
    git(folder, "init")
    (folder / "staged.py").write_text("")
    (folder / "new.py").write_text("x")
    git(folder, "add", "staged.py")
    monkeypatch.chdir(folder)
    found, _ = record()
    assert left_out(found) == {".": "nothing is committed yet"}
    assert found["code"]["untracked"]["files"] == 1
    assert found["git"]["commit"] is None


def test_the_git_state_of_the_package_else_of_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "vaelab"
    package.mkdir(parents=True)
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(tmp_path)
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
    git(project, "checkout", "--quiet", "--detach")
    assert (git_state(package) or {})["branch"] is None
    git(package, "init")
    assert (git_state(package) or {})["repository"] == "package"
    ignored = project / ".venv" / "vaelab"  # installed inside somebody's project: that repository is not ours
    ignored.mkdir(parents=True)
    (project / ".gitignore").write_text(".venv\n")
    assert (git_state(ignored) or {})["repository"] == "cwd"
    assert git_state(package, timeout=1e-9) is None


def test_the_caps_are_those_of_the_documentation() -> None:
    assert (code_of_a_run.PATCH_CAP, code_of_a_run.ARCHIVE_CAP, FILE_CAP) == (5_000_000, 5_000_000, 1_000_000)
