"""``vae-sample run=DIR``: a finished run's pictures, drawn again, and samples as numbers."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaelab.commands import entry
from vaelab.commands.entry import Typed
from vaelab.errors import integer
from vaelab.experiments.check import check_evaluation
from vaelab.runs import RunDirectory


def main() -> int:
    return entry.run("sample", task)


def task(cfg: DictConfig, typed: Typed) -> None:
    options: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    RunDirectory.open(options["run"])  # refused before torch is imported
    check_evaluation(options)
    integer("num_samples", options["num_samples"], 1)

    from vaelab.experiments.sample import sample

    sample(options)
