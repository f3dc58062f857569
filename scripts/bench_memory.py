"""Memory of a long training."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bench_steps import composed

TITLE = "Memory"
ABOUT = """\
Megabytes of the process (resident set) at the ends of epochs of the reference experiment on 6,000 images, with default logger, checkpoints and pictures. The aim: no growth."""
EPOCHS = (2, 5, 10, 20)


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Megabytes; one training, as a process keeps what an earlier one has had."""
    os.environ["DATA_DIR"] = str(data_dir)
    os.environ.setdefault("WANDB_MODE", "offline")
    import lightning as L

    from vaelab.experiments.train import train

    found: dict[str, list[float]] = {}

    class Watch(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch in EPOCHS:
                found[f"{trainer.current_epoch} epochs"] = [resident()]

    with tempfile.TemporaryDirectory() as logs:
        overrides = ("experiment=reference", "trainer=cpu", "data.train_size=6000", f"trainer.max_epochs={EPOCHS[-1] + 1}", f"paths.log_dir={logs}")  # fmt: skip
        train(composed(*overrides), callbacks=[Watch()])
    return dict(reversed(found.items()))


def resident() -> float:
    """Megabytes that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
