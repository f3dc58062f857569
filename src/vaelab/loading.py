"""A finished run as an object again."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from vaelab.build import DataShape, build_model
from vaelab.errors import SettingError
from vaelab.runs import RunDirectory, read_manifest, read_yaml


def load_model(directory: Path) -> nn.Module:
    """The model of a run directory with its selected weights, in evaluation mode."""
    run = RunDirectory.open(directory)
    model = build_model(read_yaml(run.config_file), data_shape(run))
    if not run.weights_file.is_file():
        raise SettingError("run", directory, "has no model.safetensors: the run did not complete")
    model.load_state_dict(load_file(run.weights_file))
    return model.eval()


def data_shape(run: RunDirectory) -> DataShape:
    """Shape and levels of the data that a run was trained on, as recorded."""
    data = read_manifest(run)["data"]
    low, high = data["protocol"]["pixel_range"]
    return DataShape(
        tuple(data["image_shape"]), data["protocol"]["num_levels"], (low, high), data.get("num_classes", 0)
    )
