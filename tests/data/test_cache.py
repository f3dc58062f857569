"""The decoded cache: complete or absent, verified, and kept where writing is allowed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from vaelab.data import cache

ARRAYS = {"train_x": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "train_y": np.array([3, -1])}
SOURCES = {"a.gz": "00ff"}


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test writes into the cache of the person who runs it."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user" / "vaelab"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def write(data_dir: Path) -> Path:
    folder = cache.write("set", "k1", ARRAYS, SOURCES, data_dir)
    assert folder is not None
    return folder


def assert_intact(folder: Path) -> None:
    arrays, sources = cache.read(folder)
    assert sources == SOURCES
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert array.dtype == ARRAYS[name].dtype


def leftovers(root: Path) -> list[Path]:
    return list(root.glob(f"{cache.TEMPORARY}*"))


def test_what_is_written_is_read_as_ordinary_memory(data_dir: Path) -> None:
    folder = write(data_dir)
    assert folder == data_dir / ".vaelab" / "set-k1"
    assert cache.folders("set", "k1", data_dir) == [folder]
    assert cache.folders("set", "k2", data_dir) == []
    assert_intact(folder)
    arrays, _ = cache.read(folder)
    assert all(a.flags.writeable and a.flags.c_contiguous for a in arrays.values())
    assert leftovers(folder.parent) == []


def test_a_flipped_byte_is_noticed_and_replaced(data_dir: Path) -> None:
    folder = write(data_dir)
    path = folder / "train_x.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(cache.Damaged, match=r"train_x\.npy: sha256 .* expected"):
        cache.read(folder)
    assert write(data_dir) == folder
    assert_intact(folder)
    assert leftovers(folder.parent) == []


@pytest.mark.parametrize("name", ["train_y.npy", cache.RECORD])
def test_a_missing_or_cut_file_is_not_a_cache(data_dir: Path, name: str) -> None:
    folder = write(data_dir)
    content = (folder / name).read_bytes()
    for damaged in (content[: len(content) // 2], b"", None):
        (folder / name).unlink()
        if damaged is not None:
            (folder / name).write_bytes(damaged)
        assert cache.folders("set", "k1", data_dir) == []
        with pytest.raises(cache.Damaged):
            cache.read(folder)
        write(data_dir)
        assert_intact(folder)


def test_the_first_writer_wins(data_dir: Path) -> None:
    folder = write(data_dir)
    before = (folder / cache.RECORD).stat().st_ino
    assert write(data_dir) == folder
    assert (folder / cache.RECORD).stat().st_ino == before
    assert leftovers(folder.parent) == []


def test_a_folder_without_write_bits_is_left_alone_even_by_root(data_dir: Path, user_cache: Path) -> None:
    data_dir.chmod(0o555)
    try:
        assert not cache.writable(data_dir)
        assert not cache.writable(data_dir / "not" / "there")
        folder = write(data_dir)
        with cache.staging(data_dir) as temporary:
            assert temporary.parent == user_cache
        with pytest.raises(PermissionError):
            cache.publish(folder / cache.RECORD, data_dir)
    finally:
        data_dir.chmod(0o755)
    assert folder == user_cache / "set-k1"
    assert cache.folders("set", "k1", data_dir) == [folder]
    assert list(data_dir.iterdir()) == []


def test_a_read_only_or_full_file_system_sends_the_cache_to_the_next_place(
    data_dir: Path, user_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mount refuses the folder (EROFS), the user's cache the bytes (ENOSPC): the next place is taken."""
    make, sync = Path.mkdir, os.fsync

    def mkdir(self: Path, *args: object, **kwargs: object) -> None:
        if self.is_relative_to(data_dir):
            raise OSError(errno.EROFS, "Read-only file system", str(self))
        make(self, *args, **kwargs)  # type: ignore[arg-type]

    def full(descriptor: int) -> None:
        if list(user_cache.glob(f"{cache.TEMPORARY}*")):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(os, "fsync", full)
    folder = write(data_dir)
    assert folder.parent.parent == tmp_path / "tmp"
    assert folder.parent.stat().st_mode & 0o077 == 0
    assert_intact(folder)
    assert list(data_dir.iterdir()) == []
    assert leftovers(user_cache) == []


def test_nowhere_to_write_is_no_cache(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "writable", lambda folder: False)
    assert cache.write("set", "k1", ARRAYS, SOURCES, data_dir) is None
    with pytest.raises(OSError, match="no place to unpack"), cache.staging(data_dir):
        pass


def test_a_temporary_folder_that_others_could_write_is_not_trusted(tmp_path: Path, data_dir: Path) -> None:
    shared = cache.places(data_dir)[-1].caches
    assert shared.parent == tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o777)
    assert shared not in [place.caches for place in cache.places(data_dir)]


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from vaelab.data import cache

def stop_here(descriptor):
    print("writing", flush=True)
    time.sleep(600)

cache._sync = stop_here
cache.write("set", "k1", {"train_x": np.zeros(1000, np.uint8)}, {}, Path(sys.argv[1]))
"""


def test_a_kill_in_mid_write_leaves_nothing_that_is_used(data_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(data_dir)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    root = data_dir / ".vaelab"
    (left,) = leftovers(root)
    assert (left / "train_x.npy").exists()
    assert cache.folders("set", "k1", data_dir) == []

    assert_intact(write(data_dir))
    assert leftovers(root) == [left]  # it may belong to a writer that lives

    for path in (*left.iterdir(), left):
        os.utime(path, (0, 0))
    with cache.staging(data_dir):
        pass
    assert leftovers(root) == []
    assert_intact(root / "set-k1")


def test_publish_keeps_a_file_whole(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.gz").write_bytes(b"content")
    cache.publish(tmp_path / "f.gz", data_dir / "raw")
    assert (data_dir / "raw" / "f.gz").read_bytes() == b"content"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "_sync", full)
    (tmp_path / "g.gz").write_bytes(b"other")
    with pytest.raises(OSError, match="No space left"):
        cache.publish(tmp_path / "g.gz", data_dir / "raw")
    assert [path.name for path in (data_dir / "raw").iterdir()] == ["f.gz"]
