"""A run that is there already, built again with its weights, to be measured or drawn."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaelab.data.datamodule import Tested
from vaelab.errors import SettingError
from vaelab.evidence import Estimator
from vaelab.experiments.assembly import OURS, Parts, assemble
from vaelab.experiments.cards import fallback_warning, selected_by
from vaelab.experiments.check import stored_config
from vaelab.experiments.diagnostic import Diagnostic
from vaelab.experiments.foreign import SELECTED_BY
from vaelab.experiments.train import load_weights
from vaelab.loading import give_weights, read_weights, weights_digest
from vaelab.noise import Noise
from vaelab.runs import (
    RunDirectory,
    Status,
    check_writable,
    read_config,
    read_manifest,
    read_status,
    recorded_data,
)
from vaelab.runs.identity import is_recorded

#: settings of the run's Trainer that its evaluation takes over: what numbers depend on, and what the run's steps are counted by
OF_THE_TRAINER = (
    "_target_", "accelerator", "devices", "strategy", "precision", "deterministic", "limit_test_batches", *OURS,
)  # fmt: skip
NOT_MEASURED = {"_target_": "vaelab.evidence.BoundEstimator"}  # where only pictures are asked for


@dataclass(frozen=True)
class Stored:
    """A finished run, built again with its weights.

    Attributes:
        run: its directory.
        parts: its parts, with the weights of the checkpoint.
        weights: digest of those weights, see :func:`vaelab.loading.weights_digest`.
        selected_by: how that was chosen, for the card.
        warning: what stands on every card of this run.
    """

    run: RunDirectory
    parts: Parts
    weights: str
    selected_by: str
    warning: str | None

    def say(self) -> None:
        """Print the warning, where what is made has no card."""
        if self.warning is not None:
            print(f"{self.run.path}: {self.warning}", flush=True)


def open_run(
    options: dict[str, Any], asked: Estimator | Diagnostic | None, is_written: bool = True
) -> Stored:
    """A run as it is measured or drawn, of the checkpoint that ``options`` name; arguments as of :func:`parts_of`, and whether anything is written into its directory."""
    run = RunDirectory.open(options["run"])
    config, manifest, data = stored_config(run), read_manifest(run), recorded_data(run)
    checkpoint, how = _checkpoint(run, config, manifest, options["checkpoint"])
    parts = parts_of(config, options, asked)
    if checkpoint == run.weights_file:
        give_weights(parts.module.evaluated, read_weights(run), checkpoint)
    else:
        load_weights(parts.module, checkpoint)
    parts.module.evaluated.eval()
    try:
        if is_written:
            check_writable(run.path)  # the last refusal: it tries
    except SettingError as error:
        raise SettingError("run", run.path, error.rule) from None
    warnings = [fallback_warning(data["requested"], data["actual"])] if data.get("fallback_reason") else []
    status = read_status(run.status_file).status
    if status is Status.PRUNED:
        warnings.append("of a run that was given up before its end")
    elif status is not Status.COMPLETED:
        warnings.append("of a run that is not complete, as it stands")
    if not is_recorded(read_config(run), manifest):  # as it stands there, without what later versions add
        warnings.append("its config.yaml is not the one on record")
    return Stored(
        run, parts, weights_digest(parts.module.evaluated.state_dict()), how, "; ".join(warnings) or None
    )


def parts_of(config: dict[str, Any], options: dict[str, Any], asked: Estimator | Diagnostic | None) -> Parts:
    """The parts of a run as they are evaluated, with initial weights.

    Args:
        config: of the run.
        options: of :func:`vaelab.experiments.evaluate.evaluate` or :func:`vaelab.experiments.sample.sample`.
        asked: the estimator or the diagnostic that ``options`` name; None = neither.
    """
    config = copy.deepcopy(config)
    config["paths"] = {**config["paths"], "data_dir": options["paths"]["data_dir"]}
    config["callbacks"], config["logger"] = {}, {"name": "none"}
    changed = {key: value for key, value in options.get("trainer", {}).items() if value is not None}
    of_the_run = {key: value for key, value in config["trainer"].items() if key in OF_THE_TRAINER}
    config["trainer"] = {**of_the_run, **changed}
    config["estimator"] = options["estimator"] if isinstance(asked, Estimator) else NOT_MEASURED
    if options.get("binarize") is not None:
        config["data"]["binarize"] = options["binarize"]
    parts = assemble(config)
    if options["seed"] is not None:
        parts.module.noise = Noise(options["seed"])
    if asked is not None:
        split, data = options["split"], parts.data
        data.tested = Tested(split, _images(options["num_images"], data.size(split), split))
    return parts


def _checkpoint(
    run: RunDirectory, config: dict[str, Any], manifest: dict[str, Any], asked_for: str
) -> tuple[Path, str]:
    """The file of the weights, and how they were chosen.

    A finished run's record says which were selected, whatever is left of its checkpoints; ``model.safetensors`` has those. Without it, what is there says so.
    """
    best, last = run.best_checkpoint, run.last_checkpoint
    if asked_for == "selected" and "imported" in manifest:
        return run.weights_file, SELECTED_BY
    finished = "best_step" in manifest
    best_selected = manifest["best_step"] is not None if finished else best.is_file()
    is_best = best_selected if asked_for == "selected" else asked_for == "best"
    checkpoint = best if is_best else last
    if finished and is_best == best_selected and run.weights_file.is_file():
        checkpoint = run.weights_file  # the same weights, with a digest on record
    if not checkpoint.is_file():
        was_pruned = any(
            checkpoint.name == one["file"] for note in manifest.get("pruned", []) for one in note["removed"]
        )
        rule = f"{checkpoint} is not there" + (", it was pruned" if was_pruned else "")
        raise SettingError("checkpoint", asked_for, rule)
    return checkpoint, selected_by(config, is_best)


def _images(num_images: int | None, size: int, split: str) -> Tensor | None:
    """The first so many images of a split; None = all."""
    if size == 0:
        raise SettingError("split", split, "the run has no validation images (data.val_size=0)")
    if num_images is None:
        return None
    if num_images > size:
        raise SettingError("num_images", num_images, f"must be at most {size}, the images of split={split}")
    return torch.arange(num_images)
