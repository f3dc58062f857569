"""Optimizer steps of a configuration, one at a time, for benchmarks that take turns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


def composed(*overrides: str) -> dict[str, Any]:
    """The configuration of vae-train."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=list(overrides)), resolve=True)
    return config


class Unlocked:
    """As much of Lightning's optimizer as a step looks at."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.step = optimizer, optimizer.step

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups


def steps_of(config: dict[str, Any], device: str = "cpu") -> Iterator[None]:
    """The steps of a run, carried out by its engine, epoch after epoch; without Lightning, logs, checkpoints."""
    import torch

    from vaelab.experiments.assembly import assemble
    from vaelab.training.arithmetic import products
    from vaelab.training.optimizers import settle

    parts = assemble(config)
    module, data, where = parts.module.to(device), parts.data, torch.device(device)
    data.move_to(where)
    raw = module.configure_optimizers()
    settle(raw, module.engine.capturable)
    carry_out, optimizer = module.engine.bind(module.make_step(data), lambda: None), Unlocked(raw)
    plan = parts.plan
    for epoch in count():
        order = data.rows.epoch(epoch).to(where)
        for number in range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch):
            with products(config["engine"].get("matmul"), module):
                carry_out(order[plan.rows(number)], number, optimizer, torch.Tensor.backward)
            yield


def in_turn(
    variants: dict[str, Iterator[None]], repetitions: int, steps: int, at_once: int = 20
) -> dict[str, list[float]]:
    """Seconds that ``steps`` steps of each take, some of each in turn; the first repetition warms up."""
    import torch

    times: dict[str, list[float]] = {name: [] for name in variants}
    for repetition in range(repetitions + 1):
        spent = dict.fromkeys(variants, 0.0)
        for first in range(0, steps, at_once):
            for name, some in variants.items():
                began = time.perf_counter()
                for _ in range(min(at_once, steps - first)):
                    next(some)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                spent[name] += time.perf_counter() - began
        if repetition:
            for name, seconds in spent.items():
                times[name].append(seconds)
    return times
