"""``hydra/launcher=submitit_slurm``: each job a job of a Slurm cluster.

Hydra imports this module at the start of every Hydra application of the environment, so it imports nothing of ours, nor submitit, before there are jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from vaelab.sweeps.workers import MakeWorkers

NODE = {
    "_target_": "hydra_plugins.vaelab_submitit_launcher.SlurmLauncher",
    "_convert_": "all",
    "partition": None,
    "qos": None,
    "account": None,
    "timeout_min": 60,  # of a job; what is not done by then has been saved, and the job waits again
    "max_num_timeout": 10,  # times that a job is put back into the queue
    "signal_delay_s": 120,  # before the end of the time a run is asked to save
    "nodes": 1,
    "tasks_per_node": 1,
    "cpus_per_task": None,  # null = the threads, for each process of the task
    "gpus_per_node": None,  # 1, a100:2, ...
    "mem_gb": None,
    "constraint": None,
    "exclude": None,
    "comment": None,
    "setup": [],  # shell lines before the command: [module load cuda]
    "additional_parameters": {},  # of sbatch, as in {mail-type: FAIL}
    "slots": "${oc.select:sweep.slots,null}",  # jobs in the queue at a time; null = 64
    "threads": "${oc.select:sweep.threads,null}",  # of each process; null = its CPUs
}
ConfigStore.instance().store(group="hydra/launcher", name="submitit_slurm", node=NODE, provider="vaelab")


class SlurmLauncher(Launcher):
    """A task function of ours has a ``vaelab_multirun``, which knows what a job is; any other one is pickled into the jobs."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    @property
    def workers(self) -> MakeWorkers:
        """Who carries out jobs that are submitted and collected one by one."""
        from vaelab.sweeps.slurm import SlurmSettings, SlurmWorkers

        return SlurmWorkers.makes(SlurmSettings(**self.settings))

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from vaelab.sweeps.launching import launch

        return launch(self, job_overrides, initial_job_idx)
