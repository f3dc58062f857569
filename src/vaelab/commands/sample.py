"""``vae-sample run=DIR``: a finished run's pictures, drawn again, and samples as files."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaelab.commands import entry
from vaelab.commands.entry import Typed
from vaelab.experiments.check import check_sampling
from vaelab.runs import RunDirectory


def main() -> int:
    return entry.run("sample", task)


def task(cfg: DictConfig, typed: Typed) -> None:
    options: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    RunDirectory.open(options["run"])  # refused before torch is imported
    check_sampling(options)

    from vaelab.experiments.sample import sample

    sample(options)
