"""What all pictures share: colours, sizes, and how they are written."""

from __future__ import annotations

import io
import os
import secrets
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import ImageFont

Array = NDArray[Any]

DPI = 150
PAD = 18  # picture pixels around everything

INK, FAINT = "#222222", "#767676"
GRID = "#e6e6e6"
TRAIN, VAL = "#0072b2", "#d55e00"
# Ten classes, each at least 24 CIELAB units from the others, from white and from the grey of unlabelled
# points, as seen with normal sight, protanopia and deuteranopia (drawn from Wong's, Tol's and IBM's palettes)
TEN = (
    "#aa4499", "#d55e00", "#56b4e9", "#882255", "#f0e442",
    "#785ef0", "#661100", "#cc6677", "#ddcc77", "#332288",
)  # fmt: skip
NONE = "#c4c4c4"
#: colour and marker of lines in one picture: Wong's, of which each can be told from the others without colours, too
LINES = (
    ("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#e69f00", "v"),
    ("#56b4e9", "P"), ("#222222", "X"), ("#882255", "<"), ("#785ef0", ">"), ("#767676", "*"),
)  # fmt: skip

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.facecolor": "white",
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "figure.dpi": DPI,
    "savefig.facecolor": "white",
    "savefig.bbox": None,
    "text.usetex": False,
}


def save(figure: Figure, path: Path | str) -> Path:
    """Write a PNG at 150 dpi, whole or not at all; equal figures make equal bytes (no time stamp, no version
    in it).
    """
    path = Path(path)
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def blank(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def font(size: int) -> ImageFont.FreeTypeFont:
    """The font of all pictures, for those that Pillow draws."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def text_width(text: str, size: float) -> int:
    """Picture pixels that ``text`` takes across."""
    figure = blank(10, 10)
    return int(np.ceil(figure.text(0, 0, text, fontsize=size).get_window_extent().width))


def literal(text: str) -> str:
    """``text`` as it is: nothing in it is a formula, and what cannot be printed is one sign."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text).replace("$", r"\$")


def signed(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "0") else text.replace("-", "−")


def around(values: Array) -> tuple[float, float]:
    """Limits of an axis with room around ``values``."""
    low, high = float(values.min()), float(values.max())
    room = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room
