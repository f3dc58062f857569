"""The configuration that a run directory holds, read as data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaelab.errors import SettingError
from vaelab.runs.directory import RunDirectory
from vaelab.runs.files import read_yaml

#: what begins an interpolation: of a resolved configuration nothing is left to resolve
INTERPOLATION = "${"


def read_config(run: RunDirectory, setting: str = "run") -> dict[str, Any]:
    """The resolved configuration of a run: primitives only. Nothing in it is composed, resolved or built here.

    Raises:
        SettingError: of the ``setting`` that names the run: it is missing, damaged, no group of settings, or holds an interpolation such as ``${oc.env:NAME}``.
    """
    return config_at(run.config_file, setting)


def config_at(file: Path, setting: str = "run") -> dict[str, Any]:
    """The configuration in a file; see :func:`read_config`."""
    config = read_yaml(file)
    if not isinstance(config, dict):
        raise SettingError(setting, file, "is not a group of settings; the run directory is damaged")
    refuse_interpolations(config, setting, file)
    return config


def refuse_interpolations(value: Any, setting: str, file: Any) -> None:
    """Raise SettingError, of the ``setting`` that names ``file``, for text in ``value`` that OmegaConf would resolve."""
    for key, text in _texts(value, ""):
        if INTERPOLATION in text:
            rule = f"holds an interpolation in {key or 'a key'} ({text[:80]!r}); what is read from a file is never resolved"
            raise SettingError(setting, file, rule)


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _texts(item, f"{key}[{i}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield key, name
            yield from _texts(item, f"{key}.{name}".lstrip("."))
