"""A run that another one starts from: its settings. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaelab.errors import SettingError
from vaelab.experiments.check import stored_config
from vaelab.runs import RunDirectory
from vaelab.runs.manifest import without_weights

#: never a parent's: they say where and how this run is shown, and what it is
OWN = ("paths", "logger", "callbacks", "tags", "sweep", "init_from", "init_from_optimizer", "train_only")


@dataclass(frozen=True)
class Parent:
    """A finished run from whose weights another one starts.

    Attributes:
        run: its directory.
        config: its settings.
    """

    run: RunDirectory
    config: dict[str, Any]

    @classmethod
    def open(cls, directory: str) -> Parent:
        """Raises:
        SettingError: no run directory, one of a run that did not complete, or one that holds what no run does.
        """
        run = RunDirectory.open(Path(directory), "init_from")
        if not run.weights_file.is_file():
            raise SettingError("init_from", directory, without_weights(run))
        return cls(run, stored_config(run, "init_from"))


def inherited(
    parent: Mapping[str, Any], typed: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """A parent's settings with what was typed in their place.

    Args:
        parent: the parent's resolved configuration.
        typed: the resolved configuration of the command line alone.
        overrides: of the command line. An entry of a group (``prior=mixture``) replaces the group, a setting (``optimizer.lr=1e-4``) itself.

    Raises:
        SettingError: an experiment, whose settings would be mixed with the parent's.
    """
    config = dict(parent) | {key: typed[key] for key in OWN if key in typed}
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key == "experiment" and value != "null":
            raise SettingError(key, value, "a run with init_from has its parent's settings; type single ones")
        if key == "debug" and value != "null":
            raise SettingError(
                key, value, "not with init_from, which has its parent's settings; use trainer.max_steps=10"
            )
        _take(config, typed, key.partition("@")[0].split("."))
    return {**{key: typed[key] for key in typed if key not in config}, **config}


def differences(parent: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """The settings in which a run differs from its parent, as ``optimizer.lr: 0.001 -> 0.0001``."""
    before, after = (dict(_leaves({k: v for k, v in c.items() if k not in OWN})) for c in (parent, config))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key, '-')} -> {after.get(key, '-')}" for key in keys]


def _take(config: dict[str, Any], typed: Mapping[str, Any], path: Sequence[str]) -> None:
    """Set, or delete, what ``path`` names as it is in ``typed``."""
    key, *rest = path
    if key not in typed:
        config.pop(key, None)
    elif rest and isinstance(typed[key], Mapping) and isinstance(config.get(key), Mapping):
        config[key] = dict(config[key])
        _take(config[key], typed[key], rest)
    else:
        config[key] = typed[key]


def _leaves(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in node.items():
        found += (
            _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
        )
    return found
