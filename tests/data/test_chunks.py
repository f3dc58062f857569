"""Which steps come in which chunk, and which images in which step."""

from __future__ import annotations

import functools
import operator

import pytest
import torch

from vaelab.data.chunks import ChunkLoader, ChunkPlan, IndexLoader
from vaelab.noise import Noise


def boundaries(plan: ChunkPlan, start: int = 0) -> list[tuple[int, int]]:
    out, step = [], start
    while step < plan.num_steps:
        epoch = list(plan.chunks(step))
        out += epoch
        step = epoch[-1][1]
    return out


@pytest.mark.parametrize("chunk_steps", [1, 3, 50])
@pytest.mark.parametrize("limit", [None, 7])
def test_chunks_cover_every_step_once_and_end_where_something_is_due(
    chunk_steps: int, limit: int | None
) -> None:
    plan = ChunkPlan(
        num_images=100, batch_size=9, num_steps=41, chunk_steps=chunk_steps, every=(5, 8), limit=limit
    )
    chunks = boundaries(plan)
    assert [step for first, end in chunks for step in range(first, end)] == list(range(41))
    assert all(end - first <= chunk_steps for first, end in chunks)
    ends = {end for _, end in chunks}
    due = {s for s in range(1, 42) if s % 5 == 0 or s % 8 == 0 or s % plan.steps_per_epoch == 0 or s == 41}
    assert due <= ends


def test_a_short_last_batch_is_used() -> None:
    plan = ChunkPlan(num_images=10, batch_size=4, num_steps=3, chunk_steps=2)
    loader = ChunkLoader(plan, lambda epoch: Noise(0).order(epoch, plan.num_images), lambda: 0)
    seen = [index.tolist() for chunk in loader for index in chunk.indices]
    assert [len(index) for index in seen] == [4, 4, 2]
    assert sorted(functools.reduce(operator.iadd, seen, [])) == list(range(10))


@pytest.mark.parametrize("start", range(12))
def test_the_steps_do_not_depend_on_where_one_begins(start: int) -> None:
    plan = ChunkPlan(num_images=10, batch_size=3, num_steps=12, chunk_steps=3, every=(5,))

    def steps(first: int) -> dict[int, list[int]]:
        out, now = {}, first
        while now < plan.num_steps:
            for chunk in ChunkLoader(plan, lambda epoch: Noise(1).order(epoch, plan.num_images), lambda: now):  # noqa: B023
                out |= {chunk.first_step + i: index.tolist() for i, index in enumerate(chunk.indices)}
            now = max(out) + 1
        return out

    whole = steps(0)
    assert steps(start) == {step: index for step, index in whole.items() if step >= start}
    assert whole[0] != whole[4], "epochs have the same order"


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_count_every_image_exactly_once(world_size: int) -> None:
    ranks = [IndexLoader(torch.arange(101), 10, rank, world_size) for rank in range(world_size)]
    seen = torch.cat([index for loader in ranks for index in loader])
    assert torch.equal(seen.sort().values, torch.arange(101))
    assert all(len(loader) == len(list(loader)) for loader in ranks)
