"""Training with products of float32 numbers in fewer bits (``engine.matmul=bf16``), beside all of them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bench_steps import composed, in_turn, steps_of

TITLE = "Products in fewer bits"
ABOUT = """\
Seconds of 469 steps, an epoch, of the reference experiment (batch 128) with `engine.matmul=bf16` and `fp32`, twenty steps in turn. A CPU with AMX multiplies bfloat16 numbers; on one without, torch takes
oneDNN's float32 kernels in the place of MKL's. The aims: 0.8 times the seconds; after ten epochs -ELBO within 0.3 nats."""
EPOCH = 469
NOTES: list[str] = []


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Seconds of each epoch, of each arithmetic; the ELBOs after ten epochs go to :data:`NOTES`."""
    os.environ["DATA_DIR"] = str(data_dir)
    from vaelab.experiments.train import train

    usual = ("experiment=reference", "trainer=cpu", "logger=none", "callbacks=none", "report=false")
    kinds = ("bf16", "fp32")
    variants = {kind: steps_of(composed(*usual, f"engine.matmul={kind}")) for kind in kinds}
    times = in_turn(variants, repetitions, EPOCH)
    with tempfile.TemporaryDirectory() as logs:
        for kind in kinds:
            result = train(composed(*usual, f"engine.matmul={kind}", f"paths.log_dir={logs}"))
            elbo = next(card for card in result.cards if card.metric == "elbo")
            NOTES.append(f"test ELBO after ten epochs, {kind}: {elbo.value:.2f} ± {elbo.se_images:.2f} nats (over images)")  # fmt: skip
    return times
