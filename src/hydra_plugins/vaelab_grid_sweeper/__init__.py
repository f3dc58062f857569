"""``hydra/sweeper=grid``: Hydra's own grid, whose jobs are checked as what makes them checks them.

Hydra imports this module at the start of every Hydra application of the environment, so it imports nothing of ours before there is a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

NODE = {
    "_target_": "hydra_plugins.vaelab_grid_sweeper.GridSweeper",
    "max_batch_size": None,  # jobs that are checked, and carried out, before the next ones; null = all of them
    "params": None,  # what a configuration says is swept over
}
ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=NODE, provider="vaelab")


class GridSweeper(BasicSweeper):
    """A task function of ours has a ``vaelab_multirun``, which composes all jobs faster than one by one, and says of each what is wrong with it."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.task = task_function

    def sweep(self, arguments: list[str]) -> Any:
        if self.max_batch_size is not None:
            from vaelab.errors import integer

            integer("hydra.sweeper.max_batch_size", self.max_batch_size, 1, " or null")
        typed = {argument.partition("=")[0] for argument in arguments}
        self.params = {
            key: values for key, values in self.params.items() if key not in typed
        }  # an interval, too
        return super().sweep(arguments)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        multirun = getattr(self.task, "vaelab_multirun", None)
        if multirun is None or not multirun.makes_runs:
            super().validate_batch_is_legal(batch)
        else:
            multirun.jobs(batch)
