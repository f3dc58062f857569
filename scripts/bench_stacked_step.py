"""Seconds of a step of 64 models, as one and one after the other."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench_steps import composed
from vaelab.experiments.assembly import assemble
from vaelab.training.stacked import MemberStep, StackedStep, take_apart

TITLE = "Stacked steps"
ABOUT = """\
Seconds for one optimizer step of each of 64 models of the 8x8 digits (64-64-8 latent dimensions-64-64, batch 128), noise, batch, check and Adam included; a median over ten steps a repetition, the two in turn.

`stacked`: as one. `one by one`: each by the step of a run by itself."""
MODELS, STEPS = 64, 10
SETTINGS = ("data=digits", "logger=none", "trainer=cpu", "encoder.hidden=[64]", "decoder.hidden=[64]", "latent_dim=8", "data.batch_size=128")  # fmt: skip


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Seconds of each repetition, of each variant; one more repetition comes first and does not count."""
    members = [member(seed, data_dir) for seed in range(MODELS)]
    times: dict[str, list[float]] = {"stacked": [], "one by one": []}
    stack, number = StackedStep(), 0
    for repetition in range(repetitions + 1):
        found: dict[str, list[float]] = {"stacked": [], "one by one": []}
        for _ in range(STEPS):
            number += 1
            now = [replace(one, number=number) for one in members]
            started = time.perf_counter()
            stack(now)
            found["stacked"].append(time.perf_counter() - started)
            started = time.perf_counter()
            for one in now:
                one.step(one.index, one.number, one.optimizer, one.backward)
            found["one by one"].append(time.perf_counter() - started)
        for name, seconds in found.items():
            if repetition:
                times[name].append(sorted(seconds)[STEPS // 2])
    for one in members:
        take_apart(one.step.model)
    return times


def member(seed: int, data_dir: Path) -> MemberStep:
    parts = assemble(composed(*SETTINGS, f"paths.data_dir={data_dir}", f"seed={seed}"))
    module, data = parts.module, parts.data
    index = torch.arange(min(data.batch_size, data.size("train")))
    return MemberStep(module.make_step(data), 0, index, module.configure_optimizers(), Tensor.backward)
