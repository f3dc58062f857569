"""``hydra/launcher=local`` is a launcher like any other: Hydra's own suites for launchers."""

from __future__ import annotations

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite


def test_discovered() -> None:
    assert "LocalLauncher" in [found.__name__ for found in Plugins.instance().discover(Launcher)]


@pytest.mark.parametrize("launcher_name, overrides", [("local", [])])
class TestLauncher(LauncherTestSuite):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("task_launcher_cfg, extra_flags", [({}, ["-m", "hydra/launcher=local"])])
class TestIntegrationOfWholeApplications(IntegrationTestSuite):
    pass
