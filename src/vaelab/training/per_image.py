"""Values of single images on disk, as they come."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vaelab.errors import SettingError
from vaelab.runs import read_arrays, write_atomically

SECONDS = "seconds"  # a column of its own: wall-clock time is no value of an image


class PerImageParts:
    """A folder of parts, to which any number of processes add; a measurement that was interrupted finds in it what is done.

    Args:
        folder: made where it is not there.
        seconds_between: two parts of one process: what an interruption costs at most.
    """

    def __init__(self, folder: Path, seconds_between: float = 10.0) -> None:
        self.folder = folder
        self._seconds_between = seconds_between
        self._pending: list[dict[str, Tensor]] = []
        self._last = time.monotonic()

    def add(self, index: Tensor, columns: Mapping[str, Tensor], seconds: float) -> None:
        """Take the values ``[B]`` of the images at ``index [B]``, measured in so many seconds."""
        share = torch.full((len(index),), seconds / len(index), dtype=torch.float64)
        self._pending.append({"index": index.double(), **columns, SECONDS: share})
        if time.monotonic() - self._last > self._seconds_between:
            self.flush()

    def flush(self) -> None:
        """Write what has come since the last part."""
        if self._pending:
            self.folder.mkdir(parents=True, exist_ok=True)
            names = self._pending[0]
            columns = {
                name: torch.cat([part[name].cpu() for part in self._pending]).numpy() for name in names
            }
            path = self.folder / f"{os.getpid()}-{secrets.token_hex(4)}.npz"
            write_atomically(path, archive(columns))
        self._pending, self._last = [], time.monotonic()

    def read(self) -> dict[str, np.ndarray]:
        """All values so far, each image once, in the order of their indices; {} where there are none."""
        files = sorted(self.folder.glob("*.npz"))
        if not files:
            return {}
        parts = [_read(file) for file in files]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        _, first = np.unique(columns["index"], return_index=True)
        return {name: column[first] for name, column in columns.items()}

    def merge(self, path: Path) -> float:
        """Write all values into one file at ``path`` and remove the parts. Returns the seconds that they took, summed over processes."""
        columns = self.read()
        seconds = columns.pop(SECONDS)
        write_atomically(path, archive(columns))
        self.discard()
        return float(seconds.sum())

    def discard(self) -> None:
        """Remove the parts, if there are any."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)


def archive(columns: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a compressed ``.npz`` file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **columns)
    return buffer.getvalue()


def _read(path: Path) -> dict[str, np.ndarray]:
    columns = read_arrays(path)
    if not {"index", SECONDS} <= columns.keys() or len({column.shape for column in columns.values()}) > 1:
        raise SettingError("run", path, "holds no values of images")
    return columns
