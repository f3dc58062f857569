"""Who starts the other processes of a run."""

from __future__ import annotations

import os

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment


def starter(tasks: int) -> ClusterEnvironment:
    """Lightning, where this process is by itself; ``srun``, where it has started several.

    Said aloud, since Lightning by itself takes any job of Slurm's for one whose processes are all there, and warns wherever ``srun`` is installed.

    Args:
        tasks: that srun has started.
    """
    return LightningEnvironment() if tasks == 1 else _Srun()


class _Srun(SLURMEnvironment):
    """The processes of one ``srun``. A job whose time ends is put back into the queue by whoever submitted it, and not by Lightning."""

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    def world_size(self) -> int:
        return int(os.environ["SLURM_STEP_NUM_TASKS"])

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Of the step, which may be a part of the job; looked at before."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """``srun --ntasks=2`` says as much as ``--ntasks-per-node=2``."""
