"""Forward and backward pass of a step as one compiled function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from vaelab.batch import Batch
from vaelab.objectives import Weights
from vaelab.training.optimizers import give
from vaelab.training.step import OptimisationStep


class CompiledGradient:
    """Takes the place of :meth:`OptimisationStep.gradient`.

    The operations of both passes are written down once for each shape of a batch, by carrying them out (``make_fx``: what Python decides on the way is not compiled, so any model
    will do), and compiled together. Weights are read where they are; the weight of the KL term and the capacity are arguments.

    Args:
        step: whose gradients these are.
    """

    def __init__(self, step: OptimisationStep) -> None:
        self.step = step
        self._compiled: dict[tuple[Any, ...], Callable[..., list[Tensor | None]]] = {}

    def __call__(self, batch: Batch, eps: Tensor, weights: Weights, num_images: int, number: int) -> Tensor:
        """As :meth:`OptimisationStep.gradient`."""
        told = [batch.x, batch.y, batch.index, eps, *_tensors(weights, eps)]
        key = (*(tuple(t.shape) for t in told), batch.first_labelled, num_images, number)
        if (
            key not in self._compiled
        ):  # within autocast, where there is one, whose casts are written down as any operation is
            self._compiled[key] = self._compile(told, weights, batch.first_labelled, num_images, number)
        with torch.no_grad(), torch.autocast(eps.device.type, enabled=False):
            report, *gradients = self._compiled[key](*told)
        assert report is not None
        self.step.begin_gradients()
        for parameter, gradient in zip(self.step.parameters, gradients, strict=True):
            if gradient is not None:
                give(parameter, gradient if parameter.grad is None else parameter.grad + gradient)
        return report

    def _compile(
        self, told: list[Tensor], weights: Weights, first_labelled: int | None, num_images: int, number: int
    ) -> Callable[..., list[Tensor | None]]:
        def passes(x: Tensor, y: Tensor, index: Tensor, eps: Tensor, *numbers: Tensor) -> list[Tensor | None]:
            own = Weights(numbers[0], None if weights.capacity is None else numbers[1])
            batch = Batch(x, y, index, first_labelled)
            loss, inference, report = self.step.losses(batch, eps, own, num_images, number)
            joined = self.step.joined(loss, inference)
            return [report, *torch.autograd.grad(joined, self.step.parameters, allow_unused=True)]

        try:
            with torch.enable_grad():
                written = make_fx(passes)(*told)
        except RuntimeError as error:
            reason = str(error).partition(" - erroring out")[0]
            raise RuntimeError(
                f"engine=compiled cannot follow this model, whose next operation depends on numbers: {reason}; use engine=eager"
            ) from error
        return torch.compile(written, fullgraph=True, dynamic=False)


def _tensors(weights: Weights, like: Tensor) -> list[Tensor]:
    numbers = [weights.kl] if weights.capacity is None else [weights.kl, weights.capacity]
    return [torch.as_tensor(number, dtype=like.dtype, device=like.device) for number in numbers]
