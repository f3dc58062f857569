"""Every logged value, by step: ``metrics.csv``, one row a step and one column a metric."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

from vaelab.errors import SettingError
from vaelab.runs.files import read_regular, write_atomically

STEP = "step"
MOST = 64 << 20  #: bytes of a metrics file from anywhere: a hundred thousand rows of thirty metrics
OWN = 1 << 40  #: of one that this process goes on with: what a run has logged it can read


class MetricsWriter:
    """Appends to a metrics file; opening one that exists continues it.

    One row a step, steps in increasing order. Two appends with the same step make one row: the later value of
    a metric stands. A cell is empty where a metric was not logged at that step. Floats are written so that
    they read back exactly (``nan`` and ``inf`` too). Each append is in the file when it returns, so a killed
    process loses nothing it logged; a torn last line (a full disk, a power cut) is dropped when the file is
    opened again. Wall-clock values belong under ``time/``: comparisons leave those out.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._load()

    def flush(self) -> None:
        """Have what was logged on the disk, and not only with the system: as much as a checkpoint that is written next knows of."""
        os.fsync(self._file)

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Log ``values`` at ``step``. Raises ValueError for a step below the last one and for a key CSV
        would have to quote.
        """
        step = int(step)
        fresh = {key: float(value) for key, value in values.items()}
        for key in fresh:
            if not key or key == STEP or set(key) & set(',"\r\n'):
                raise ValueError(f"{key!r} cannot name a metric")
        if self._row and step < self._row[STEP]:
            raise ValueError(f"step {step} after step {self._row[STEP]}: truncate_after() first")
        if not fresh:
            return
        self._widen([key for key in fresh if key not in self._columns])
        same = bool(self._row) and step == self._row[STEP]
        row = {**(self._row if same else {}), STEP: step, **fresh}
        text = self._line(row)
        if same and len(text) < self._end - self._start:
            # a shorter row in place would leave a tail for a reader that comes in between
            write_atomically(self.path, self.path.read_bytes()[: self._start] + text)
            self._reopen()
        else:
            self._start = self._start if same else self._end
            _write_at(self._file, text, self._start)
        self._row, self._end = row, self._start + len(text)

    def truncate_after(self, step: int) -> None:
        """Cut the file back to the rows up to and including ``step`` (before a resumed run logs the later
        ones again).
        """
        rows = [row for row in read(self.path, OWN) if row[STEP] <= step]
        self._rewrite(rows)

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self) -> None:
        if not self.path.exists():
            write_atomically(self.path, f"{STEP}\n")
        self._file = os.open(self.path, os.O_RDWR)
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            write_atomically(self.path, f"{STEP}\n")
            self._reopen()
            whole = f"{STEP}\n".encode()
        elif len(whole) < len(content):
            os.ftruncate(self._file, len(whole))
        self._columns = next(csv.reader(io.StringIO(whole.decode())))[1:]
        rows = read(self.path, OWN)
        self._row: dict[str, float] = rows[-1] if rows else {}
        self._end = len(whole)
        self._start = whole.rfind(b"\n", 0, -1) + 1 if rows else self._end  # where the last row begins

    def _widen(self, keys: list[str]) -> None:
        """A metric seen for the first time: the file is replaced by one with a wider header."""
        if not keys:
            return
        rows = read(self.path, OWN)
        self._columns += keys
        self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, float]]) -> None:
        header = ",".join([STEP, *self._columns]) + "\n"
        lines = [self._line(row) for row in rows]
        write_atomically(self.path, header.encode() + b"".join(lines))
        self._reopen()
        self._end = len(header.encode()) + sum(map(len, lines))
        self._row = rows[-1] if rows else {}
        self._start = self._end - len(lines[-1]) if rows else self._end

    def _reopen(self) -> None:
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDWR)

    def _line(self, row: Mapping[str, float]) -> bytes:
        cells = (repr(row[key]) if key in row else "" for key in self._columns)
        return (",".join([str(int(row[STEP])), *cells]) + "\n").encode()


def read(path: Path | str, most: int = MOST) -> list[dict[str, float]]:
    """The rows of a metrics file of at most ``most`` bytes, in order of step: ``{"step": 50, "train/elbo": -120.3, ...}``,
    without the empty cells.

    A torn last line is left out. Raises FileNotFoundError, and SettingError("run") for a file that is not one of ours.
    """
    try:
        return _rows(read_regular(path, most))
    except SettingError:
        raise
    except (csv.Error, ValueError) as error:
        raise SettingError("run", path, f"is not a table of metrics ({error})") from None


def validation_at(path: Path, step: int | None, most: int = MOST) -> dict[str, float]:
    """What validation found after so many optimizer steps, ``{"val/elbo": -101.2, ...}``; empty where there was none, or the file is gone.

    Raises:
        SettingError: as :func:`read` does.
    """
    rows = read(path, most) if path.is_file() else []
    return {k: value for row in rows if row[STEP] == step for k, value in row.items() if k.startswith("val/")}


def _rows(content: bytes) -> list[dict[str, float]]:
    lines = csv.reader(io.StringIO(content[: content.rfind(b"\n") + 1].decode()))
    header = next(lines, None)
    if not header:
        return []
    if header[0] != STEP:
        raise ValueError(f"the first column is {header[0]!r}, not {STEP!r}")
    rows = []
    for cells in lines:
        if len(cells) != len(header):
            raise ValueError(f"line {lines.line_num}: {len(cells)} cells for {len(header)} columns")
        row: dict[str, float] = {
            key: float(cell) for key, cell in zip(header[1:], cells[1:], strict=True) if cell
        }
        rows.append({STEP: int(cells[0]), **row})
    return rows


def _write_at(file: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
