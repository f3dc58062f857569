"""Data that are there already, for a step that is tried alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from vaelab.batch import Batch


class Given:
    """What :class:`vaelab.training.step.StepData` asks for, of a function (indices over all ranks, rows of this rank) -> batch."""

    is_on_device = True

    def __init__(self, batch: Callable[[Tensor, slice], Batch]) -> None:
        self.batch = batch

    def step_noise(
        self, step: int, num_images: int, out: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        return {}

    def first_labelled(self, num_images: int) -> int | None:
        return None

    def with_noise(self, index: Tensor, noise: Mapping[str, Tensor], rows: slice = slice(None)) -> Batch:
        return self.batch(index, rows)
