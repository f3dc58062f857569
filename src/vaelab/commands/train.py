"""``vae-train``: train, validate, test the selected checkpoint, write the run directory, print the number card."""

from __future__ import annotations

import functools
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from vaelab.commands import entry
from vaelab.commands.entry import Typed
from vaelab.data import sources
from vaelab.experiments.check import check


def main() -> int:
    return entry.run("train", task)


def task(cfg: DictConfig, typed: Typed) -> float | None:
    """One run. Returns the score of the selected checkpoint, None without validation."""
    config = _plain(cfg)
    check(config, is_sweep=typed.is_multirun)
    config, requested, reason = _with_data_that_can_be_had(config, typed)
    parent = (
        Path(config["paths"]["log_dir"]) / "sweeps" / _sweep_name(config["name"])
        if typed.is_multirun
        else None
    )

    from vaelab.experiments.train import Request, train

    request = Request(
        argv=tuple(sys.argv),
        overrides=typed.overrides,
        experiment=typed.experiment if isinstance(typed.experiment, str) else None,
        requested_data=requested,
        fallback_reason=reason,
        parent=parent,
        directory=_job_name(typed) if typed.is_multirun else None,
    )
    return train(config, request).score


def _with_data_that_can_be_had(
    config: dict[str, Any], typed: Typed
) -> tuple[dict[str, Any], str | None, str | None]:
    """The configuration, changed to ``data.fallback`` where the data set is out of reach; then also its name, and why."""
    data, folder = config["data"], config["paths"]["data_dir"]
    try:
        sources.require(data["name"], folder)
    except sources.DataUnavailable:
        fallback = data["fallback"]
        if fallback is None:
            raise
        sources.require(fallback, folder)
        reason = f"{data['name']} is neither in {folder} nor on a server that answers: data={fallback} is used instead."
        overrides = [o for o in typed.overrides if not o.startswith("data=")] + [f"data={fallback}"]
        composed = GlobalHydra.instance().config_loader().load_configuration("train", overrides, RunMode.RUN)
        with open_dict(composed):
            del composed["hydra"]
        changed = _plain(composed)
        # The sizes of an experiment are those of its own data set.
        changed["data"]["val_size"] = min(changed["data"]["val_size"], _val_size(fallback))
        return changed, data["name"], reason
    return config, None, None


def _val_size(name: str) -> int:
    loaded = GlobalHydra.instance().config_loader().load_configuration("train", [f"data={name}"], RunMode.RUN)
    return loaded.data.val_size


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@functools.cache
def _sweep_name(name: str) -> str:
    return f"{name}_{datetime.now():%Y-%m-%d_%H-%M-%S}"


def _job_name(typed: Typed) -> str:
    """``003_latent_dim=2,seed=1``, cut to what a file name may be."""
    words = ",".join(typed.overrides)
    return f"{typed.job:03d}_{re.sub(r'[^A-Za-z0-9=.,_+-]', '-', words)}"[:120]
