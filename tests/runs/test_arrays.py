"""Arrays of a run directory: what numpy writes is read back, and nothing that unpacks to more than it is, or to anything else."""

from __future__ import annotations

import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recorded import Payload, a_run, card_of
from vaelab.errors import SettingError
from vaelab.runs import read_arrays
from vaelab.runs.per_image import per_image


def member(path: Path, content: bytes, size: int | None = None) -> None:
    """A ``.npz`` with one member."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("nll.npy", "w") as file:
        file.write(content)
        for _ in range(0, size or 0, 1 << 20):
            file.write(bytes(1 << 20))


def header(shape: str, descr: str = "<f8") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


ARRAYS: dict[str, Callable[[Path, Path], object]] = {
    "a bomb": lambda path, _: member(path, header("(41943040,)"), 320 << 20),
    "a shape without values": lambda path, _: member(path, header("(1000000000000,)")),
    "values of no bytes": lambda path, _: member(path, header("(1000000000000,)", "|S0")),
    "raw bytes": lambda path, _: member(path, header("(2,)", "|V8") + bytes(16)),
    "objects": lambda path, canary: np.savez(path, nll=np.array([Payload(canary)], dtype=object)),
    "a pickle": lambda path, canary: path.write_bytes(pickle.dumps(Payload(canary))),
    "no array": lambda path, _: member(path, b"x" * 100),
    "a FIFO": lambda path, _: os.mkfifo(path),
    "a file without blocks": lambda path, _: path.touch() or os.truncate(path, 1 << 40),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_refused_before_they_are_unpacked(name: str, tmp_path: Path) -> None:
    path, canary = tmp_path / "per_image.npz", tmp_path / "canary"
    ARRAYS[name](path, canary)
    tracemalloc.start()
    with pytest.raises(SettingError, match=r"per_image\.npz"):
        read_arrays(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20
    assert not canary.exists()


def test_a_card_has_no_values_in_a_bomb(tmp_path: Path) -> None:
    values = np.arange(5.0)
    card = card_of(values)
    run = a_run(tmp_path, "a", [card], index=np.arange(5), nll=values)
    (run / "evaluations").mkdir()
    member(run / "evaluations" / "per_image.npz", header("(41943040,)"), 320 << 20)
    assert per_image(run, card) is not None
    (run / "per_image.npz").unlink()
    assert per_image(run, card) is None


def test_arrays_read_back_as_numpy_writes_them(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6.0).reshape(2, 3), "b": np.asfortranarray(np.arange(6).reshape(2, 3)), "c": np.array(True), "d": np.array(["x", "yy"]),
        "e": np.zeros((0, 3), np.float32),
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        found = read_arrays(tmp_path / "x.npz")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
            found[name].flags.writeable = True
