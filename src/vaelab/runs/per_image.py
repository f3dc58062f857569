"""The values behind a card, image by image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vaelab.errors import SettingError
from vaelab.runs.arrays import read_arrays
from vaelab.runs.cards import Card

if TYPE_CHECKING:  # numpy costs 0.1 s: the table of runs does without
    import numpy as np

FILES = ("per_image.npz", "evaluations/**/*.npz")
INDEX = "index"
# where a metric is stored under another name, with another sign
COLUMNS = {"nll": (("nll", 1.0), ("log_px", -1.0))}


def per_image(run: Path, card: Card) -> tuple[np.ndarray, np.ndarray] | None:
    """The indices of the images ``[N]``, rising, and the value of each ``[N]``, in the card's units and with its sign;
    None where the run holds none.

    A run may have been measured many times, and a later measurement replaces a card but no file. So a file belongs
    to the card if the card's value is the mean of its column, to rounding, over as many images.

    Args:
        run: a run directory.
        card: one of its cards.
    """
    import numpy as np

    for index, values in _columns(run, card):
        if values.shape != (card.num_images,) or index.shape != values.shape:
            continue
        order = np.argsort(index)
        index, values = index[order], values[order].astype(np.float64)
        each_once = bool((np.diff(index) > 0).all())
        if each_once and math.isclose(float(values.mean()), card.value, rel_tol=1e-9, abs_tol=1e-12):
            return index, values
    return None


def _columns(run: Path, card: Card) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair of columns that could be the card's; a damaged file holds none."""
    for path in [path for pattern in FILES for path in sorted(run.glob(pattern), reverse=True)]:
        try:
            columns = read_arrays(path)
        except SettingError:
            continue
        for name, sign in COLUMNS.get(card.metric, ((card.metric, 1.0),)):
            if name in columns and INDEX in columns and columns[name].dtype.kind in "biuf":
                yield columns[INDEX], sign * columns[name]
