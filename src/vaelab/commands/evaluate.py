"""``vae-evaluate run=DIR``: measure a finished run again; nothing of it has to be retyped. Or weights from elsewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vaelab.commands import entry
from vaelab.commands.entry import Typed
from vaelab.commands.explain import Composition, explain
from vaelab.commands.train import composed
from vaelab.errors import MISSING, SettingError
from vaelab.experiments.check import check_evaluation
from vaelab.runs import RunDirectory, read_yaml
from vaelab.runs.config import refuse_interpolations

if TYPE_CHECKING:
    from vaelab.experiments.foreign import Elsewhere

ELSEWHERE = ("config", "weights", "key_map")


def main() -> int:
    return entry.run("evaluate", task)


def task(cfg: DictConfig, typed: Typed) -> None:
    options: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check_evaluation(options)  # before torch is imported
    given = [name for name in ELSEWHERE if options[name] is not None]
    if options["run"] is not None:
        if given:
            raise SettingError(given[0], options[given[0]], "goes without run=DIR, which has its own")
        RunDirectory.open(options["run"])
    else:
        for name in ("config", "weights"):
            if options[name] is None:
                rule = "has to be given, as in vae-evaluate run=DIR, or vae-evaluate config=FILE weights=FILE"
                raise SettingError("run" if not given else name, MISSING, rule)
    for name in given:
        if not isinstance(options[name], str):
            raise SettingError(name, options[name], "must be the name of a file")
    from vaelab.experiments.evaluate import evaluate

    evaluate(options, _elsewhere(options) if given else None)


def _elsewhere(options: dict[str, Any]) -> Elsewhere:
    """The weights from elsewhere that are asked for."""
    from vaelab.experiments.foreign import Elsewhere

    overrides, config = _configuration(Path(options["config"]), options["paths"])
    key_map = options["key_map"]
    weights = Path(options["weights"])
    return Elsewhere(config, weights, None if key_map is None else Path(key_map), sys.argv, overrides)


def _composed(path: Path, overrides: list[str]) -> dict[str, Any]:
    """vae-train's configuration with the overrides of a file; what is wrong with one is said as vae-train says it."""
    try:
        return composed(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        search_path = GlobalHydra.instance().config_loader().get_search_path()
        message = explain(error, Composition("vae-train", "train", search_path), overrides, multirun=False)
        raise SettingError("config", path, message or str(error)) from error


def _configuration(path: Path, paths: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """What a file says of a model and its data: the overrides in it, and the whole configuration."""
    if not path.is_file():
        raise SettingError("config", path, "is no file" if path.exists() else "no such file")
    try:
        content = read_yaml(path)
    except SettingError as error:
        raise SettingError("config", path, error.rule) from None
    refuse_interpolations(content, "config", path)
    if isinstance(content, list) and all(isinstance(line, str) for line in content):
        for override in content:
            if re.split(r"[.@/=]", override.lstrip("+~"))[0].strip() == "hydra":
                rule = f"holds {override}: the file says what a model is, and not how vae-evaluate is to run"
                raise SettingError("config", path, rule)
        overrides, config = content, _composed(path, content)
    elif isinstance(content, dict) and "model" in content:
        overrides, config = [], content
    else:
        rule = "must be a list of vae-train's overrides, or a whole configuration such as a run's config.yaml"
        raise SettingError("config", path, rule)
    return overrides, {**config, "paths": paths}
