"""The recorded code, checked out beside the working tree: commit, patch, untracked sources."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vaelab
from vaelab.errors import SettingError
from vaelab.runs.archive import unpack
from vaelab.runs.code import ARCHIVE_CAP, PATCH, PATCH_CAP, UNTRACKED, package_record, source_digest
from vaelab.runs.drift import code_words
from vaelab.runs.files import read_regular
from vaelab.runs.git import Git, find_repository
from vaelab.runs.patch import apply_patch, safe_git
from vaelab.runs.record import Record

SECONDS = 120.0  #: for all that git does; a large repository takes some to check out
HERE = "--here runs the code that is here"


@dataclass(frozen=True)
class Recorded:
    """Code that can be had again from a repository here.

    Attributes:
        top: of the repository.
        commit: in it.
        source: where its package lies, from the top: ``src``.
        pieces: ``patch`` and ``untracked``, where there are such: file -> content, as recorded.
        foreign: why it is not this repository's own history, in words; None = it is.
    """

    top: Path
    commit: str
    source: Path
    pieces: Mapping[str, bytes]
    foreign: str | None


def is_here(manifest: Mapping[str, Any], git: Mapping[str, Any] | None) -> bool:
    """Whether the package that is imported is the recorded one.

    Args:
        manifest: of the record.
        git: the state of the repository here, see :func:`vaelab.runs.git.git_state`.
    """
    package = (manifest.get("code") or {}).get("package")
    if package is not None:
        return package["source"] == package_record()["source"]
    recorded = manifest["git"]  # an early manifest knows only the commit
    if recorded is None or git is None or recorded["commit"] is None:
        return False
    clean = recorded["dirty"] is False and git["dirty"] is False
    return clean and recorded["commit"] == git["commit"] and recorded["repository"] == git["repository"]


def recorded_code(record: Record, package: Path | None = None) -> Recorded:
    """Find the recorded code in the repository of the package.

    Args:
        record: of the run.
        package: where the package's source lies; None = this one's.

    Raises:
        SettingError: it cannot be had: no repository here, a commit that is not in it, changes that are not on record, a piece that is not what was recorded.
    """
    manifest, git = record.manifest, Git(time.monotonic() + SECONDS)
    words, state, code = code_words(manifest), manifest["git"], manifest.get("code")
    if state is None or state["repository"] != "package" or state["commit"] is None:
        raise SettingError(
            "code", words, f"is not the package that is here, and no repository has it: {HERE}"
        )
    commit = state["commit"]
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit):
        raise SettingError("code", commit, "is no commit")
    found = find_repository(git, package)
    if found is None or found[0] != "package":
        raise SettingError(
            "code", words, f"the package here lies in no repository that could have it: {HERE}"
        )
    top = found[1]
    if git(top, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise SettingError("code", commit, f"is no commit of the repository {top}; git fetch may bring it, or {HERE}")  # fmt: skip
    if code is None and state["dirty"]:
        raise SettingError("code", words, f"its working tree had changes that are not on record: {HERE}")
    pieces = {name: _piece(record, code[name]) for name in ("patch", "untracked") if code and code[name]}
    source = (package or Path(vaelab.__file__).parent).resolve().parent.relative_to(top.resolve())
    known = git.line(top, "for-each-ref", "--count=1", "--contains", commit, "refs/heads", "refs/remotes", "refs/tags") or git(top, "merge-base", "--is-ancestor", commit, "HEAD")  # fmt: skip
    reasons = [{"patch": "a patch", "untracked": "an archive of files"}[name] for name in pieces]
    foreign = f"carries {' and '.join(reasons)} in the record" if reasons else None
    if not known:
        foreign = "is a commit of no branch here" + (f", and {foreign}" if foreign else "")
    return Recorded(top, commit, source, pieces, foreign)  # fmt: skip


@contextmanager
def checked_out(code: Recorded, folder: Path) -> Iterator[Path]:
    """The code in a worktree at ``folder``, which is removed afterwards. Yields the folder that its package lies in.

    Raises:
        SettingError: git cannot check it out, the patch does not apply, or a piece leads out of the worktree.
    """
    git = Git(time.monotonic() + SECONDS)
    words, _ = safe_git(code.top)  # git -C TOP ...
    try:
        if (
            git(code.top, *words[3:], "worktree", "add", "--detach", "--force", str(folder), code.commit)
            is None
        ):
            raise SettingError("code", code.commit, "git worktree add did not check it out")
        for name, use in (("patch", apply_patch), ("untracked", unpack)):
            if name in code.pieces:
                piece = folder.with_name(
                    name
                )  # what was compared with its digest, and not what lies in the record by now
                piece.write_bytes(code.pieces[name])
                use(piece, folder)
        source = folder / code.source
        if not (source / "vaelab" / "__init__.py").is_file():
            raise SettingError("code", code.commit, f"has no package at {code.source}/vaelab: {HERE}")
        yield source
    finally:
        end = Git(time.monotonic() + SECONDS)
        end(code.top, "worktree", "remove", "--force", str(folder))
        end(code.top, "worktree", "prune")


def differs(source: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the checked out package is another one than ran; False where the record does not say."""
    package = (manifest.get("code") or {}).get("package")
    return package is not None and package["source"] != source_digest(source / "vaelab")


def _piece(record: Record, described: Mapping[str, Any]) -> bytes:
    """A file of ``code/``, which is what was recorded."""
    path = record.path / described["file"]
    if described["file"] not in (PATCH, UNTRACKED) or path.is_symlink() or path.parent.is_symlink():
        raise SettingError("code", described["file"], "is no file of a record")
    try:
        content = read_regular(path, 2 * max(PATCH_CAP, ARCHIVE_CAP))
    except OSError as error:
        raise SettingError("code", path, f"cannot be read ({error.strerror}): {HERE}") from None
    if hashlib.sha256(content).hexdigest() != described["sha256"]:
        raise SettingError("code", path, "is not what was recorded: its SHA-256 differs")
    return content
