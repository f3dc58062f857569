"""Weights that were trained elsewhere, in a run directory that holds nothing but them: it can be evaluated, sampled and started from."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vaelab.errors import SettingError, nearest
from vaelab.experiments.assembly import assemble
from vaelab.experiments.train import data_record
from vaelab.runs import (
    RunDirectory,
    Status,
    complete_manifest,
    read_yaml,
    start_manifest,
    write_atomically,
    write_status,
    write_yaml,
)
from vaelab.training.checkpoints import file_digest

#: how such weights were chosen, on their cards
SELECTED_BY = "elsewhere"


@dataclass(frozen=True)
class Elsewhere:
    """A model and its weights.

    Attributes:
        config: of the model and its data, as ``vae-train`` would have it; resolved, primitives only.
        weights: a ``state_dict``, by itself or under the key ``state_dict``, as ``.safetensors`` or as ``torch.save`` writes it.
        key_map: YAML, names in ``weights`` -> names in the model, null = not used; a name that it does not list keeps its own. None = all do.
        argv, overrides: how it was asked for, for the record.
    """

    config: dict[str, Any]
    weights: Path
    key_map: Path | None = None
    argv: Sequence[str] = ()
    overrides: Sequence[str] = ()

    def load_into(self, model: nn.Module) -> None:
        """Give ``model`` the weights.

        Raises:
            SettingError: a file that cannot be read; names or shapes that are not the model's.
        """
        names = {} if self.key_map is None else _read_map(self.key_map)
        load_all(model, renamed(read_weights(self.weights), names, self.key_map), self.weights)


def import_weights(elsewhere: Elsewhere) -> RunDirectory:
    """Make a run directory of a model and weights from elsewhere.

    Raises:
        SettingError: see :meth:`Elsewhere.load_into`; nothing was written.
    """
    config, weights, key_map = elsewhere.config, elsewhere.weights, elsewhere.key_map
    parts = assemble(config)
    elsewhere.load_into(parts.module.model)
    run = RunDirectory.create(Path(config["paths"]["log_dir"]) / config["name"])
    write_yaml(run.config_file, parts.config)
    write_yaml(run.overrides_file, list(elsewhere.overrides))
    content = {name: value.contiguous() for name, value in parts.module.model.state_dict().items()}
    write_atomically(run.weights_file, save(content, metadata={"format": "pt"}))
    start_manifest(
        run,
        argv=elsewhere.argv,
        overrides=elsewhere.overrides,
        experiment=None,
        seed=config["seed"],
        device={"kind": "cpu"},
        threads=torch.get_num_threads(),
        precision=str(config["trainer"]["precision"]),
        config=parts.config,
        data=data_record(parts.data),
        imported={
            "weights": str(weights),
            "sha256": file_digest(weights),
            "key_map": None if key_map is None else str(key_map),
        },
    )
    write_status(run.status_file, Status.COMPLETED, exit_status=0, error=None)
    complete_manifest(run, Status.COMPLETED, weights=file_digest(run.weights_file))
    print(f"the weights of {weights} are in {run.path}", flush=True)
    return run


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; nothing of it is executed."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SettingError("weights", path, "no such file") from None
    except pickle.UnpicklingError:  # torch's message says how it can be made to run
        rule = "holds no tensors that can be read safely: it was not written by torch.save(model.state_dict(), FILE)"
        raise SettingError("weights", path, rule) from None
    except Exception as error:  # torch raises many kinds; whatever it is, the file cannot be used
        reason = next(iter(str(error).strip().splitlines()), "")
        rule = f"holds no tensors that can be read safely ({type(error).__name__}: {reason})"
        raise SettingError("weights", path, rule) from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SettingError("weights", path, "must be a state_dict: names -> tensors")
    return dict(content)


def renamed(
    tensors: Mapping[str, Tensor], names: Mapping[str, str | None], path: Path | None
) -> dict[str, Tensor]:
    """The tensors under the names that ``names`` gives them; those named null are left out."""
    for name in names:
        if name not in tensors:
            raise SettingError("key_map", path, f"names {name}, which is not in the weights", nearest=nearest(name, tensors))  # fmt: skip
    new = [(names.get(name, name), value) for name, value in tensors.items()]
    kept = [(name, value) for name, value in new if name is not None]
    doubled = {name for i, (name, _) in enumerate(kept) if name in dict(kept[:i])}
    if doubled:
        raise SettingError("key_map", path, f"gives two tensors the name {min(doubled)}")
    return dict(kept)


def load_all(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give ``model`` all its weights.

    Raises:
        SettingError: a weight is missing or has another shape, or a tensor is nobody's; the first few are named.
    """
    own = model.state_dict()
    wrong = [
        *(f"{name} {list(value.shape)} is missing" for name, value in own.items() if name not in tensors),
        *(f"{name} {list(value.shape)} is none of the model's" for name, value in tensors.items() if name not in own),
        *(
            f"{name} has shape {list(tensors[name].shape)} and not {list(value.shape)}"
            for name, value in own.items()
            if name in tensors and tensors[name].shape != value.shape
        ),
    ]  # fmt: skip
    if wrong:
        more = f"; and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        rule = f"are not this model's weights: {'; '.join(wrong[:6])}{more} (key_map=FILE can rename them)"
        raise SettingError("weights", path, rule)
    model.load_state_dict(dict(tensors))


def _read_map(path: Path) -> dict[str, str | None]:
    if not path.is_file():
        raise SettingError("key_map", path, "no such file")
    content = read_yaml(path)
    if not isinstance(content, Mapping) or not all(isinstance(name, str) and isinstance(new, str | None) for name, new in content.items()):  # fmt: skip
        raise SettingError(
            "key_map", path, "must be YAML: a name in the weights -> a name in the model, or null"
        )
    return dict(content)
