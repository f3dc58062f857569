"""Decoded data sets as ``.npy`` files: written once, by an atomic rename, and verified at every load.

A cache folder ``<root>/<name>-<key>/`` holds one file an array and ``record.json`` with the sha256 of each
array and of the source files. It is written under a temporary name beside it and renamed when complete, so a
reader sees all of it or nothing: several first users, or a kill in mid-write, do no harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RECORD = "record.json"
SCHEMA = 1
TEMPORARY = ".tmp-"
ABANDONED_AFTER = 3600.0  # seconds without a write; a writer is done in seconds, a slow download still writes


class Damaged(Exception):
    """A cache folder is not what its record says (or has none). It can be rebuilt from the source files."""


@dataclass(frozen=True)
class Place:
    """Where files may be kept: ``files`` is laid out as torchvision's root, ``caches`` has the caches."""

    files: Path
    caches: Path


def places(data_dir: Path) -> list[Place]:
    """In order of preference: the data directory, the user's cache directory, the temporary directory."""
    found = [Place(data_dir, data_dir / ".vaelab")]
    with contextlib.suppress(RuntimeError):  # no home directory is known
        cache_home = os.environ.get("XDG_CACHE_HOME")
        user = (Path(cache_home) if cache_home else Path.home() / ".cache") / "vaelab"
        found.append(Place(user, user))
    user_id = os.getuid() if hasattr(os, "getuid") else 0
    shared = Path(tempfile.gettempdir()) / f"vaelab-{user_id}"
    if _ours(shared, user_id):
        found.append(Place(shared, shared))
    return found


def _ours(folder: Path, user_id: int) -> bool:
    """Whether a folder with a name that anybody may take is ours alone, or does not exist yet."""
    try:
        status = folder.lstat()
    except OSError:
        return True
    return stat.S_ISDIR(status.st_mode) and status.st_uid == user_id and not status.st_mode & 0o022


def writable(folder: Path) -> bool:
    """Whether ``folder`` may be written into, or created.

    A folder without a single write bit is meant to be left alone, and is, even where the permissions do not
    hold us back (root may write anywhere).
    """
    for existing in (folder, *folder.parents):
        try:
            mode = existing.stat().st_mode
        except FileNotFoundError:
            continue
        except OSError:
            return False
        return stat.S_ISDIR(mode) and bool(mode & 0o222) and os.access(existing, os.W_OK | os.X_OK)
    return False


def _temporary(root: Path) -> Path:
    """A new temporary folder in ``root``, or OSError. What killed processes left is removed on the way."""
    if not writable(root):
        raise PermissionError(f"{root} is read-only")
    root.mkdir(
        mode=0o700 if root.parent == Path(tempfile.gettempdir()) else 0o777, parents=True, exist_ok=True
    )
    for leftover in root.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):  # another process is removing it too
            written = max(path.lstat().st_mtime for path in (leftover, *leftover.rglob("*")))
            if time.time() - written > ABANDONED_AFTER:
                shutil.rmtree(leftover)
    return Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=root))


