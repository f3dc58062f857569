"""What git says of a working tree, within a time: commit, branch, what was changed."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LISTING_CAP = 20_000_000  # bytes of an answer; a tree with more to tell is none of sources
SECONDS = 5.0  # for all of it: a git that hangs costs no more


def git_state(package: Path | None = None, timeout: float = SECONDS) -> dict[str, Any] | None:
    """The commit of the code: ``{"repository": "package" | "cwd", "commit", "dirty", "branch"}``, None
    outside a repository.

    The repository of the package's source where it lies in one (and is not ignored there, as an installed
    package inside a project's ``.venv`` is), else the one of the current directory. ``dirty`` counts
    untracked files too. ``commit`` is None before the first commit, ``branch`` None on a detached head,
    ``dirty`` None if git took too long.
    """
    git = Git(time.monotonic() + timeout)
    found = find_repository(git, package)
    return None if found is None else state_record(git, found, status_of(git, found[1]))


@dataclass
class Git:
    """git, until a deadline."""

    deadline: float

    def __call__(self, folder: Path, *arguments: str, cap: int = LISTING_CAP) -> tuple[bytes, bool] | None:
        """What git prints, up to ``cap`` bytes, and whether that is all; None where it fails, is not there or takes too long."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}  # set inside hooks  # fmt: skip
        environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        try:
            process = subprocess.Popen(
                ["git", "-C", str(folder), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # ended with whatever it has started, a filter that hangs for example
            )
        except OSError:
            return None
        try:
            content = self._read(process, cap)
            if content is None:
                return None
            if len(content) > cap:
                return content[:cap], False
            try:
                status = process.wait(max(0.0, self.deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return None
            return (content, True) if status == 0 else None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended by itself
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def _read(self, process: subprocess.Popen[bytes], cap: int) -> bytes | None:
        assert process.stdout is not None
        content = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while len(content) <= cap:
                left = self.deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                block = os.read(process.stdout.fileno(), 1 << 16)
                if not block:
                    break
                content += block
        return bytes(content)

    def line(self, folder: Path, *arguments: str) -> str | None:
        answer = self(folder, *arguments)
        return None if answer is None else os.fsdecode(answer[0]).removesuffix("\n")


@dataclass
class GitStatus:
    """What ``git status`` says; paths from the top of the repository."""

    commit: str | None = None
    branch: str | None = None
    changed: list[str] = field(default_factory=list)
    submodules: list[str] = field(default_factory=list)
    unmerged: list[str] = field(default_factory=list)
    untracked: list[str] = field(default_factory=list)
    is_whole: bool = True

    @property
    def dirty(self) -> bool:
        return bool(self.changed or self.submodules or self.unmerged or self.untracked)


def find_repository(git: Git, package: Path | None) -> tuple[str, Path] | None:
    """``package`` or ``cwd``, and the top of its working tree."""
    source = Path(__file__).resolve().parents[1] if package is None else package
    for name, folder in (("package", source), ("cwd", Path.cwd())):
        top = git.line(folder, "rev-parse", "--show-toplevel")
        if not top:
            continue
        if name == "package" and git(folder, "check-ignore", "-q", str(folder)) is not None:
            continue
        return name, Path(top)
    return None


def state_record(git: Git, found: tuple[str, Path], status: GitStatus | None) -> dict[str, Any]:
    name, top = found
    if status is None:
        commit = git.line(top, "rev-parse", "--verify", "--quiet", "HEAD")
        return {"repository": name, "commit": commit, "dirty": None, "branch": None}
    return {
        "repository": name,
        "commit": status.commit,
        "dirty": status.dirty,
        "branch": status.branch,
    }


def status_of(git: Git, top: Path) -> GitStatus | None:
    """Commit, branch, changed and untracked files in one call."""
    answer = git(
        top, "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames",
        "--ignore-submodules=none",
    )  # fmt: skip
    if answer is None:
        return None
    status = GitStatus(is_whole=answer[1])
    entries = os.fsdecode(answer[0]).split("\0")
    for entry in entries[:-1]:  # what stands behind the last mark is empty, or cut
        kind, _, rest = entry.partition(" ")
        if kind == "#":
            key, _, value = rest.partition(" ")
            if key == "branch.oid" and value != "(initial)":
                status.commit = value
            if key == "branch.head" and value != "(detached)":
                status.branch = as_text(value)
        elif kind == "?":
            status.untracked.append(rest)
        elif kind == "u":
            status.unmerged.append(rest.split(" ", 9)[-1])
        elif kind in ("1", "2"):
            fields = rest.split(" ", 7)
            (status.submodules if fields[1].startswith("S") else status.changed).append(fields[-1])
    return status


def as_text(name: str) -> str:
    """A file's name as text that can be written."""
    return os.fsencode(name).decode(errors="replace")
