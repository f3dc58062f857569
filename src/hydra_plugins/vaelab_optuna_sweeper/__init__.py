"""``hydra/sweeper=optuna``: the next jobs are chosen from what came of those before.

Hydra imports this module at the start of every Hydra application of the environment, so it imports nothing of ours, nor Optuna, before there is a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

NODE = {
    "_target_": "hydra_plugins.vaelab_optuna_sweeper.OptunaSweeper",
    "params": None,  # setting -> values, as they would be typed; what is typed goes before
    # an application with a group `sweep` sets these there
    "name": "${oc.select:sweep.name,null}",  # of the study
    "trials": "${oc.select:sweep.trials,null}",
    "sampler": "${oc.select:sweep.sampler,tpe}",
    "sampler_options": "${oc.select:sweep.sampler_options,null}",
    "pruner": "${oc.select:sweep.pruner,none}",
    "pruner_options": "${oc.select:sweep.pruner_options,null}",
    "objectives": "${oc.select:sweep.objectives,null}",  # name -> min | max; of an application that is not ours null = what it returns, the less the better
    "storage": "${oc.select:sweep.storage,null}",
    "seed": "${oc.select:sweep.seed,0}",
    "batch": 1,  # jobs at a time, with a launcher that takes no single ones
}
ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=NODE, provider="vaelab")


class OptunaSweeper(Sweeper):
    """A task function of ours has a ``vaelab_multirun``, which knows what a job is; of any other one the return values are searched, in batches."""

    def __init__(self, params: Any = None, batch: int = 1, **settings: Any) -> None:
        self.params = dict(OmegaConf.to_container(params) or {}) if params is not None else {}  # pyright: ignore[reportArgumentType,reportCallIssue]
        self.batch = batch
        self.settings = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.context, self.task, self.config = hydra_context, task_function, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from vaelab.sweeps.search.settings import Settings

        assert self.config is not None
        assert self.launcher is not None
        settings = Settings.of(self.settings, self.batch)
        multirun = getattr(self.task, "vaelab_multirun", None)
        workers = getattr(self.launcher, "workers", None)
        if multirun is not None:
            return multirun.search(settings, workers, self.launcher.launch)
        from vaelab.sweeps.search import batches

        lines: Sequence[str] = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        return batches.search(settings, self.context, self.config, lines, self.launcher.launch)
