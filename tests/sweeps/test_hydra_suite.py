"""``hydra/launcher=local`` is a launcher like any other: Hydra's own suites for launchers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite
from hydra.version import VersionBase


@pytest.fixture(autouse=True)
def _as_in_a_process_of_its_own() -> Iterator[None]:
    """Whatever commands have been run in this one: they say which version of Hydra's defaults they are for, and the suites have none."""
    state = Singleton.get_state()
    Singleton._instances.pop(VersionBase, None)
    yield
    Singleton.set_state(state)


def test_discovered() -> None:
    names = [found.__name__ for found in Plugins.instance().discover(Launcher)]
    assert {"LocalLauncher", "SlurmLauncher"} <= {*names}


def test_what_hydra_imports_at_every_start_imports_nothing_of_ours() -> None:
    code = "import sys, hydra_plugins.vaelab_submitit_launcher as _; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"vaelab", "submitit", "torch"} & {*done.stdout.split()}


@pytest.mark.parametrize("launcher_name, overrides", [("local", [])])
class TestLauncher(LauncherTestSuite):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("task_launcher_cfg, extra_flags", [({}, ["-m", "hydra/launcher=local"])])
class TestIntegrationOfWholeApplications(IntegrationTestSuite):
    pass
