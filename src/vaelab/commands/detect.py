"""``vae-detect run=DIR``: which images do not belong to the data that a run was trained on."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaelab.commands import entry
from vaelab.commands.entry import Typed
from vaelab.experiments.check_measured import check_detection
from vaelab.runs import RunDirectory


def main() -> int:
    return entry.run("detect", task)


def task(cfg: DictConfig, typed: Typed) -> None:
    options: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    RunDirectory.open(options["run"])  # refused before torch is imported
    check_detection(options)
    if options["background"] is not None:
        RunDirectory.open(options["background"], "background")

    from vaelab.experiments.detect import detect

    detect(options)
