"""What a training costs against how much there is to do: images, latent dimensions, samples."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench_steps import REPOSITORY, composed, in_turn, steps_of

TITLE = "Cost against work"
ABOUT = """\
Seconds of an epoch of the reference experiment through `vae-train` (no tracker) on 600, 6,000 and 60,000 images; and milliseconds of a step against `latent_dim` from 2 to 512 and, with `objective=iwae`, against K from 1 to 100,
ten steps in turn. What bends the lines: an epoch of few steps is mostly its end (a checkpoint, a frame of the animation); a step of few latent dimensions or samples is the networks' other products; with K = 100 the images of a batch, 12,800 rows of 784 numbers or 40 MB, fit no cache any more.

![seconds against images, latent dimensions and samples](images/cost.png)"""
IMAGES, LATENT, SAMPLES = (600, 6000, 60000), (2, 8, 32, 128, 512), (1, 3, 10, 30, 100)


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Seconds of epochs, milliseconds of steps; the picture is written."""
    os.environ["DATA_DIR"] = str(data_dir)
    usual = ("experiment=reference", "trainer=cpu", "logger=none")
    epochs = {f"{n:,} images, s": epochs_of(n, repetitions, usual) for n in IMAGES}
    latent = {f"latent_dim={d}, ms": steps_of(composed(*usual, f"latent_dim={d}")) for d in LATENT}
    samples = {
        f"K = {k}, ms": steps_of(composed(*usual, "objective=iwae", f"objective.num_samples={k}")) for k in SAMPLES
    }  # fmt: skip
    steps = {
        name: [100 * seconds for seconds in times]
        for some in (latent, samples)
        for name, times in in_turn(some, repetitions, 10, at_once=10).items()
    }
    draw(epochs, steps)
    return dict(reversed(epochs.items())) | steps


def epochs_of(images: int, repetitions: int, usual: tuple[str, ...]) -> list[float]:
    """Seconds from the start of an epoch to that of the next."""
    import lightning as L

    from vaelab.experiments.train import train

    starts: list[float] = []

    class Watch(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            starts.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as logs:
        more = (f"data.train_size={images}", f"trainer.max_epochs={repetitions + 2}", f"paths.log_dir={logs}", "report=false")  # fmt: skip
        train(composed(*usual, *more), callbacks=[Watch()])
    return [end - start for start, end in pairwise(starts[1:])]


def draw(epochs: dict[str, list[float]], steps: dict[str, list[float]]) -> None:
    """docs/images/cost.png."""
    import matplotlib

    from vaelab import figures
    from vaelab.figures.style import FAINT, GRID, STYLE, TRAIN, blank

    medians = {name: statistics.median(values) for name, values in (epochs | steps).items()}
    panels: list[tuple[str, str, tuple[int, ...], str]] = [
        ("images", "seconds an epoch", IMAGES, "images"),
        ("latent_dim", "milliseconds a step", LATENT, "latent_dim="),
        ("samples K an image", "milliseconds a step", SAMPLES, "K ="),
    ]
    with matplotlib.rc_context(STYLE):
        figure: Any = blank(1560, 480)
        for place, (across, up, xs, mark) in enumerate(panels):
            axes = figure.add_axes((0.055 + 0.33 * place, 0.16, 0.255, 0.76))
            ys = [value for name, value in medians.items() if mark in name]
            axes.loglog(xs, ys, marker="o", color=TRAIN)
            axes.loglog(
                xs, [ys[-1] * x / xs[-1] for x in xs], color=FAINT, linestyle=(0, (4, 4)), linewidth=1
            )
            axes.set(xlabel=across, ylabel=up)
            axes.set_xticks(xs, [f"{x:,}" for x in xs])
            axes.minorticks_off()
            axes.grid(color=GRID, linewidth=0.7)
        figure.axes[0].legend(["measured", "in proportion"], frameon=False)
        figures.save(figure, REPOSITORY / "docs" / "images" / "cost.png")
