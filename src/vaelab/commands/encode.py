"""``vae-encode run=DIR``: the codes of images, with the bound of each."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaelab.commands import entry
from vaelab.commands.entry import Typed
from vaelab.experiments.check_measured import check_encoding
from vaelab.runs import RunDirectory


def main() -> int:
    return entry.run("encode", task)


def task(cfg: DictConfig, typed: Typed) -> None:
    options: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    RunDirectory.open(options["run"])  # refused before torch is imported
    check_encoding(options)

    from vaelab.experiments.encode import encode

    encode(options)
