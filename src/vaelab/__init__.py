"""vaelab: a research template for variational autoencoders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load"]


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
