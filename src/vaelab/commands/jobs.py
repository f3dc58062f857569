"""The configurations of many jobs. Those of a grid differ in few settings, so what they have in common is composed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException


class JobLoader(ConfigLoaderImpl):
    """Loads what the config loader of the command would load for each job, with each file read once.

    The groups' entries and Hydra's own settings decide which files a configuration is made of; what is made of them is kept, and other settings are changed in a copy of it.

    Args:
        loader: of the command.
        config_name: the primary config.
    """

    def __init__(self, loader: ConfigLoaderImpl, config_name: str) -> None:
        super().__init__(loader.get_search_path())
        self.config_name = config_name
        self._files: dict[tuple[str, ...], _Files] = {}  # by Hydra's own settings
        self._made: dict[tuple[str, ...], DictConfig] = {}  # by what was chosen

    def load(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of the single run with these overrides, as ``load_configuration`` composes it.

        Raises:
            HydraException: it cannot be composed.
        """
        parsed, repository = self._parse_overrides_and_create_caching_repo(self.config_name, list(overrides))
        self.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=True)
        settings = [override for override in parsed if not _chooses(override, repository)]
        chosen = tuple(str(override.input_line) for override in parsed if override not in settings)
        if chosen not in self._made:
            self._made[chosen] = self.load_configuration(self.config_name, list(chosen), RunMode.RUN)
        cfg = copy.deepcopy(self._made[chosen])
        try:
            self._apply_overrides_to_config(settings, cfg)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException() from error
        of_the_task = [override for override in parsed if not override.is_hydra_override()]
        cfg.hydra.overrides.task = [override.input_line for override in of_the_task]
        separators = cfg.hydra.job.config.override_dirname
        cfg.hydra.job.override_dirname = get_overrides_dirname(
            of_the_task, separators.exclude_keys, separators.item_sep, separators.kv_sep
        )
        return cfg

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        parsed = OverridesParser.create().parse_overrides(overrides)
        of_hydra = tuple(str(override.input_line) for override in parsed if override.is_hydra_override())
        if of_hydra not in self._files:  # hydra.searchpath says where they are
            _, found = super()._parse_overrides_and_create_caching_repo(config_name, list(of_hydra))
            self._files[of_hydra] = _Files(found.delegate)
        return parsed, CachingConfigRepository(self._files[of_hydra])


class _Files(CachingConfigRepository):
    """What was read from files, of which it hands out copies: composing changes what it is handed."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        return copy.deepcopy(super().load_config(config_path))

    def __deepcopy__(self, _: object) -> _Files:  # whoever makes a repository of it begins with a copy
        return self


def _chooses(override: Override, repository: CachingConfigRepository) -> bool:
    """Whether it decides which files there are, rather than a single setting."""
    if override.is_hydra_override():
        return True
    return repository.group_exists(override.key_or_group) and not isinstance(override.value(), dict)
