"""An optimizer's state and its gradients, for whichever engine asks it for steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def settle(optimizer: torch.optim.Optimizer, capturable: bool) -> None:
    """Have it keep the count of its steps where they are carried out: whatever engine or device a checkpoint is from.

    Args:
        optimizer: with its state, if it has any yet.
        capturable: on the device in any case; otherwise only where one kernel takes all weights.
    """
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = capturable
        on_device = capturable or bool(group.get("fused"))
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(parameter.device if on_device else "cpu")


def settled(state: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimizer as any engine can go on from it: a number for the learning rate, which a recorded step reads from a tensor."""
    groups = [
        {
            key: False if key == "capturable" else float(value) if key == "lr" else value
            for key, value in group.items()
        }
        for group in state["param_groups"]
    ]
    return {**state, "param_groups": groups}


def give(parameter: Tensor, gradient: Tensor) -> None:
    """Make ``gradient`` that of ``parameter``, as a backward pass would: with its numbers in the order in memory that the parameter's have.

    Torch's fused Adam on a CPU goes through both side by side, whatever their strides: of a gradient that is a transposed view it would take each number for another's.
    """
    if gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    parameter.grad = gradient
