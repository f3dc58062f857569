"""Whether a training keeps more and more memory."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from bench_steps import composed

TITLE = "Memory"
ABOUT = """\
Megabytes in memory (resident set) at the ends of epochs of the reference experiment on 600 images, each variant in a process of its own. `default`: logger W&B, checkpoints and pictures; `no logger`: without W&B and its pictures.
The aim: no growth from the 2nd to the 20th epoch. What grows where pictures are drawn is memory that has been given back and is kept by the C library: pictures of the first thirty to sixty moments add to it, and later ones,
farther and farther apart, do not."""
EPOCHS = (2, 20, 160, 640)
VARIANTS = {"default": (), "no logger": ("logger=none",)}


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Megabytes; one training of each variant, in a process of its own, as a process keeps what an earlier one has had."""
    os.environ["DATA_DIR"] = str(data_dir)
    os.environ.setdefault("WANDB_MODE", "offline")
    found: dict[str, list[float]] = {}
    for name, overrides in VARIANTS.items():
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            values = pool.submit(watched, overrides).result()
        found |= {f"{name}, {epochs} epochs": [megabytes] for epochs, megabytes in values.items()}
    return found


def watched(overrides: tuple[str, ...]) -> dict[int, float]:
    """Megabytes after so many epochs."""
    import lightning as L

    from vaelab.experiments.train import train

    found: dict[int, float] = {}

    class Watch(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch in EPOCHS:
                found[trainer.current_epoch] = resident()

    with tempfile.TemporaryDirectory() as logs:
        usual = ("experiment=reference", "trainer=cpu", "data.train_size=600", f"trainer.max_epochs={EPOCHS[-1] + 1}", f"paths.log_dir={logs}", "report=false")  # fmt: skip
        train(composed(*usual, *overrides), callbacks=[Watch()])
    return found


def resident() -> float:
    """Megabytes that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
