"""``hydra/launcher=stacked``: jobs that differ in seed, learning rate, beta and the like are trained together, several in one process; the others as with ``hydra/launcher=local``.

Hydra imports this module at the start of every Hydra application of the environment, so it imports nothing of ours before there are jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from vaelab.sweeps.workers import MakeWorkers

NODE = {
    "_target_": "hydra_plugins.vaelab_stacked_launcher.StackedLauncher",
    "slots": "${oc.select:sweep.slots,null}",  # processes at a time; null = as many as there is room for
    "threads": "${oc.select:sweep.threads,null}",  # of each process; null = the cores shared out
    "stack_size": "${oc.select:sweep.stack_size,null}",  # jobs a process, at most; null = 64
}
ConfigStore.instance().store(group="hydra/launcher", name="stacked", node=NODE, provider="vaelab")


class StackedLauncher(Launcher):
    """A task function of ours has a ``vaelab_multirun``, which knows what a job is; any other one is pickled into processes, one a job."""

    def __init__(self, slots: int | None, threads: int | None, stack_size: int | None) -> None:
        self.slots, self.threads, self.stack_size = slots, threads, stack_size

    @property
    def workers(self) -> MakeWorkers:
        """Who carries out jobs that are submitted and collected one by one."""
        from vaelab.sweeps.stacks import Stacks

        return Stacks.makes(self.slots, self.threads, self.stack_size)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from vaelab.sweeps.launching import launch

        return launch(self, job_overrides, initial_job_idx)
