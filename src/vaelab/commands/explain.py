"""Why a configuration could not be composed: one sentence with the setting, the value, and what is allowed.

Hydra and OmegaConf say where their code stopped. Here each override is held against the groups, their entries
and the settings that exist, and the first that does not fit is named. Imported only when it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import GroupDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from vaelab.errors import SettingError, nearest
from vaelab.experiments.check import REPLACED

TRAIN = "vae-train"
OF_THE_RUN = "the run's own, with which its weights were trained; vae-train makes a run with another"
EXPECTED = (HydraException, OmegaConfBaseException, ValueError, OSError, yaml.YAMLError)  # while composing


class Composition:
    """What a command offers: its groups, their entries, its settings."""

    def __init__(self, command: str, config_name: str, search_path: ConfigSearchPath | None) -> None:
        self.command, self.config_name, self.search_path = command, config_name, search_path

    @cached_property
    def loader(self) -> ConfigLoaderImpl:
        assert self.search_path is not None
        return ConfigLoaderImpl(self.search_path)

    @cache  # noqa: B019 (a composition lives as long as its command)
    def _compose(self, *overrides: str) -> DictConfig:
        return self.loader.load_configuration(
            self.config_name, list(overrides), RunMode.MULTIRUN, validate_sweep_overrides=False
        )

    def compose(self, overrides: Sequence[str] = ()) -> DictConfig:
        return self._compose(*overrides)

    def is_group(self, name: str) -> bool:
        return self.loader.repository.group_exists(name)

    def entries(self, group: str) -> list[str]:
        return self.loader.repository.get_group_options(group, ObjectType.CONFIG)

    def is_entry(self, group: str, name: object) -> bool:
        return isinstance(name, str) and self.loader.repository.config_exists(f"{group}/{name}")

    @cached_property
    def groups(self) -> list[str]:
        """The groups that this command takes, whatever else lies in the folder of configs."""
        choices = self.compose().hydra.runtime.choices
        return [name for name in choices if not name.startswith("hydra")]

    def is_of_the_run(self, name: str) -> bool:
        """Whether a run has this setting or group, and a command that only reads runs does not take it."""
        if self.command == TRAIN:
            return False
        train = Composition(TRAIN, TRAIN.removeprefix("vae-"), self.search_path)
        return name in train.groups or name in keys(train.compose())

    def refuse_unread(self, overrides: Sequence[str], cfg: DictConfig) -> None:
        """Refuse a ``+name=value`` that makes a new setting at the root of ``cfg``: nobody would read it."""
        plain = [override for override in overrides if not override.startswith("+")]
        known = self.compose(plain)
        for override in overrides:
            if not override.startswith("+"):
                continue
            setting, _, value = override.partition("=")
            root = re.split(r"[.@/]", setting.lstrip("+"))[0]
            if root in cfg and root not in known:
                hint = nearest(
                    setting.lstrip("+"), [key for key in keys(known) if not key.startswith("hydra.")]
                )
                raise SettingError(
                    setting, value, f"{self.command} has no setting {root!r} to read", nearest=hint
                )


def explain(
    error: Exception, composition: Composition, overrides: Sequence[str], multirun: bool
) -> str | None:
    """What is wrong with ``overrides`` or with a config file, or None if ``error`` is nobody's but ours."""
    if isinstance(error, OverrideParseException):
        return _syntax(error.override)
    if message := wrong(composition, overrides, multirun):
        return message
    if isinstance(error, MissingConfigException):
        return _missing_config(error, composition, overrides)
    return _general(error)


def wrong(composition: Composition, overrides: Sequence[str], multirun: bool) -> str | None:
    """The first of ``overrides`` that does not fit; None where each does, and a config file is to blame."""
    try:
        if composition.search_path is not None:
            parsed = OverridesParser.create().parse_overrides(list(overrides))
            return next(_wrong(parsed, composition, multirun), None)
    except EXPECTED:
        pass
    return None


