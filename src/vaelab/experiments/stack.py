"""Several runs trained together in one process, each with a run directory of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch

from vaelab.data import datasets
from vaelab.errors import RunFailed, SettingError
from vaelab.experiments.request import Request
from vaelab.experiments.resume import resume
from vaelab.experiments.train import Result, prepare_process, train
from vaelab.runs import RunDirectory, read_manifest
from vaelab.runs.environment import intra_op
from vaelab.runs.interruption import RESUME_ME, Interrupted, StopRequest
from vaelab.training.arithmetic import one_library
from vaelab.training.together import Seat, Together


@dataclass(frozen=True)
class Member:
    """One of the runs: a new one, or one that is gone on with.

    Attributes:
        config: of a new one, resolved, primitives only.
        request: how it was asked for.
        directory: of one that is gone on with.
        data_dir: where its data lie, if not where they lay.
    """

    config: dict[str, Any] | None = None
    request: Request = Request()
    directory: Path | None = None
    data_dir: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a member.

    Attributes:
        member: its number.
        exit_status: as that of the command of one run.
        cause: why it is not complete, in one line.
        result: of one that is.
        seconds: from the beginning of the stack to its end.
    """

    member: int
    exit_status: int
    cause: str | None
    result: Result | None
    seconds: float


def train_together(
    members: Sequence[Member], ended: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Train, validate, test and record each of these runs, as :func:`vaelab.experiments.train.train` and :func:`vaelab.experiments.resume.resume` do, with their steps as one.

    Args:
        members: runs that can be stacked (:mod:`vaelab.sweeps.stacking`).
        ended: told of each that has come to an end, in whatever order.

    Raises:
        KeyboardInterrupt: a second Ctrl-C; those that still run can be gone on with.
    """
    prepare_process()
    _as_many_threads(members)
    identity = token_hex(8)
    started, outcomes, stop = time.perf_counter(), [], StopRequest()

    def work(number: int, member: Member) -> Callable[[Seat], Result]:
        def carry_out(seat: Seat) -> Result:
            if member.directory is not None:
                these = {"members": len(members)}
                return resume(member.directory, member.data_dir, callbacks=[seat], stack=these)
            assert member.config is not None
            stack = {"id": identity, "members": len(members), "member": number}
            return train(member.config, replace(member.request, stack=stack), [seat])

        return carry_out

    def conclude(seat: Seat) -> None:
        status, cause = _end(seat.error)
        outcome = Outcome(seat.place, status, cause, seat.result, time.perf_counter() - started)
        outcomes.append(outcome)
        ended(outcome)

    with datasets.kept(), open(os.devnull, "w", encoding="utf-8") as nowhere, stop.watching(), one_library():
        together = Together(
            [work(number, member) for number, member in enumerate(members)], stop, conclude, nowhere
        )
        try:
            with stop.deferred():
                together.carry_out()
        except Interrupted:
            pass  # each member says so itself
    return outcomes


def _as_many_threads(members: Sequence[Member]) -> None:
    """Have the steps computed by as many threads as they were: sums of products depend on it."""
    for member in members:
        if member.directory is not None:
            manifest = read_manifest(RunDirectory.open(member.directory))
            if (threads := intra_op(manifest)) is not None:
                torch.set_num_threads(threads)
                return


def _end(error: BaseException | None) -> tuple[int, str | None]:
    if error is None:
        return 0, None
    if isinstance(error, SettingError):
        return 2, str(error)
    if isinstance(error, RunFailed | Interrupted):
        return error.exit_status, str(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return RESUME_ME, "stopped"
    return 1, f"{type(error).__name__}: {' '.join(str(error).split())}"
