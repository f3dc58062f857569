"""A ``configs/`` folder where the person stands comes before the configuration of the package.

Hydra imports this module at the start of every Hydra application of the environment, so it imports nothing of
ours: an application in which :mod:`vaelab.commands.entry` has not been imported stays as it is.
"""

from __future__ import annotations

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class VaelabSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        entry = sys.modules.get("vaelab.commands.entry")
        if entry is not None:
            entry.local_configs_first(search_path)