def _wrong(overrides: Sequence[Override], composition: Composition, multirun: bool) -> Iterator[str]:
    """The overrides that do not fit; groups come first, since they decide which settings there are."""
    settings: list[Override] = []
    chosen: list[str] = []
    for override in overrides:
        line = str(override.input_line)
        if not override.key_or_group:
            yield f"{line}: the name before '=' is missing"
        if not composition.is_group(override.key_or_group) or isinstance(_value(override), dict):
            settings.append(override)
        elif message := _wrong_group(override, composition):
            yield message
        elif not override.is_sweep_override():
            chosen.append(line)
    for override in overrides:
        if override.is_sweep_override() and not multirun:
            line, value = str(override.input_line), str(override.input_line).partition("=")[2]
            as_list = override.value_type == ValueType.SIMPLE_CHOICE_SWEEP
            brackets = f"; a list needs brackets: {override.key_or_group}=[{value}]" if as_list else ""
            yield f"{line}: several values need the flag -m{brackets}"
    cfg = composition.compose(chosen)
    searched = cfg.hydra.runtime.choices.get("hydra/sweeper") == "optuna"
    for override in settings:
        if message := _wrong_setting(override, cfg, composition) or _wrong_sweep(override):
            yield message
        elif override.is_sweep_override() and not override.is_discrete_sweep() and not searched:
            yield f"{override.input_line}: an interval needs a search, hydra/sweeper=optuna; otherwise list values: a,b,c"


def _wrong_group(override: Override, composition: Composition) -> str | None:
    group, line = override.key_or_group, str(override.input_line)
    allowed = composition.entries(group)
    if override.is_delete():
        return None if group in composition.groups else f"{line}: there is no group {group!r} to leave out"
    if not group.startswith("hydra/") and group not in composition.groups and not override.is_add():
        if composition.is_of_the_run(group):
            return f"{line}: {OF_THE_RUN}"
        takes = ", ".join(sorted(composition.groups))
        return f"{line}: {composition.command} takes no {group!r}; it takes {takes}"
    if override.is_sweep_override():
        values = list(override.sweep_iterator()) if override.is_discrete_sweep() else [override.value()]
    else:
        value = override.value()
        values = list(value) if isinstance(value, list) else [value]
    for value in values:
        if not composition.is_entry(group, value):
            received = "null" if value is None else value
            rule = f"no such entry in group {group!r}; allowed: {', '.join(allowed)}"
            return str(SettingError(group, received, rule, nearest=nearest(str(value), allowed)))
    if override.is_add() and group in composition.groups:
        return f"{line}: the group {group!r} is there already; type {line.lstrip('+')}"
    return None


def _wrong_setting(override: Override, cfg: DictConfig, composition: Composition) -> str | None:
    key, line = override.key_or_group, str(override.input_line)
    known = keys(cfg)
    if override.is_add():
        if key in known and not isinstance(_value(override), dict | list):
            return f"{line}: the setting {key!r} is there already; type {line.lstrip('+')}"
        return None
    if override.is_force_add() or key in known:
        return None
    if override.is_delete():
        return f"{line}: there is no setting {key!r} to leave out"
    return _unknown(key, line, cfg, composition)


def _wrong_sweep(override: Override) -> str | None:
    if override.is_sweep_override() and override.is_discrete_sweep():
        try:
            next(override.sweep_iterator(), None)
        except ValueError as error:  # range(1,2,0)
            return f"{override.input_line}: {error}"
    return None


def _unknown(key: str, line: str, cfg: DictConfig, composition: Composition) -> str:
    """The message about a setting that does not exist: what was meant, or what there is."""
    if composition.is_of_the_run(key):
        return f"{line}: {OF_THE_RUN}"
    own = key.startswith("hydra")
    known = [n for n in keys(cfg) if n.startswith("hydra") == own and not key.startswith(f"{n}.")]
    parent, _, name = key.rpartition(".")
    # the same last name elsewhere (lr -> optimizer.lr) before a similar full name, before a similar last name
    last = {known_key.rpartition(".")[2]: known_key for known_key in reversed(known)}
    meant = last.get(name) or nearest(key, [*known, *composition.groups])
    if parent == "trainer" and name in REPLACED:
        return f"{line}: has no effect under manual optimisation: {REPLACED[name]}"
    group = key.partition(".")[0]
    if group in composition.groups and "." in key:
        rest = key.partition(".")[2]
        loaded = {entry: _load(composition, f"{group}/{entry}") for entry in composition.entries(group)}
        having = [
            f"{group}={entry}"
            for entry, result in loaded.items()
            if result and isinstance(result.config, DictConfig) and rest in keys(result.config)
        ]
        if having:
            now = cfg.hydra.runtime.choices.get(group)
            return f"{line}: unknown setting with {group}={now}; it belongs to {', '.join(having)}"
    meant = meant or (last[close] if (close := nearest(name, last)) else None)
    node = OmegaConf.select(cfg, parent, throw_on_missing=False) if parent else None
    siblings = (
        sorted(str(child) for child in node if child != "_target_") if isinstance(node, DictConfig) else []
    )
    rule = "unknown setting"
    if siblings:
        rule += f"; {parent} has {', '.join(siblings)}"
    elif not meant:
        rule += f"; see {composition.command} --help"
    hint = f" (did you mean {meant!r}?)" if meant else ""
    return f"{line}: {rule}{hint}"


