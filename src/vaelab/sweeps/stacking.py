"""Which runs are trained together, as one stacked model: those whose settings differ in nothing that decides what is computed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from vaelab.runs.wandb import wandb_mode

#: settings in which the members of a stack may differ: what goes into the noise, what each member's own optimizer and schedules do, what it is called
MAY_DIFFER = ("seed", "name", "tags", "optimizer", "schedule", "objective.beta", "data.label_seed", "sweep")
#: models that sum over the classes of an image without a label
OF_LABELS = ("SemiSupervisedVAE", "StackedSemiSupervisedVAE")
PRECISIONS = ("32-true", "64-true", "32", "64")


def why_not(config: Mapping[str, Any]) -> str | None:
    """Why a run cannot be a member of a stack, with the setting that decides it; None where it can.

    Args:
        config: resolved, primitives only.
    """
    trainer, optimizer, engine = config["trainer"], config["optimizer"], config["engine"]
    model = str(config["model"].get("_target_", "")).rpartition(".")[2]
    if config["logger"]["name"] == "wandb" and wandb_mode(os.environ) == "online":
        return "logger=wandb online: one run that waits for the server would end those of all; with WANDB_MODE=offline, logger=csv or logger=none they can be stacked"
    if trainer["devices"] not in (1, "1", [0]) or trainer["num_nodes"] != 1:
        return f"trainer.devices={trainer['devices']}: a stack computes on one device"
    if trainer["strategy"] != "auto":
        return f"trainer.strategy={trainer['strategy']}: a stack computes on one device"
    if str(trainer["precision"]) not in PRECISIONS:
        return f"trainer.precision={trainer['precision']}: only 32-true and 64-true can be stacked"
    if optimizer.get("accumulate", 1) != 1:
        return f"optimizer.accumulate={optimizer['accumulate']}: the steps of a stack have one part"
    if optimizer.get("samples_at_once") is not None:
        return f"optimizer.samples_at_once={optimizer['samples_at_once']}: the steps of a stack have one part"
    if engine.get("name", "eager") != "eager":
        return f"engine={engine['name']}: only engine=eager can be stacked"
    if engine.get("matmul") not in (None, "auto"):
        return f"engine.matmul={engine['matmul']}: what holds for the whole process cannot be stacked"
    data = config["data"]
    if model in OF_LABELS and data.get("num_labels") is not None and data.get("labelled_per_batch") is None:
        return "data.labelled_per_batch=null: batches that mix images with and without a label have no shape in common; with a number they can be stacked"
    return None


def likeness(config: Mapping[str, Any]) -> str:
    """What two runs have in common that may be members of one stack: a digest of all other settings."""
    found = json.loads(json.dumps(config))
    for key in MAY_DIFFER:
        *path, last = key.split(".")
        node = found
        for part in path:
            node = node.get(part) or {}
        node.pop(last, None)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def shared_out(number: int, slots: int, largest: int) -> list[int]:
    """Sizes of the stacks for so many runs: each slot gets one, of nearly the same size, as long as none is larger than ``largest``.

    >>> shared_out(64, 2, 64), shared_out(5, 2, 64), shared_out(1, 2, 64), shared_out(10, 1, 4)
    ([32, 32], [3, 2], [1], [4, 3, 3])
    """
    stacks = max(min(slots, number), -(-number // largest))
    return [number // stacks + (place < number % stacks) for place in range(stacks)]


def in_stacks(names: Sequence[Any], slots: int, largest: int) -> list[list[Any]]:
    """The same, of the runs themselves."""
    found, first = [], 0
    for size in shared_out(len(names), slots, largest):
        found.append(list(names[first : first + size]))
        first += size
    return found
