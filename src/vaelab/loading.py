"""A finished run as an object again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vaelab.build import PARTS, DataShape, build_model
from vaelab.errors import SettingError, integer
from vaelab.runs import RunDirectory, read_config, read_manifest, recorded_data
from vaelab.runs.files import file_digest
from vaelab.runs.manifest import without_weights


def load_model(directory: Path) -> nn.Module:
    """The model of a run directory with its selected weights, in evaluation mode."""
    run = RunDirectory.open(directory)
    config = read_config(run)
    missing = [key for key in ("model", *PARTS) if not isinstance(config.get(key), Mapping)]
    missing += [key for key in ("latent_dim", "seed") if key not in config]
    if missing:
        raise SettingError(
            "run", run.config_file, f"does not say what a model is made of: {', '.join(missing)}"
        )
    model = build_model(config, data_shape(run))
    if not run.weights_file.is_file():
        raise SettingError("run", directory, without_weights(run))
    give_weights(model, read_weights(run), run.weights_file)
    return model.eval()


def data_shape(run: RunDirectory) -> DataShape:
    """Shape and levels of the data that a run was trained on, as recorded."""
    data = recorded_data(run)
    try:
        channels, height, width = (integer("image_shape", n, 1) for n in data["image_shape"])
        levels = integer("num_levels", data["protocol"]["num_levels"], 1)
        low, high = (float(value) for value in data["protocol"]["pixel_range"])
        classes = integer("num_classes", data.get("num_classes", 0), 0)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        rule = f"does not say what the data were like ({type(error).__name__}: {error})"
        raise SettingError("run", run.manifest_file, rule) from None
    return DataShape((channels, height, width), levels, (low, high), classes)


def weights_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """A ``state_dict`` as ``model.safetensors`` has it: the same weights give the same bytes."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return save(kept, metadata={"format": "pt"})


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of the ``model.safetensors`` that a ``state_dict`` would make, whatever file it has come from."""
    return hashlib.sha256(weights_bytes(weights)).hexdigest()


def read_weights(run: RunDirectory, setting: str = "run") -> dict[str, Tensor]:
    """The selected weights of a run, by name: tensors, and nothing that is executed.

    Raises:
        SettingError: of the ``setting`` that names the run, for a file that holds anything else, or is not the one on record.
    """
    try:
        weights = load_file(run.weights_file)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        rule = f"holds no weights that can be read safely ({_first_line(error)})"
        raise SettingError(setting, run.weights_file, rule) from None
    recorded = read_manifest(run).get("weights")  # an interrupted run has none
    if recorded is not None and file_digest(run.weights_file) != recorded:
        rule = "is damaged: its SHA-256 is not the recorded one"
        raise SettingError(setting, run.weights_file, rule)
    return weights


def give_weights(model: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """``model`` with ``weights``, all of them.

    Raises:
        SettingError: they are those of another model; ``file`` is where they come from.
    """
    try:
        model.load_state_dict(dict(weights))
    except (RuntimeError, TypeError, AttributeError) as error:
        rule = f"holds the weights of another model than its configuration's ({_first_line(error)})"
        raise SettingError("run", file, rule) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