def _load(composition: Composition, path: str) -> ConfigResult | None:
    try:
        return composition.loader.repository.load_config(path)
    except EXPECTED:
        return None


def keys(cfg: DictConfig) -> list[str]:
    """The full names of all settings, inner nodes included; nothing is resolved.

    >>> keys(OmegaConf.create({"seed": 0, "data": {"name": "${seed}"}}))
    ['seed', 'data', 'data.name']
    """

    def walk(node: object, prefix: str) -> Iterator[str]:
        items = (
            node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
        )
        for name, child in items:
            yield f"{prefix}{name}"
            yield from walk(child, f"{prefix}{name}.")

    return list(walk(OmegaConf.to_container(cfg, resolve=False), ""))


def interpolation_error(error: OmegaConfBaseException, cfg: DictConfig) -> SettingError:
    """The refusal for a ``${...}`` that cannot be resolved."""
    setting = str(error.full_key or "")
    raw = OmegaConf.to_container(cfg, resolve=False)
    for part in re.findall(r"[^.\[\]]+", setting):
        raw = raw[int(part)] if isinstance(raw, list) else raw.get(part) if isinstance(raw, dict) else raw
    rule = _first_line(error)
    found = re.search(r"Interpolation key '(.*)' not found", rule)
    if isinstance(error, InterpolationKeyError) and found:
        return SettingError(
            setting, raw, f"there is no setting {found[1]!r}", nearest=nearest(found[1], keys(cfg))
        )
    return SettingError(setting, raw, rule)


def _syntax(line: str) -> str:
    name, equals, value = line.partition("=")
    if not equals:
        return f"{line}: a setting is typed as name=value"
    if re.fullmatch(r"\w+\(\s*\)", value):
        return f"{line}: holds no value"
    has_quotes = bool(re.search("['\"]", value))
    if not has_quotes and re.search(r"^\s*,|,\s*,|,\s*$", value):
        return f"{line}: a value is missing beside a comma"
    quoted = "" if has_quotes else f""", or quote the value: '{name}="{value}"'"""
    return f"{line}: cannot be read as name=value; close every bracket and quote{quoted}"


def _missing_config(error: MissingConfigException, composition: Composition, overrides: Sequence[str]) -> str:
    """A config file names another that does not exist. Hydra blames the primary config for every override."""
    group, _, entry = str(error.missing_cfg_file or "").rpartition("/")
    if not group:
        return f"there is no config {entry!r}"
    inside = re.match(r"In '(.*?)': ", str(error))
    name = inside[1] if inside else composition.config_name
    for override in overrides:
        path = override.lstrip("+").replace("=", "/")
        loaded = _load(composition, path)
        for default in loaded.defaults_list or [] if loaded else []:
            if isinstance(default, GroupDefault) and default.override and default.value == entry:
                name = path
    options = list(error.options or [])
    rule = f"no such entry in group {group!r}; allowed: {', '.join(options)}"
    return f"{name}.yaml: {SettingError(group, entry, rule, nearest=nearest(entry, options))}"


def _general(error: Exception) -> str | None:
    """The message for what is wrong in a config file, in the words of Hydra without its search path."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f"{mark.name}, line {mark.line + 1}: " if mark else ""
        return f"{where}not valid YAML: {error.problem or error.context}"
    if isinstance(error, EXPECTED):
        cause = error.__cause__
        first = _first_line(error)
        if isinstance(cause, OmegaConfBaseException) and not first.startswith("In '"):
            first = f"{first}: {_first_line(cause)}" if first else _first_line(cause)
            first = re.sub(r"^Error merging override ", "", first)
        return first or type(error).__name__
    return None


def _first_line(error: BaseException) -> str:
    """The message of ``error`` on one line, without OmegaConf's appendix and Hydra's search path."""
    text = re.split(
        r"\n\s*(?:full_key:|Config search path:|Search path:|See https:|To append to )", str(error)
    )[0]
    return " ".join(text.split())


def _value(override: Override) -> object:
    return None if override.is_sweep_override() else override.value()
