"""What a run starts from: another run's weights, and which of them are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from vaelab.build import PARTS
from vaelab.errors import SettingError, nearest
from vaelab.experiments.parent import Parent
from vaelab.loading import read_weights
from vaelab.training import read_checkpoint


def take_weights(model: Any, config: Mapping[str, Any], parent: Parent) -> dict[str, list[str]]:
    """Give ``model`` a parent's weights, part by part. A part whose settings differ from the parent's starts anew, and so does what no longer fits because of them.

    Returns:
        the parts that are the parent's (``loaded``) and those that are not (``new``).

    Raises:
        SettingError: a part does not fit though its settings are the same, as with images of another size; or nothing is left of the parent.
    """
    weights = read_weights(parent.run, "init_from")
    name = parent.config["model"]["_target_"].rpartition(".")[2]
    if config["model"]["_target_"] != parent.config["model"]["_target_"] and name not in model.begins_with:
        raise SettingError("init_from", parent.run.path, f"is a {name}: its parts mean something else here")
    keys = (*PARTS, "model", "latent_dim")  # the last one is part of every part
    changed = {key for key in keys if config[key] != parent.config[key]}
    parts: dict[str, list[str]] = {"loaded": [], "new": []}
    for name, part in model.named_children():
        own = {
            key.removeprefix(f"{name}."): value
            for key, value in weights.items()
            if key.startswith(f"{name}.")
        }
        fits = _shapes(own) == _shapes(part.state_dict())
        if fits and changed.isdisjoint((name if name in PARTS else "model", "latent_dim")):
            part.load_state_dict(own)
            if own:
                parts["loaded"].append(name)
        elif changed:
            parts["new"].append(name)
        else:
            rule = f"its {name} does not fit these data: {config['data']['name']}, where the run had {parent.config['data']['name']}"
            raise SettingError("init_from", parent.run.path, rule)
    if not parts["loaded"]:
        rule = f"nothing of it would be used: {', '.join(sorted(changed))} differ from its settings"
        raise SettingError("init_from", parent.run.path, rule)
    return parts


def take_moments(
    config: Mapping[str, Any], parent: Parent, inherited: Mapping[str, list[str]]
) -> dict[int, dict[str, Any]]:
    """What the parent's optimizer knew of each weight where its weights were chosen, by the weight's number.

    Raises:
        SettingError: other weights or another optimizer than the parent's, for which its moments mean nothing; no checkpoint is left of it.
    """
    setting = "init_from_optimizer"
    new = [*inherited["new"], *([] if config.get("train_only") is None else ["train_only"])]
    if new:
        rule = f"the parent's moments are those of all its weights, and here {', '.join(new)} is another"
        raise SettingError(setting, True, rule)
    here, there = (c["optimizer"]["_target_"] for c in (config, parent.config))
    if here != there:
        raise SettingError(setting, True, f"the parent's moments are those of {there}, and not of {here}")
    best, last = parent.run.best_checkpoint, parent.run.last_checkpoint
    checkpoint = best if best.is_file() else last
    if not checkpoint.is_file():
        raise SettingError(setting, True, f"{parent.run.path} has no checkpoint any more, only its weights")
    (state,) = read_checkpoint(checkpoint)["optimizer_states"]
    return state["state"]


def with_moments(optimizer: Optimizer, moments: Mapping[int, Any]) -> Optimizer:
    """``optimizer`` with its own settings, and the moments of another."""
    if moments:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(moments)})
    return optimizer


def train_only(model: nn.Module, names: str | Sequence[str] | None, new: Sequence[str] = ()) -> None:
    """Freeze all weights but those of the parts called ``names``; None freezes nothing.

    Args:
        new: parts whose weights are random.

    Raises:
        SettingError: a part that the model has not got, or without weights; a ``new`` part with weights that would stay as they are.
    """
    if names is None:
        return
    parts = {name: part for name, part in model.named_children() if any(True for _ in part.parameters())}
    wanted = [names] if isinstance(names, str) else names
    model.requires_grad_(False)
    if not isinstance(wanted, Sequence) or not wanted:
        raise SettingError("train_only", names, f"must be null or parts of the model: {', '.join(parts)}")
    for name in wanted:
        if name not in parts:
            rule = f"must be parts of the model that have weights: {', '.join(parts)}"
            raise SettingError("train_only", names, rule, nearest=nearest(str(name), parts))
        parts[name].requires_grad_(True)
    random = [name for name in new if name in parts and name not in wanted]
    if random:
        raise SettingError(
            "train_only", names, f"the weights of {', '.join(random)} are new and would stay random; add them"
        )


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in weights.items()}
