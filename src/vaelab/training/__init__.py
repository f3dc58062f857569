"""Training: the LightningModule, the step, callbacks, checkpoints. Only this room and the data module know Lightning."""

from lightning.pytorch import Callback, Trainer

from vaelab.training.checkpoints import AtomicCheckpointIO, Checkpoints, read_checkpoint
from vaelab.training.loggers import MetricsFile, close_wandb, open_wandb
from vaelab.training.module import VAEModule
from vaelab.training.moments import TrackerPictures
from vaelab.training.per_image import PerImageParts
from vaelab.training.pictures import draw
from vaelab.training.progress import RunProgress, StepsDone, TestProgress, parts_progress
from vaelab.training.pruning import GivenUp, Pruning, Report
from vaelab.training.step import OptimisationStep, StepSettings
from vaelab.training.stopping import EarlyStoppingAfterWarmup

__all__ = [
    "AtomicCheckpointIO",
    "Callback",
    "Checkpoints",
    "EarlyStoppingAfterWarmup",
    "GivenUp",
    "MetricsFile",
    "OptimisationStep",
    "PerImageParts",
    "Pruning",
    "Report",
    "RunProgress",
    "StepSettings",
    "StepsDone",
    "TestProgress",
    "TrackerPictures",
    "Trainer",
    "VAEModule",
    "close_wandb",
    "draw",
    "open_wandb",
    "parts_progress",
    "read_checkpoint",
]
