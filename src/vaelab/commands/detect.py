"""``vae-detect run=DIR``: which images do not belong to the data that a run was trained on."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaelab.commands import entry
from vaelab.commands.entry import Typed
from vaelab.errors import SettingError
from vaelab.experiments.check_measured import check_detection
from vaelab.runs import RunDirectory

#: settings that have values of their own in configs/detect.yaml, and none with images=
OF_A_CALIBRATION = ("num_images", "resamples", "confidence")


def main() -> int:
    return entry.run("detect", task)


def task(cfg: DictConfig, typed: Typed) -> None:
    options: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    RunDirectory.open(options["run"])  # refused before torch is imported
    check_detection(options)
    if options["images"] is not None:
        for setting, _, value in (override.partition("=") for override in typed.overrides):
            if setting in OF_A_CALIBRATION:
                raise SettingError(setting, value, "belongs to the calibration; of images=... all are scored")
    if options["background"] is not None:
        RunDirectory.open(options["background"], "background")

    from vaelab.experiments.detect import detect

    detect(options)
