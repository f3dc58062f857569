"""Pictures made of images: ``[..., C, H, W]`` in [0, 1], C = 1 (grey) or 3 (RGB)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from vaelab.figures.sheet import Sheet, checked, gap_of
from vaelab.figures.style import VAL, signed

MOST = 400  # images in one picture


def samples(images: ArrayLike, title: str | None = None, columns: int | None = None) -> Figure:
    """A grid of ``images [n, C, H, W]``, row by row, near-square if no number of ``columns`` is given; of
    more than 400 the first 400 are drawn, and the title says so.
    """
    shown = checked(images, 4)
    count = len(shown)
    shown = shown[:MOST]
    if count > MOST:
        title = f"{title or 'samples'} (first {MOST} of {count})"
    if columns is None:
        columns = int(np.ceil(np.sqrt(len(shown))))
    rows = int(np.ceil(len(shown) / columns))
    grid = np.full((rows * columns, *shown.shape[1:]), np.inf, dtype=np.float32)  # inf = nothing there
    grid[: len(shown)] = shown
    return Sheet(grid.reshape(rows, columns, *shown.shape[1:]), title=title).figure


def reconstructions(x: ArrayLike, x_hat: ArrayLike, title: str | None = None) -> Figure:
    """Inputs ``x [n, C, H, W]`` above their reconstructions ``x_hat``, sixteen pairs across; at most 128
    pairs are drawn.
    """
    above, below = checked(x, 4), checked(x_hat, 4)
    if above.shape != below.shape:
        raise ValueError(f"x {above.shape} and x_hat {below.shape} must have one shape")
    pairs = np.stack([above, below], axis=1)[:128]  # [n, 2, C, H, W]
    columns = min(16, len(pairs))
    bands = int(np.ceil(len(pairs) / columns))
    grid = np.full((bands * columns, *pairs.shape[1:]), np.inf, dtype=np.float32)
    grid[: len(pairs)] = pairs
    grid = grid.reshape(bands, columns, *pairs.shape[1:]).swapaxes(1, 2)  # [bands, 2, columns, C, H, W]
    return Sheet(
        grid.reshape(bands * 2, columns, *pairs.shape[2:]),
        title=title,
        row_labels=["input", "output"] * bands,
        row_gaps=[gap_of(grid), 4 * gap_of(grid)] * bands,
    ).figure


def traversal(
    images: ArrayLike,
    values: ArrayLike,
    dims: Sequence[int],
    kl: Sequence[float] | None = None,
    title: str = "latent traversal",
) -> Figure:
    """``images [dims, steps, C, H, W]``: one row a latent dimension moved through ``values [steps]``, the
    others held fixed.

    ``dims`` are the dimensions' numbers and ``kl`` their KL in nats per image where it is known, the most
    active first by custom.
    """
    shown, values = checked(images, 5), np.asarray(values, dtype=float)
    costs = [None] * len(dims) if kl is None else list(kl)
    if not len(shown) == len(dims) == len(costs) or shown.shape[1] != len(values):
        raise ValueError(
            f"images {shown.shape} must be [dims, steps, C, H, W] for {len(dims)} dims, {len(costs)} kl"
            f" and {len(values)} values"
        )
    words = ["" if cost is None else f" (KL {cost:.{1 if cost >= 1 else 2}f} nats)" for cost in costs]
    return Sheet(
        shown,
        row_labels=[f"$z_{{{d}}}${word}" for d, word in zip(dims, words, strict=True)],
        column_labels=[signed(v) for v in values],
        title=title,
    ).figure


def manifold(
    images: ArrayLike,
    quantiles: ArrayLike,
    title: str = "decoded plane, by quantiles of the prior ($z_0$ across, $z_1$ up)",
) -> Figure:
    """The plane of a two-dimensional code, ``images [n, n, C, H, W]``.

    ``images[i, j]`` decodes z_0 = the prior's quantile ``quantiles[j]`` and z_1 = its quantile
    ``quantiles[i]``; z_1 grows upwards, so ``images[0]`` is the lowest row.
    """
    shown, quantiles = checked(images, 5), np.asarray(quantiles, dtype=float)
    if shown.shape[:2] != (len(quantiles), len(quantiles)):
        raise ValueError(f"images {shown.shape} must be [n, n, C, H, W] with n = {len(quantiles)} quantiles")
    labels = [f"{q:.3g}" for q in quantiles]
    return Sheet(
        shown[::-1],
        gap=0,
        row_labels=labels[::-1],
        foot_labels=labels,
        title=title,
    ).figure


def interpolation(
    images: ArrayLike, row_labels: Sequence[str] = (), title: str = "interpolation between test images"
) -> Figure:
    """``images [rows, steps, C, H, W]``: in each row the first and the last are images of the data, between
    them decoded codes. A label may stand before each row.
    """
    shown = checked(images, 5)
    if shown.shape[1] < 3:
        raise ValueError(f"images {shown.shape}: an interpolation has at least three steps")
    steps = shown.shape[1]
    labels = ["data", *[""] * (steps - 2), "data"]
    labels[steps // 2] = "decoded"
    gap = gap_of(shown)
    gaps = [3 * gap, *[gap] * (steps - 3), 3 * gap]
    sheet = Sheet(
        shown,
        row_labels=row_labels,
        column_labels=labels,
        column_gaps=gaps,
        row_gaps=[2 * gap] * len(shown),
        title=title,
    )
    for row in range(len(shown)):
        for column in (0, steps - 1):
            sheet.frame(row, column, VAL)
    return sheet.figure


def arithmetic(images: ArrayLike, classes: Sequence[tuple[int, int]], weights: ArrayLike) -> Figure:
    """``images [rows, 1 + steps, C, H, W]``: in each row an image of the data, then its code decoded with
    ``weights [steps]`` times the difference between the mean codes of two classes.

    ``classes`` are the two of each row, from the first to the second.
    """
    shown, weights = checked(images, 5), np.asarray(weights, dtype=float)
    if len(shown) != len(classes) or shown.shape[1] != 1 + len(weights):
        raise ValueError(
            f"images {shown.shape} must be [rows, 1 + steps, C, H, W] for {len(classes)} rows and {len(weights)} weights"
        )
    gap = gap_of(shown)
    sheet = Sheet(
        shown,
        row_labels=[f"{a} → {b}" for a, b in classes],
        column_labels=["data", *(signed(w) for w in weights)],
        column_gaps=[3 * gap, *[gap] * len(weights)],
        row_gaps=[2 * gap] * len(shown),
        title="latent arithmetic: z + w (mean code of the second class − that of the first), by w",
    )
    for row in range(len(shown)):
        sheet.frame(row, 0, VAL)
    return sheet.figure


def neighbours(samples: ArrayLike, neighbours: ArrayLike, distances: ArrayLike) -> Figure:
    """A row for each of ``samples [n, C, H, W]``: the sample, framed, and its nearest training images
    ``neighbours [n, k, C, H, W]``, the nearest first.

    ``distances [n, k]`` are Euclidean, over pixels; that of the nearest stands before the row. Rows are drawn
    while they make at most 400 images, and the title says where some are left out.
    """
    first, others = checked(samples, 4), checked(neighbours, 5)
    lengths = np.asarray(distances, dtype=float)
    if (
        others.shape[0] != len(first)
        or others.shape[2:] != first.shape[1:]
        or lengths.shape != others.shape[:2]
    ):
        raise ValueError(
            f"samples {first.shape}, neighbours {others.shape} and distances {lengths.shape} must be"
            " [n, C, H, W], [n, k, C, H, W] and [n, k]"
        )
    grid = np.concatenate([first[:, None], others], axis=1)
    rows = max(1, MOST // grid.shape[1])
    left_out = f" (first {rows} of {len(grid)})" if len(grid) > rows else ""
    grid, gap = grid[:rows], gap_of(grid)
    sheet = Sheet(
        grid,
        title=f"samples and their nearest training images{left_out}; left, the distance to the first",
        row_labels=[f"{length:.3g}" for length in lengths[:rows, 0]],
        column_labels=["sample", *(str(i + 1) for i in range(others.shape[1]))],
        column_gaps=[3 * gap, *[gap] * others.shape[1]],
        row_gaps=[2 * gap] * len(grid),
    )
    for row in range(len(grid)):
        sheet.frame(row, 0, VAL)
    return sheet.figure
