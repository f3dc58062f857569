"""The archive of untracked source files in a run directory, ``code/untracked.tar.gz``: unpacked as data from somebody else."""

from __future__ import annotations

import io
import os
import tarfile
import unicodedata
import zlib
from collections.abc import Iterable
from pathlib import Path

from vaelab.errors import SettingError
from vaelab.runs.files import read_regular

#: what unpacking may come to: bytes of all files, and their number
MOST_BYTES, MOST_FILES = 64 << 20, 10_000
_BESIDE = 4096  # bytes of the archive for each file, beside its content: headers, a long name, filling
_NAME, _PATH = 255, 1024  # bytes of a name, and of a path


def unpack(archive: Path, into: Path, max_bytes: int = MOST_BYTES, max_files: int = MOST_FILES) -> list[Path]:
    """Unpack a gzip tar of regular files with relative paths below ``into``; nothing that is there is replaced.

    Everything is looked at before the first byte is written, and what is more than ``max_bytes`` is unpacked neither onto the disk nor into memory. Of a
    file's mode only whether its owner may execute it is kept, of its owner and its time nothing.

    Args:
        archive: the file.
        into: a folder that is there.
        max_bytes: of all files together.
        max_files: their number.

    Returns:
        the files, in the order of the archive.

    Raises:
        SettingError: it is no such archive; it holds a link, a device or a folder, a path that is absolute, leads upwards or into ``.git``, a file twice, or one whose
            path is taken or goes through a link; or it is too large. Nothing was written.
        OSError: a file cannot be written.
    """
    try:
        files = _files(_unzipped(archive, max_bytes + _BESIDE * (max_files + 1)), max_bytes, max_files)
        _check_paths(name for name, _, _ in files)
        for name, _, _ in files:
            _check_place(into, name)
    except FileNotFoundError:
        raise SettingError("run", archive, "no such file") from None
    except SettingError:
        raise
    except (OSError, ValueError, OverflowError, RecursionError, zlib.error, tarfile.TarError) as error:
        raise SettingError("run", archive, f"is not unpacked: {error}") from None
    written = []
    for name, content, is_executable in files:
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o755 if is_executable else 0o644
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:
            file.write(content)
        written.append(path)
    return written


def parts_of(name: str) -> tuple[str, ...]:
    """The parts of a relative path, as the file systems see them that tell the fewest names apart.

    Raises:
        ValueError: it is absolute, leads upwards, is git's own, or cannot be written everywhere.
    """
    parts = name.split("/")
    wrong = (
        not name.isprintable()
        or len(name.encode(errors="surrogateescape")) > _PATH
        or set(name) & {"\\", ":"}  # a separator, and what follows a drive, elsewhere
        or any(part in ("", ".", "..") for part in parts)
        or any(len(part.encode(errors="surrogateescape")) > _NAME for part in parts)
    )
    if wrong:
        raise ValueError(f"{name!r} is not a path below one folder")
    same = tuple(_folded(part) for part in parts)
    if any(part in (".git", "git~1", "") for part in same):
        raise ValueError(f"{name!r} is git's own")
    return same


def _check_paths(names: Iterable[str]) -> None:
    """Raise ValueError unless these are paths of different files."""
    files: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = set()
    for name in names:
        path = parts_of(name)
        above = {path[:i] for i in range(1, len(path))}
        if path in files or path in folders or above & files:
            raise ValueError(f"{name!r} is there twice")
        files.add(path)
        folders |= above


def _folded(part: str) -> str:
    """A name as the file systems see it that see the least: without case, marks that are not shown, and dots and blanks at its end."""
    shown = "".join(
        c for c in unicodedata.normalize("NFKC", part).casefold() if unicodedata.category(c) != "Cf"
    )
    return shown.rstrip(". ")


def _unzipped(archive: Path, most: int) -> bytes:
    packed = read_regular(archive, most)
    unzip = zlib.decompressobj(wbits=31)  # gzip
    content = unzip.decompress(packed, most + 1)
    if len(content) > most:
        raise ValueError(f"it unpacks to more than {most:,} bytes")
    if not unzip.eof or unzip.unused_data:
        raise ValueError("it is cut off, or is more than one archive")
    return content


def _files(content: bytes, max_bytes: int, max_files: int) -> list[tuple[str, bytes, bool]]:
    """Path, content and whether it can be executed, of each file of a tar."""
    found: list[tuple[str, bytes, bool]] = []
    size = 0
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for member in tar:
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
                raise ValueError(f"{member.name!r} is no regular file")
            if member.mode & 0o7000:
                raise ValueError(f"{member.name!r} would run with the rights of another user")
            size += member.size
            if size > max_bytes or len(found) == max_files:
                raise ValueError(f"it holds more than {max_bytes:,} bytes or {max_files:,} files")
            file = tar.extractfile(member)
            data = b"" if file is None else file.read()
            if len(data) != member.size:
                raise ValueError(f"{member.name!r} is cut off")
            found.append((member.name, data, bool(member.mode & 0o100)))
    return found


def _check_place(into: Path, name: str) -> None:
    """Refuse a path that is taken, or that goes through anything but folders."""
    place = into
    for part in name.split("/")[:-1]:
        place /= part
        if os.path.lexists(place) and (place.is_symlink() or not place.is_dir()):
            raise ValueError(f"{name!r} goes through {place}, which is no folder")
    if os.path.lexists(into / name):
        raise ValueError(f"{name!r} is there already")
