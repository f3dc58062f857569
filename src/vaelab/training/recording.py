"""A step that is recorded once and carried out by starting the recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelab.objectives import Weights
from vaelab.training.step import REPORT, OptimisationStep, Scheduled, StepNoise

#: steps of each number of images that are carried out one operation at a time before one is recorded: libraries choose their algorithms, an optimizer makes its state
FIRST_STEPS = 3

#: a computation -> what starts its recording. Whatever the computation reads and writes stays where it is; it is not carried out by being recorded.
Record = Callable[[Callable[[], None]], Callable[[], None]]


def record_on_gpu(computation: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph."""
    torch.clear_autocast_cache()  # it may hold copies of weights in 16 bits, which the recording would take for the weights
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        computation()
    torch.clear_autocast_cache()
    return graph.replay


@dataclass(frozen=True)
class Memory:
    """What a recording reads, filled anew for each step, and what it leaves.

    Attributes:
        index: of the images ``[B]``.
        noise: of the step.
        numbers: what the schedules say ``[4]``: weight of the KL term, capacity, learning rate, averaging; 0 for one that is not there.
        report: ``[len(REPORT)]``.
    """

    index: Tensor
    noise: StepNoise
    numbers: Tensor
    report: Tensor

    @classmethod
    def of(cls, index: Tensor, noise: StepNoise) -> Memory:
        """With the room for steps like this one."""
        numbers = torch.zeros(4, device=index.device)
        report = torch.zeros(len(REPORT), device=index.device)
        return cls(index.clone(), noise, numbers, report)

    def fill(self, index: Tensor, scheduled: Scheduled) -> None:
        """For the next step; its noise has been made in place."""
        self.index.copy_(index)
        numbers = _numbers(scheduled)
        self.numbers.copy_(numbers.pin_memory() if self.numbers.is_cuda else numbers, non_blocking=True)

    def scheduled(self, like: Scheduled) -> Scheduled:
        """What is scheduled in ``like``, read from here."""
        kl, capacity, learning_rate, averaging = self.numbers.unbind()
        return Scheduled(
            Weights(kl, None if like.weights.capacity is None else capacity),
            None if like.learning_rate is None else learning_rate,
            None if like.averaging is None else averaging,
        )


def _numbers(scheduled: Scheduled) -> Tensor:
    found = (scheduled.weights.kl, scheduled.weights.capacity, scheduled.learning_rate, scheduled.averaging)
    return torch.tensor([0.0 if number is None else number for number in found])


class RecordedStep:
    """Carries out an :class:`OptimisationStep` by starting its recording: one for each number of images that a step has.

    Args:
        step: with one process.
        count: called once a step that is carried out so.
        record: makes a recording.
    """

    def __init__(self, step: OptimisationStep, count: Callable[[], None], record: Record) -> None:
        self.step = step
        self.count = count
        self.record = record
        self._seen: dict[int, int] = {}
        self._recordings: dict[int, tuple[Memory, Callable[[], None]]] = {}

    def __call__(
        self, index: Tensor, step: int, optimizer: Any, backward: Callable[[Tensor], None]
    ) -> Tensor:
        """As :meth:`OptimisationStep.__call__`; the numbers that it returns are those of this step until the next one is carried out."""
        images = len(index)
        if self._seen.get(images, 0) < FIRST_STEPS:
            self._seen[images] = self._seen.get(images, 0) + 1
            return self.step(index, step, optimizer, backward)
        scheduled = self.step.scheduled(step)
        if images not in self._recordings:
            noise = self.step.noise_of(step, images, index.device)
            memory = Memory.of(index, noise)
            memory.fill(index, scheduled)
            self._recordings[images] = (memory, self._recording(memory, scheduled, optimizer, backward))
        memory, start = self._recordings[images]
        self.step.noise_of(step, images, index.device, out=memory.noise)
        memory.fill(index, scheduled)
        start()
        self.count()
        return memory.report

    def _recording(
        self, memory: Memory, scheduled: Scheduled, optimizer: Any, backward: Callable[[Tensor], None]
    ) -> Callable[[], None]:
        told = memory.scheduled(scheduled)
        own = optimizer.optimizer  # Lightning's would count this as a step

        def computation() -> None:
            memory.report.copy_(self.step.carry_out(memory.index, memory.noise, told, own, backward))

        return self.record(computation)
