"""vaelab: a research template for variational autoencoders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load", "train"]


def load(directory: str | Path, device: str = "cpu") -> nn.Module:
    """The trained model of a run directory, with its selected weights, in evaluation mode; of one with ``trainer.precision=64-true`` in float64. Needs neither Hydra nor Lightning.

    Args:
        directory: a run directory.
        device: where to put it.

    Raises:
        SettingError: no run directory, or one whose configuration names something that may not be built.
    """
    from vaelab.loading import load_model

    return load_model(Path(directory)).to(device)


def train(*overrides: str) -> Path:
    """``vae-train`` with these overrides, e.g. ``train("latent_dim=2", "trainer.max_epochs=3")``, in a process of its own; what it prints is printed here.

    Args:
        overrides: ``NAME=VALUE``, as on the command line.

    Returns:
        the run directory, of which :func:`load` gives the model.

    Raises:
        SettingError: a setting that is wrong; nothing was written.
        RunFailed: the run began and did not complete; its directory says why.
    """
    from vaelab.commands.process import train as carry_out

    return carry_out(overrides)
