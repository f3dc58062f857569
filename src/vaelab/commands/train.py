"""``vae-train``: train, validate, test the selected checkpoint, write the run directory, print the number card."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from vaelab.commands import entry, process
from vaelab.commands.entry import Typed
from vaelab.data import sources
from vaelab.data.own import OWN, settled
from vaelab.experiments.check import check
from vaelab.experiments.parent import Parent, inherited
from vaelab.experiments.request import Request
from vaelab.experiments.requeue import carry_on
from vaelab.runs.files import file_digest
from vaelab.sweeps.job import Place
from vaelab.sweeps.search.trial import Trial, TrialReport

if TYPE_CHECKING:
    from vaelab.experiments.train import Result

#: in a process of its own: it imports torch
FETCH = "import sys; from vaelab.data import datasets; datasets.load(*sys.argv[1:])"


def main() -> int:
    return entry.run("train", task, planned=planned)


def task(cfg: DictConfig, typed: Typed) -> float | None:
    """One run. Returns the score of the selected checkpoint, or the last one of a run that was given up; None without validation."""
    place, trial, run_file = Place.told(), Trial.told(), process.told()
    report = None if trial is None else TrialReport(trial).report
    config = settings(cfg, typed)
    check(config)
    result = _result(config, typed, place, report)
    if run_file is not None:
        run_file.write_text(str(result.directory), encoding="utf-8")
    return result.score


def _result(
    config: dict[str, Any], typed: Typed, place: Place | None, report: Callable[[float, int], bool] | None
) -> Result:
    """What comes of the run; where its data cannot be had, of one with those that stand in for them."""
    asked = _asked(config, typed)
    asked = replace(asked, argv=tuple(sys.argv)) if place is None else place.asked(asked, sys.argv)
    data = config["data"]
    if data["name"] in OWN:
        settled(config)  # refused before torch is imported
        return _train(config, asked, report)
    try:
        available = sources.require(data["name"], config["paths"]["data_dir"])
        if available.found == "cache" and not available.data_dir.exists():
            print(
                f"paths.data_dir={config['paths']['data_dir']} does not exist: the copy of {data['name']} in the cache is used"
            )
        return _train(config, asked, report)
    except sources.DataUnavailable:  # at once, or when the download failed: nothing has been written
        if data["fallback"] is None:
            raise
    fallback, reason = fallback_config(config, typed)
    return _train(fallback, replace(asked, requested_data=data["name"], fallback_reason=reason), report)


def _asked(config: dict[str, Any], typed: Typed) -> Request:
    """How a run is asked for, whoever makes it, and where."""
    return Request(
        overrides=typed.overrides,
        experiment=typed.experiment if isinstance(typed.experiment, str) else None,
        chosen=chosen(typed),
        defaults=_defaults(GlobalHydra.instance().config_loader()) if config["report"] else None,
    )


@functools.lru_cache(1)  # the jobs of a sweep have the same
def _defaults(loader: object) -> dict[str, Any]:
    return composed([])


def planned(cfg: DictConfig, typed: Typed) -> tuple[dict[str, Any], str | None, Request]:
    """What :func:`task` would train, the SHA-256 of the weights that it would begin with, and how that is asked for, as far as it can be known beforehand.

    Raises:
        SettingError: as far as that can be known, what it would refuse.
    """
    config = settings(cfg, typed)
    check(config)
    data, asked = config["data"], _asked(config, typed)
    if data["name"] in OWN:
        config = settled(config)
    elif (unavailable := _unavailable(data["name"], config["paths"]["data_dir"])) is not None:
        if data["fallback"] is None:
            raise unavailable
        config, reason = fallback_config(config, typed)
        _say_once(reason)
        asked = replace(asked, requested_data=data["name"], fallback_reason=reason)
    if config["init_from"] is None:
        return config, None, asked
    return config, file_digest(Parent.open(config["init_from"]).run.weights_file), asked


@functools.cache
def _say_once(text: str) -> None:
    print(text, flush=True)


@functools.cache  # a sweep asks for each of its jobs: servers are waited for, files read
def _unavailable(name: str, data_dir: str) -> sources.DataUnavailable | None:
    """Why a data set cannot be had; None where it can. What has to be fetched is fetched here, once, and not by every job at the same time."""
    try:
        if sources.require(name, data_dir).found == "network":
            print(f"{name} is fetched before the first job", flush=True)
            subprocess.run([sys.executable, "-c", FETCH, name, data_dir], check=False)
            sources.require(name, data_dir, download=False)
    except sources.DataUnavailable as error:
        return error
    return None


def settings(cfg: DictConfig, typed: Typed) -> dict[str, Any]:
    """The settings of the run that is asked for, primitives only: a parent's (``init_from``) with what was typed in their place."""
    config = _plain(cfg)
    if config["init_from"] is None:
        return config
    return inherited(Parent.open(config["init_from"]).config, config, typed.overrides)


def _train(config: dict[str, Any], request: Request, report: Callable[[float, int], bool] | None) -> Result:
    return carry_on(config, request, report)  # what it needs takes seconds to import


def chosen(typed: Typed) -> tuple[str, ...]:
    """``group=entry`` of each group whose entry the experiment's file chose."""
    if typed.experiment is None:
        return ()
    usual = _usual(GlobalHydra.instance().config_loader())
    return tuple(f"{group}={entry}" for group, entry in typed.choices.items() if entry != usual.get(group))


@functools.lru_cache(1)
def _usual(loader: Any) -> dict[str, Any]:
    """The entry of each group with nothing typed."""
    choices = loader.load_configuration("train", [], RunMode.RUN).hydra.runtime.choices
    return {str(group): entry for group, entry in choices.items()}


def fallback_config(asked: dict[str, Any], typed: Typed) -> tuple[dict[str, Any], str]:
    """The configuration asked for, but for the data set, and why; an experiment's sizes are those of its own data set, unless they were typed."""
    fallback = asked["data"]["fallback"]
    kept = [override for override in typed.overrides if not override.startswith("data=")]
    config = {**asked, "data": composed([*kept, f"data={fallback}"])["data"]}
    own, data = composed([f"data={fallback}"])["data"], config["data"]
    data["val_size"] = own["val_size"] if data["val_size"] is None else min(data["val_size"], own["val_size"])
    if not any(override.startswith("data.batch_size=") for override in kept):
        data["batch_size"] = own["batch_size"]
    where = asked["paths"]["data_dir"]
    reason = f"{asked['data']['name']} is neither in {where} nor to be had from a server: data={fallback} is used instead."
    return config, reason


def composed(overrides: list[str]) -> dict[str, Any]:
    """The configuration of vae-train with these overrides, resolved, primitives only."""
    cfg = GlobalHydra.instance().config_loader().load_configuration("train", overrides, RunMode.RUN)
    with open_dict(cfg):
        del cfg["hydra"]
    return _plain(cfg)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
