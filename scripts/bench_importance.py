"""Importance-weighted steps of 50 samples an image, beside those of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from bench_steps import composed, in_turn, steps_of

TITLE = "Fifty samples an image"
ABOUT = """\
Seconds of 50 steps of the one-layer model of Burda et al. (784-200-200-50, tanh), dynamically binarised MNIST, batch 100, with K = 50 and with K = 1, ten steps in turn. `decoder's products, K = 50`: those of the decoder on
5,000 rows in both passes by the library that torch takes (`engine.matmul=fp32`), and nothing else."""


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Seconds of 50 steps."""
    os.environ["DATA_DIR"] = str(data_dir)
    usual = ("experiment=iwae_iwae50", "data.batch_size=100", "trainer=cpu", "logger=none")
    variants = {
        "K = 50": steps_of(composed(*usual)),
        "K = 1": steps_of(composed(*usual, "objective.num_samples=1")),
        "decoder's products, K = 50": products_of_the_decoder(),
    }
    return in_turn(variants, repetitions, 50, at_once=10)


def products_of_the_decoder(rows: int = 5000) -> Iterator[None]:
    """Forward, by weights, by inputs."""
    import torch

    sizes = (50, 200, 200, 784)
    layers = [(torch.randn(rows, a), torch.randn(b, a), torch.randn(rows, b)) for a, b in pairwise(sizes)]
    while True:
        for x, weight, y in layers:
            torch.mm(x, weight.T)
            torch.mm(y.T, x)
            torch.mm(y, weight)
        yield
