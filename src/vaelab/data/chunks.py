"""Which images each optimizer step sees, and how many steps are handed over at once.

An optimizer step is named by its number alone: epoch and position are ``divmod(step, steps_per_epoch)``, the order is a function of the epoch. Steps come in
chunks, because handing them to the training loop one by one costs more than some of them take. A chunk ends wherever something is due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Chunk(NamedTuple):
    """Consecutive optimizer steps. A tuple, because Lightning's precision plugins walk through batches and refuse frozen dataclasses.

    Attributes:
        first_step: number of the first of them.
        indices: the training images of each step ``[B]``, int64, over all ranks.
    """

    first_step: int
    indices: tuple[Tensor, ...]


@dataclass(frozen=True)
class ChunkPlan:
    """Where chunks end.

    Attributes:
        num_images: N that an epoch visits.
        batch_size: of these an optimizer step, over all ranks and accumulated parts; the last step of an epoch takes what is left.
        num_steps: optimizer steps of the whole run.
        chunk_steps: most steps a chunk.
        every: a chunk ends at each multiple of each of these (logging, checkpoints, validation).
        limit: most steps an epoch, or None.

    >>> plan = ChunkPlan(num_images=10, batch_size=3, num_steps=7, chunk_steps=3, every=(5,))
    >>> plan.steps_per_epoch, list(plan.chunks(0)), list(plan.chunks(4)), list(plan.chunks(5))
    (4, [(0, 3), (3, 4)], [(4, 5), (5, 7)], [(5, 7)])
    """

    num_images: int
    batch_size: int
    num_steps: int
    chunk_steps: int
    every: tuple[int, ...] = ()
    limit: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        whole = -(-self.num_images // self.batch_size)
        return whole if self.limit is None else min(whole, self.limit)

    def epoch(self, step: int, validate_first: bool = False) -> int:
        """The epoch that a run stands in after ``step`` steps; at the end of one it is still that one where its validation is to come."""
        return (step - validate_first) // self.steps_per_epoch

    def rows(self, step: int) -> slice:
        """Which images of its epoch's order ``step`` takes."""
        first = step % self.steps_per_epoch * self.batch_size
        return slice(first, first + self.batch_size)

    def end(self, step: int) -> int:
        """The step at which the chunk that begins with ``step`` ends."""
        epoch_end = (step // self.steps_per_epoch + 1) * self.steps_per_epoch
        due = [(step // interval + 1) * interval for interval in self.every]
        return min([step + self.chunk_steps, epoch_end, self.num_steps, *due])

    def chunks(self, step: int) -> Iterator[tuple[int, int]]:
        """First and last step (exclusive) of each chunk from ``step`` to the end of its epoch."""
        epoch = step // self.steps_per_epoch
        while step < self.num_steps and step // self.steps_per_epoch == epoch:
            end = self.end(step)
            yield step, end
            step = end


class ChunkLoader:
    """One iteration = the rest of the epoch that the run stands in.

    It has no length on purpose: the number of chunks differs from epoch to epoch, and Lightning would keep the first.

    Args:
        plan: where chunks end.
        order: epoch -> positions of the training images that it visits, in its order.
        global_step: asked at the start of each iteration.
        validate_first: asked then, too: whether the validation that is due at this step is still to come. Then a chunk without steps comes first, at whose end it is.
        device: where the indices go.
        beside: step -> positions of further images that it sees.
    """

    def __init__(
        self,
        plan: ChunkPlan,
        order: Callable[[int], Tensor],
        global_step: Callable[[], int],
        validate_first: Callable[[], bool] = lambda: False,
        device: torch.device | str = "cpu",
        beside: Callable[[int], Tensor] | None = None,
    ) -> None:
        self.plan = plan
        self.order = order
        self.global_step = global_step
        self.validate_first = validate_first
        self.device = device
        self.beside = beside

    def __iter__(self) -> Iterator[Chunk]:
        plan, step, validate_first = self.plan, self.global_step(), self.validate_first()
        epoch = plan.epoch(step, validate_first)
        if validate_first:
            yield Chunk(step, ())
            if plan.epoch(step) != epoch:  # that was its end
                return
        order = self.order(epoch).to(self.device)
        for first, end in plan.chunks(step):
            yield Chunk(first, tuple(self._images(order, step) for step in range(first, end)))

    def _images(self, order: Tensor, step: int) -> Tensor:
        visited = order[self.plan.rows(step)]
        return visited if self.beside is None else torch.cat([visited, self.beside(step).to(self.device)])


class IndexLoader:
    """Every index exactly once over all ranks: rank r takes r, r + world_size, ...; nothing is padded.

    >>> [i.tolist() for i in IndexLoader(torch.arange(5), 2, rank=1, world_size=2)]
    [[1, 3]]
    """

    def __init__(self, index: Tensor, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        mine = index[rank::world_size]
        self.batches: Sequence[Tensor] = mine.split(batch_size) if len(mine) else ()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)
