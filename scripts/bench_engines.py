"""Engines, beside loops written by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import bench_train
from bench_steps import composed, in_turn, steps_of

TITLE = "Engines"
ABOUT = """\
Seconds of 469 steps, an epoch, of the reference experiment (batch 128), twenty steps in turn, of each engine without Lightning around it. `plain loop`: written by hand. On a GPU also `captured loop`: the same, recorded as one CUDA graph with its
optimizer, on images that lie there."""
EPOCH = 469


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Seconds of an epoch's steps."""
    os.environ["DATA_DIR"] = str(data_dir)
    import torch

    from vaelab.data import datasets

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = datasets.load("mnist", data_dir).train.x
    engines = ("graph", "eager", "compiled") if device == "cuda" else ("eager", "compiled")
    variants = {name: steps_of(composed("experiment=reference", "logger=none", f"engine={name}"), device) for name in engines}  # fmt: skip
    if device == "cuda":
        variants["captured loop"] = captured_loop(images)
    else:
        variants["plain loop"] = bench_train.plain_loop(images)
    return in_turn(variants, repetitions, EPOCH)


def captured_loop(images: object) -> Iterator[None]:
    """The steps of the plain loop on a GPU, as a CUDA graph."""
    import torch

    assert isinstance(images, torch.Tensor)
    x, parts = images.cuda(), bench_train.network("cuda", capturable=True)
    index, totals = torch.zeros(128, dtype=torch.int64, device="cuda"), torch.zeros(3, device="cuda")

    def step() -> None:
        bench_train.train_step(parts, x[index].view(-1, 784).float() / 255, totals)

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    while True:
        for some in torch.randperm(len(x), device="cuda").split(128):
            if len(some) == len(index):
                index.copy_(some)
                graph.replay()
                yield
