"""Pictures of anomaly scores."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from vaelab import figures
from vaelab.figures.detection import BINS
from vaelab.figures.style import DPI, VAL

rng = np.random.default_rng(0)
NAMES = ("a set of a long name, test", "$other$_set")
SCORES = ("-ELBO", "-log p(x), importance-weighted", "distortion", "typicality of log p(x)", "typicality of the rate",
          "-log p(x) - length of a PNG", "likelihood ratio to a background", "likelihood regret")  # fmt: skip


def pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return np.asarray(Image.open(buffer).convert("RGB"))


def curves(count: int) -> dict[str, Any]:
    x = np.linspace(0, 1, 500)
    return {name: (x, x ** (1 / (i + 1)), 1 - 1 / (i + 2)) for i, name in enumerate(SCORES[:count])}


def histograms(count: int, outside: bool = True) -> dict[str, Any]:
    return {
        name: (rng.normal(-1e4, 50, 300), rng.normal(-9.9e3, 50, 200) if outside else None, -9.95e3)
        for name in SCORES[:count]
    }


def images(count: int, c: int = 1) -> np.ndarray:
    return rng.random((count, c, 28, 28))


PICTURES = {
    "all roc curves": lambda: figures.roc(curves(8), NAMES, "anomalies: other; what belongs: a set"),
    "one roc curve": lambda: figures.roc(curves(1), NAMES, "title"),
    "all histograms": lambda: figures.score_histograms(histograms(8), NAMES, 0.05),
    "one histogram of one set": lambda: figures.score_histograms(histograms(1, False), NAMES, 0.05),
    "a score that is one number": lambda: figures.score_histograms(
        {"s": (np.zeros(9), np.zeros(3), 0.0)}, NAMES, 0.05
    ),
    "extremes": lambda: figures.score_extremes(
        [images(16), images(3), images(16), images(1)], [f"{name}, least" for name in NAMES for _ in range(2)], SCORES[1]
    ),
    "own images": lambda: figures.scored_images(
        images(32, 3), np.linspace(1e5, -1e5, 32), np.arange(32) < 3, SCORES[5], 12.3, 5000
    ),
    "one image": lambda: figures.scored_images(images(1), [3.0], [True], SCORES[5], 1.5, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_is_cut_off(name: str) -> None:
    drawn = pixels(PICTURES[name]())
    edges = [drawn[:6], drawn[-6:], drawn[:, :6], drawn[:, -6:]]
    assert all((edge == 255).all() for edge in edges)


def test_a_curve_is_named_with_its_area() -> None:
    figure = figures.roc(curves(2), NAMES, "title")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "chance (0.5)",
        "-ELBO (0.5000)",
        "-log p(x), importance-weighted (0.6667)",
    ]
    line = figure.axes[0].lines[1]
    np.testing.assert_allclose(np.asarray(line.get_ydata()), curves(2)["-ELBO"][1])


def test_a_histogram_holds_all_images_and_marks_the_threshold() -> None:
    inside, outside = np.append(rng.normal(size=999), 1e6), rng.normal(2, 1, 500)
    figure = figures.score_histograms({"s": (inside, outside, 1.5)}, NAMES, 0.05)
    axes = figure.axes[0]
    heights = [patch.get_xy()[:, 1] for patch in axes.patches]  # type: ignore[attr-defined]
    assert len(heights) == 2
    assert [line.get_xdata()[0] for line in axes.lines] == [1.5]  # type: ignore[index]
    assert axes.get_xlim()[1] < 10, "one that lies far off does not make the others a line"
    # a step polygon goes up or down once a bin: the heights are those of all images, the far one in the last bin
    assert [each[1 : 2 * BINS : 2].sum() for each in heights] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("images, bins", [(5, 10), (50, 14), (1000, 60), (50_000, 60)])
def test_few_images_have_few_bins(images: int, bins: int) -> None:
    figure = figures.score_histograms({"s": (rng.normal(size=images), None, 1.5)}, NAMES, 0.05)
    (patch,) = figure.axes[0].patches
    edges = np.unique(patch.get_xy()[:, 0])  # type: ignore[attr-defined]
    assert len(edges) == bins + 1


def test_the_anomalous_images_are_framed() -> None:
    figure = figures.scored_images(images(10), np.arange(10)[::-1], np.arange(10) < 4, "s", 5.5, 10)
    frames = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len(frames) == 4
    assert all(
        frame.get_edgecolor()[:3] == pytest.approx([int(VAL[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        for frame in frames
    )
    scores = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in scores if text.endswith(".0")] == [f"{9 - i}.0" for i in range(10)]
