"""The code that made a run: commit, what the working tree changed since, untracked sources, or the installed package.

A run can be made again from ``commit`` + ``code/changes.patch`` (``git apply``) + ``code/untracked.tar.gz``, unless ``left_out`` says what is missing.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import io
import json
import os
import re
import stat
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vaelab.runs.directory import RunDirectory
from vaelab.runs.files import write_atomically
from vaelab.runs.git import (
    LISTING_CAP,
    SECONDS,
    Git,
    GitStatus,
    as_text,
    find_repository,
    state_record,
    status_of,
)
from vaelab.runs.redaction import Secrets

PATCH, UNTRACKED = "code/changes.patch", "code/untracked.tar.gz"
MB = 1_000_000
PATCH_CAP, ARCHIVE_CAP, FILE_CAP = 5 * MB, 5 * MB, MB  # bytes; of the archive before it is compressed
LISTED = 50  # names in the manifest; of the rest the number

#: what counts as a source among untracked files; everything else is only counted
SOURCES = {".py", ".pyi", ".pyx", ".ipynb", ".sh", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".json", ".txt"}  # fmt: skip
CODE = {".py", ".pyi", ".pyx", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp"}
PRIVATE = re.compile(r"secret|credential|passw|netrc|id_rsa|id_ed25519|pypirc|kaggle\.json|(?:^|[_-])token\.(?:txt|json|ya?ml)$", re.IGNORECASE)  # fmt: skip
#: folders that other tools write
WRITTEN = {"wandb", "lightning_logs", "mlruns", "node_modules", "__pycache__", "site-packages"}


def code_record(
    run: RunDirectory, secrets: Secrets, package: Path | None = None, seconds: float = SECONDS
) -> dict[str, Any]:
    """Write ``code/`` of a run directory and return what the manifest says of the code.

    Of a repository (the package's own, else that of the current directory) the changes since the commit and the untracked source files that git
    does not ignore, each within a cap. Never in it: ``.env`` files and their like, ignored files, links, other run directories, and whatever holds the
    value of a secret; what is left out is listed with the reason.

    Args:
        run: whose ``code/`` is written, if there is anything to write.
        secrets: a file that holds one is left out.
        package: where the package's source lies; None = this one's.
        seconds: after which git is not waited for any longer.

    Returns:
        ``git``: see :func:`git_state`; ``code``: ``package`` (see :func:`package_record`), ``patch`` and ``untracked`` (``file``, ``sha256``, ``bytes``,
        ``files``; None = there are none), ``left_out`` (``path``, ``reason``), ``num_left_out``, ``num_other_untracked`` (no sources).
    """
    git = Git(time.monotonic() + seconds)
    found = find_repository(git, package)
    status = None if found is None else status_of(git, found[1])
    writer = _Writer(run, secrets, git)
    if found is not None and status is None:
        writer.leave_out(".", f"git did not answer within {seconds:g} s")
    elif found is not None and status is not None:
        writer.write_patch(found[1], status)
        writer.write_untracked(found[1], status.untracked)
    return {
        "git": None if found is None else state_record(git, found, status),
        "code": {
            "package": package_record(),
            "patch": writer.patch,
            "untracked": writer.archive,
            "left_out": writer.left_out[:LISTED],
            "num_left_out": len(writer.left_out),
            "num_other_untracked": writer.others,
        },
    }


def package_record() -> dict[str, Any]:
    """The package that is run: ``version``, ``editable``, ``record`` (SHA-256 of the wheel's RECORD, None of an editable install) and ``source`` (one
    over its Python files, whatever way they came here).
    """
    source = source_digest(Path(__file__).resolve().parents[1])
    try:
        distribution = importlib.metadata.distribution("vaelab")
    except importlib.metadata.PackageNotFoundError:  # run from its source, not installed
        return {"version": None, "editable": False, "record": None, "source": source}
    editable = bool(json.loads(distribution.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"))  # fmt: skip
    record = None if editable else distribution.read_text("RECORD")
    return {
        "version": distribution.version,
        "editable": editable,
        "record": None if record is None else hashlib.sha256(record.encode()).hexdigest(),
        "source": source,
    }


def source_digest(folder: Path) -> str:
    """SHA-256 over names and contents of the Python files of the package at ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


class _Writer:
    """Writes ``code/`` and keeps the list of what is not in it."""

    def __init__(self, run: RunDirectory, secrets: Secrets, git: Git) -> None:
        self.run, self.secrets, self.git = run, secrets, git
        self._own = run.path.resolve()
        self.patch: dict[str, Any] | None = None
        self.archive: dict[str, Any] | None = None
        self.left_out: list[dict[str, str]] = []
        self.others = 0
        self._is_run: dict[str, bool] = {}

    def leave_out(self, path: str, reason: str) -> None:
        self.left_out.append({"path": as_text(path), "reason": reason})

    # -- changes of tracked files --------------------------------------------------------------------------------------

    def write_patch(self, top: Path, status: GitStatus) -> None:
        for path in status.unmerged:
            self.leave_out(path, "is not merged")
        for path in status.submodules:
            self.leave_out(path, "is a submodule that was changed")
        if not status.is_whole:
            self.leave_out(".", f"git lists more than {LISTING_CAP // MB} MB of files")
        if not status.changed:
            return
        if status.commit is None:
            self.leave_out(".", "nothing is committed yet")
            return
        large = [path for path in status.changed if _size(top / path) > FILE_CAP]
        for path in large:
            self.leave_out(path, f"is larger than {FILE_CAP // MB} MB")
        # git is not to read the large ones; of very many only the cap on the whole holds
        excluded = [f":(top,exclude,literal){path}" for path in large[:500]]
        answer = self.git(
            top, "-c", "core.quotePath=true", "diff", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames",
            "--no-relative", "--src-prefix=a/", "--dst-prefix=b/", "--ignore-submodules=all", "HEAD", "--", ":(top)", *excluded, cap=PATCH_CAP,
        )  # fmt: skip
        if answer is None:
            self.leave_out(".", "git did not show the changes in time")
            return
        parts = _parts(answer[0])
        if not answer[1]:
            seen = {path for path, _ in parts[:-1]}
            for path in status.changed:
                if path not in seen and path not in large:
                    self.leave_out(path, f"is beyond the {PATCH_CAP // MB} MB of a patch")
            parts = parts[:-1]
        kept = [part for path, part in parts if self._may_stand_in_patch(top, path, part)]
        if kept:
            self.patch = self._write(PATCH, b"".join(kept), len(kept))

    def _may_stand_in_patch(self, top: Path, path: str, part: bytes) -> bool:
        head = part[: part.find(b"\n@@")]  # without the lines of the file
        if re.search(rb"^(?:(?:new file|deleted file|old|new) mode|index [0-9a-f.]+) 1[26]0000$", head, re.MULTILINE):  # fmt: skip
            self.leave_out(path, "is no regular file")
            return False
        if _is_env(path):
            self.leave_out(path, "is a file for secrets")
            return False
        contents = [part, path.encode(errors="surrogateescape")]
        if b"\nGIT binary patch\n" in head:  # both versions are in it, compressed
            before = self.git(top, "cat-file", "blob", f"HEAD:{path}", cap=FILE_CAP)
            if (before is None and b"\nnew file mode" not in head) or (before is not None and not before[1]):
                self.leave_out(path, "cannot be searched for secrets")
                return False
            contents += [b"" if before is None else before[0], _read(top / path) or b""]
        return self._has_no_secret(path, *contents)

    def _has_no_secret(self, path: str, *contents: bytes) -> bool:
        names = sorted({name for content in contents for name in self.secrets.names_in(content)})
        if names:
            self.leave_out(path, f"holds the value of {', '.join(names)}")
        return not names

    # -- untracked files -----------------------------------------------------------------------------------------------

    def write_untracked(self, top: Path, untracked: Sequence[str]) -> None:
        """The source files among ``untracked``, as an archive that depends on nothing but names and contents."""
        members = list(self._sources(top, sorted(untracked)))
        if not members:
            return
        buffer = io.BytesIO()
        with (
            gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for path, content, executable in members:
                member = tarfile.TarInfo(path)
                member.size, member.mode = len(content), 0o755 if executable else 0o644
                archive.addfile(member, io.BytesIO(content))
        self.archive = self._write(UNTRACKED, buffer.getvalue(), len(members))

    def _sources(self, top: Path, untracked: Sequence[str]) -> Iterator[tuple[str, bytes, bool]]:
        total = 0
        for path in untracked:
            if not self._is_source(top, path):
                self.others += 1
                continue
            if _is_private(path):
                self.leave_out(path, "is a file for secrets")
                continue
            if time.monotonic() > self.git.deadline:
                self.leave_out(path, "there was no time to read it")
                continue
            size = _size(top / path)
            if size > FILE_CAP or total + size > ARCHIVE_CAP:
                cap = (FILE_CAP, "is larger than") if size > FILE_CAP else (ARCHIVE_CAP, "is beyond the")
                self.leave_out(path, f"{cap[1]} {cap[0] // MB} MB" + (" of an archive" if size <= FILE_CAP else ""))  # fmt: skip
                continue
            content = _read(top / path)
            if content is None:
                self.leave_out(path, "is no regular file that can be read")
            elif self._has_no_secret(path, content, path.encode(errors="surrogateescape")):
                total += len(content)
                yield path, content, os.access(top / path, os.X_OK)

    def _is_source(self, top: Path, path: str) -> bool:
        """By its suffix and where it lies; a file for secrets counts, so that it is listed."""
        suffix, folders = PurePosixPath(path).suffix.lower(), PurePosixPath(path).parts[:-1]
        if path.endswith("/") or not (suffix in SOURCES or _is_private(path)):  # "/": another repository
            return False
        if any(name in WRITTEN or (name.startswith(".") and name != ".env") for name in folders):
            return False
        return not any(
            self._in_run(top, PurePosixPath(*folders[: i + 1]).as_posix()) for i in range(len(folders))
        )

    def _in_run(self, top: Path, folder: str) -> bool:
        """Whether it is a run directory: records are no sources."""
        if folder not in self._is_run:
            path = top / folder
            marked = all((path / name).is_file() for name in ("manifest.json", "config.yaml"))
            self._is_run[folder] = marked or path == self._own
        return self._is_run[folder]

    def _write(self, name: str, content: bytes, files: int) -> dict[str, Any]:
        path = self.run.path / name
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content)
        return {
            "file": name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "files": files,
        }


def _parts(patch: bytes) -> list[tuple[str, bytes]]:
    """The parts of a patch, one a file, with its path. No line of a file begins as their first line does: it has a sign or a space before it."""
    parts = re.split(rb"^(?=diff --git )", patch, flags=re.MULTILINE)
    return [(_path(part), part) for part in parts if part.startswith(b"diff --git ")]


def _path(part: bytes) -> str:
    """The path in ``diff --git a/PATH b/PATH``: both are the same, since renames are not looked for."""
    names = part[len(b"diff --git ") : part.find(b"\n")]
    name = names[: (len(names) - 1) // 2]
    if name.startswith(b'"'):  # as a string of C
        name = re.sub(rb"\\([0-7]{3}|.)", _unquoted, name[1:-1])
    return os.fsdecode(name[len(b"a/") :])


def _unquoted(found: re.Match[bytes]) -> bytes:
    code = found[1]
    if len(code) == 3:
        return bytes([int(code, 8)])
    return {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}.get(
        code, code
    )


def _is_env(path: str) -> bool:
    """``.env`` and its like, or anything in a folder of that name."""
    parts = PurePosixPath(path).parts
    return any(name == ".env" or name.startswith(".env.") or name.endswith(".env") for name in parts)


def _is_private(path: str) -> bool:
    """A file whose name says that it holds secrets; code may be called secrets.py."""
    file = PurePosixPath(path)
    return _is_env(path) or (file.suffix.lower() not in CODE and PRIVATE.search(file.name) is not None)


def _size(path: Path) -> int:
    """Bytes of a regular file, 0 of anything else."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _read(path: Path) -> bytes | None:
    """A regular file of at most :data:`FILE_CAP` bytes; no link is followed, no pipe waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        content = file.read(FILE_CAP + 1)
    return content if len(content) <= FILE_CAP else None