@contextlib.contextmanager
def staging(data_dir: Path) -> Iterator[Path]:
    """A temporary folder in the first place that takes one; gone afterwards. OSError if none does."""
    folder = None
    failures = []
    for place in places(data_dir):
        try:
            folder = _temporary(place.caches)
            break
        except OSError as error:
            failures.append(str(error))
    if folder is None:
        raise OSError("no place to unpack the data in: " + "; ".join(failures))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(path: Path, folder: Path) -> None:
    """Copy the file ``path`` into ``folder`` under its own name, complete or not at all."""
    if not writable(folder):
        raise PermissionError(f"{folder} is read-only")
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=folder)
    try:
        with open(handle, "wb") as target, open(path, "rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)
            os.fchmod(
                target.fileno(), 0o644
            )  # mkstemp's 0600 would hide it from the other users of a shared folder
            _sync(target.fileno())
        os.replace(temporary, folder / path.name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def folders(name: str, key: str, data_dir: Path) -> list[Path]:
    """The cache folders of ``name`` that exist and look complete (sizes only; :func:`read` verifies)."""
    candidates = (place.caches / f"{name}-{key}" for place in places(data_dir))
    return [folder for folder in candidates if _complete(folder, key)]


def _complete(folder: Path, key: str) -> bool:
    try:
        record = _record(folder)
        sizes = {stem: (folder / f"{stem}.npy").stat().st_size for stem in record["arrays"]}
    except (OSError, Damaged):
        return False
    return record["key"] == key and all(
        sizes[stem] == entry["bytes"] for stem, entry in record["arrays"].items()
    )


def _record(folder: Path) -> dict:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["schema"] == SCHEMA and record["arrays"] and {"key", "sources"} <= record.keys():
            return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{folder / RECORD}: {error}") from error
    raise Damaged(f"{folder / RECORD}: not a record of this version")


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and source digests (file name -> sha256) of a cache folder, each array verified.

    The arrays are ordinary (writable, contiguous) memory. Raises :class:`Damaged`.
    """
    import numpy as np

    record = _record(folder)
    arrays = {}
    for stem, entry in record["arrays"].items():
        path = folder / f"{stem}.npy"
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Damaged(f"{path}: {error}") from error
        if entry != _entry(array, entry["bytes"]):
            raise Damaged(f"{path}: sha256 {entry['sha256']} expected")
        arrays[stem] = array
    return arrays, record["sources"]


def notes(folder: Path) -> tuple[str, ...]:
    """What was said when the arrays of a cache folder were made."""
    return tuple(_record(folder).get("notes", ()))


def _entry(array: np.ndarray, size: int) -> dict:
    digest = hashlib.sha256(array.data if array.size else b"").hexdigest()
    return {"sha256": digest, "shape": list(array.shape), "dtype": array.dtype.str, "bytes": size}


def write(
    name: str,
    key: str,
    arrays: Mapping[str, np.ndarray],
    sources: Mapping[str, str],
    data_dir: Path,
    notes: Sequence[str] = (),
) -> Path | None:
    """Keep ``arrays`` in the first place that takes them; the folder, or None if no place does.

    Where another process was first, its folder stays and ours is thrown away; a damaged one is replaced.
    """
    for place in places(data_dir):
        try:
            return _write(place.caches, name, key, arrays, sources, notes)
        except OSError:  # read-only, full, ...: the next place
            continue
    return None


def _write(
    root: Path,
    name: str,
    key: str,
    arrays: Mapping[str, np.ndarray],
    sources: Mapping[str, str],
    notes: Sequence[str],
) -> Path:
    import numpy as np

    final = root / f"{name}-{key}"
    temporary = _temporary(root)
    try:
        entries = {}
        for stem, array in arrays.items():
            contiguous = np.ascontiguousarray(array)
            with open(temporary / f"{stem}.npy", "wb") as file:
                np.save(file, contiguous, allow_pickle=False)
                file.flush()
                _sync(file.fileno())
                entries[stem] = _entry(contiguous, file.tell())
        record = {"schema": SCHEMA, "name": name, "key": key, "sources": dict(sources), "arrays": entries}
        record |= {"notes": list(notes)} if notes else {}
        with open(temporary / RECORD, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
            file.flush()
            _sync(file.fileno())
        temporary.chmod(root.stat().st_mode & 0o777 | 0o700)  # mkdtemp's 0700 would hide it from other users
        try:
            os.rename(temporary, final)
        except OSError:
            if _intact(final):
                return final
            _discard(final)
            os.rename(temporary, final)
        _sync_folder(root)
        return final
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _intact(folder: Path) -> bool:
    try:
        read(folder)
    except Damaged:
        return False
    return True


def _discard(folder: Path) -> None:
    """Take a folder away under a temporary name first, so that nobody reads half of it."""
    grave = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder.parent))
    with contextlib.suppress(FileNotFoundError):  # another process took it away
        os.rename(folder, grave / folder.name)
    shutil.rmtree(grave, ignore_errors=True)


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a folder be synced
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
