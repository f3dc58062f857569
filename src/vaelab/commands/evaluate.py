"""``vae-evaluate run=DIR``: measure a finished run again; nothing of it has to be retyped."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaelab.commands import entry
from vaelab.commands.entry import Typed
from vaelab.runs import RunDirectory


def main() -> int:
    return entry.run("evaluate", task)


def task(cfg: DictConfig, typed: Typed) -> None:
    options: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    RunDirectory.open(options["run"])  # refused before torch is imported

    from vaelab.experiments.evaluate import evaluate

    evaluate(options)
