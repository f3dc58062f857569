"""How many jobs at a time, and what of the machine each of them has."""

from __future__ import annotations

import pytest

from vaelab.runs import cores
from vaelab.sweeps import slots
from vaelab.sweeps.slots import Slots, visible_gpus

FOUR = ("GPU-a", "GPU-b", "GPU-c", "GPU-d")


@pytest.mark.parametrize(
    "usable, quota, gpus, asked, number, threads, processes, expected",
    [
        (16, None, (), None, None, None, 1, (16, 1)),
        (16, 3.5, (), None, None, None, 1, (4, 1)),  # a container's share of a large machine
        (16, None, (), None, 4, None, 1, (4, 4)),
        (16, None, (), None, None, 4, 1, (4, 4)),
        (16, None, (), "2", None, None, 1, (8, 2)),  # OMP_NUM_THREADS
        (16, None, (), "2", None, 4, 1, (4, 4)),  # what is said in so many words wins
        (2, None, (), None, 8, None, 1, (8, 1)),
        (16, None, (), None, None, None, 2, (8, 1)),  # jobs of two processes
        (16, None, FOUR, None, None, None, 1, (4, 4)),
        (16, None, FOUR, None, None, None, 2, (2, 4)),  # jobs of two GPUs
        (16, None, FOUR, None, 8, None, 1, (8, 2)),
        (2, None, FOUR, None, None, None, 1, (4, 1)),
    ],
)
def test_slots_and_threads(
    usable: int,
    quota: float | None,
    gpus: tuple[str, ...],
    asked: str | None,
    number: int | None,
    threads: int | None,
    processes: int,
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "usable", lambda: usable)
    monkeypatch.setattr(cores, "quota", lambda: quota)
    monkeypatch.setattr(slots, "visible_gpus", lambda _: gpus)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    found = Slots.here(number, threads, processes=processes)
    assert (found.number, found.threads) == expected
    without = Slots.here(number, threads, with_gpus=False, processes=processes)
    assert without.gpus == ()
    assert slots.DEVICES not in without.environment(0)


@pytest.mark.parametrize(
    "number, expected",
    [
        (4, ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]),
        (2, ["GPU-a,GPU-b", "GPU-c,GPU-d"]),
        (1, ["GPU-a,GPU-b,GPU-c,GPU-d"]),
        (3, ["GPU-a", "GPU-b", "GPU-c"]),
        (6, ["GPU-a", "GPU-b", "GPU-c", "GPU-d", "GPU-a", "GPU-b"]),
    ],
)
def test_gpus_are_shared_out(number: int, expected: list[str]) -> None:
    found = Slots(number, 2, FOUR)
    assert [found.environment(slot)[slots.DEVICES] for slot in range(number)] == expected
    assert {found.environment(0)[name] for name in slots.THREADS} == {"2"}


@pytest.mark.parametrize(
    "named, expected", [("", ()), ("0,3", ("0", "3")), ("GPU-1, MIG-2", ("GPU-1", "MIG-2"))]
)
def test_what_is_named_is_what_there_is(named: str, expected: tuple[str, ...]) -> None:
    assert visible_gpus({slots.DEVICES: named}) == expected
