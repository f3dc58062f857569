"""What a launcher of ours does with a batch of jobs, whoever carries them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from vaelab.sweeps.workers import MakeWorkers


class HasWorkers(Protocol):
    """A launcher after Hydra has set it up."""

    context: HydraContext
    task: TaskFunction
    config: DictConfig

    @property
    def workers(self) -> MakeWorkers: ...


def launch(launcher: HasWorkers, job_overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
    """Carry out a batch of jobs. A task function of ours has a ``vaelab_multirun``, which knows what a job is; any other one is pickled.

    Args:
        launcher: that was asked.
        job_overrides: of each job.
        first: the number of the first job.
    """
    multirun = getattr(launcher.task, "vaelab_multirun", None)
    if multirun is not None:
        return multirun.launch(job_overrides, launcher.workers)
    from vaelab.sweeps import pickled  # it imports cloudpickle

    workers = launcher.workers(True, 1)
    return pickled.launch(launcher.context, launcher.task, launcher.config, job_overrides, first, workers)
