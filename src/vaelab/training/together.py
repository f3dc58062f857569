"""Runs that are trained together: each goes its own way in a thread of its own, and they meet at their optimizer steps, which are carried out as one.

So that whatever happens between two steps of a run (validation, checkpoints, records, pictures, its end) is what happens in a run by itself. One thread at a
time goes on, the others wait: what the process has once, as its standard output, belongs to the one whose turn it is.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import lightning as L
import torch
from lightning.pytorch import Callback
from torch import Tensor

from vaelab.data.chunks import Chunk
from vaelab.data.datamodule import ImageDataModule
from vaelab.runs.interruption import Interrupted, StopRequest
from vaelab.training.stacked import MemberStep, StackedStep, take_apart
from vaelab.training.step import OptimisationStep

POLL = 0.2  # seconds between two looks for a signal while somebody works


class Together:
    """Carries out several works side by side, each until it has ended, however that is.

    Args:
        works: in their order, in which they also begin.
        stop: whether somebody wants all of them to stop; asked where that does no harm.
        ended: told of each that has ended.
        screen: where they print.
    """

    def __init__(
        self,
        works: Sequence[Callable[[Seat], Any]],
        stop: StopRequest,
        ended: Callable[[Seat], None] = lambda _: None,
        screen: TextIO | None = None,
    ) -> None:
        self.seats = [Seat(self, place, work, screen) for place, work in enumerate(works)]
        self.stop, self.ended = stop, ended
        self.turn_is_over = threading.Semaphore(0)
        self._stacks: dict[int, StackedStep] = {}  # by the number of images
        self._told: set[str] = set()
        self._data: ImageDataModule | None = None

    def carry_out(self) -> None:
        """Return when all have ended; what each came to is in its :class:`Seat`."""
        for seat in self.seats:
            if self.stop.requested:
                assert self.stop.signum is not None
                seat.error, seat.is_over = Interrupted(self.stop.signum), True
                self.ended(seat)
            else:
                self._let(seat)
        while there := [seat for seat in self.seats if not seat.is_over]:
            if self.stop.requested:
                self._pass_on()
            for seat in there:
                if self.stop.requested or not seat.asked:
                    self._let(seat)
            if not self.stop.requested:
                self._step([seat for seat in there if not seat.is_over])

    def _let(self, seat: Seat) -> None:
        """Let a member go on until it asks for steps, or has ended."""
        before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = seat.streams
        try:
            seat.go_on()
            while not self.turn_is_over.acquire(timeout=POLL):
                if self.stop.requested:
                    self._pass_on()
        finally:
            seat.streams = sys.stdout, sys.stderr
            sys.stdout, sys.stderr = before
        if seat.is_over:
            self.ended(seat)

    def _pass_on(self) -> None:
        """Tell the members that they are to stop: signals reach the main thread alone. Not those that have steps to count yet, which would be lost."""
        for seat in self.seats:
            if seat.stop is not None and not seat.reports:
                seat.stop.signum = self.stop.signum

    def share(self, data: ImageDataModule) -> None:
        """Have the members' data in memory once."""
        self._data = self._data or data
        data.share_pixels(self._data)

    def _step(self, seats: Sequence[Seat]) -> None:
        """The next step of each of these, as one where they have as many images: the last batch of an epoch may be shorter, and a run that is gone on with stand elsewhere."""
        groups: dict[int, list[Seat]] = {}
        for seat in seats:
            groups.setdefault(len(seat.asked[0].index), []).append(seat)
        for size, group in groups.items():
            if len(groups) == 1 and len(group) > 1:  # one stack for batches of all lengths
                size = 0
            stack = self._stacks.setdefault(size, StackedStep())
            try:
                reports = stack([seat.asked.popleft() for seat in group])
            except Exception as error:
                for seat in group:
                    seat.failure = error
                    seat.asked.clear()
                continue
            if stack.apart is not None and stack.apart not in self._told:
                self._told.add(stack.apart)
                print(
                    f"these runs cannot be stacked, and are trained one step after the other: {stack.apart}",
                    flush=True,
                )
            for seat, report in zip(group, reports, strict=True):
                seat.reports.append(report)


class Seat(Callback):
    """The place of one member among the others; as a callback of its Trainer it has the module ask for its steps here.

    Attributes:
        place: its number.
        result, error: what its work came to.
        is_over: it has ended.
        stop: of the run, once it asks for steps.
        asked: the steps that it waits for.
        reports: of those that have been carried out since.
        failure: why no more are.
        streams: standard output and error while it is its turn.
    """

    def __init__(
        self, together: Together, place: int, work: Callable[[Seat], Any], screen: TextIO | None = None
    ) -> None:
        self.place, self.result, self.error, self.is_over = place, None, None, False
        self.stop: StopRequest | None = None
        self.asked: deque[MemberStep] = deque()
        self.reports: deque[Tensor] = deque()
        self.failure: Exception | None = None
        self.error: BaseException | None
        self.result: Any
        self.streams: tuple[Any, Any] = (screen or sys.stdout, screen or sys.stderr)
        self._together, self._work = together, work
        self._go = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._main, name=f"member {place}", daemon=True)

    def go_on(self) -> None:
        """Give it its turn."""
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()

    def _main(self) -> None:
        self._go.acquire()
        torch.set_flush_denormal(True)  # of this thread
        try:
            self.result = self._work(self)
        except BaseException as error:
            self.error = error
        finally:
            self.is_over = True
            self._together.turn_is_over.release()

    def _wait(self) -> None:
        """Let the others have their turns."""
        self._together.turn_is_over.release()
        self._go.acquire()

    def carries_out(
        self, step: OptimisationStep, chunk: Chunk, stop: StopRequest
    ) -> Callable[[Tensor, int, Any, Callable[[Tensor], None]], Tensor]:
        """What carries out the steps of a chunk, one a call, in the place of ``step``."""
        self.stop = stop
        indices = iter(range(len(chunk.indices)))

        def carry_out(
            index: Tensor, number: int, optimizer: Any, backward: Callable[[Tensor], None]
        ) -> Tensor:
            if next(indices) == 0:  # all of them are asked for at once: taking turns takes time, too
                self.asked.extend(
                    MemberStep(step, at, of, optimizer, backward)
                    for at, of in enumerate(chunk.indices, start=number)
                )
                self._wait()
            if not self.reports:
                self.asked.clear()
                if self.failure is not None:
                    raise RuntimeError(f"a step of the stack failed: {self.failure}") from self.failure
                stop.signum = self._together.stop.signum
                stop.obey()
                raise AssertionError("a turn without a step, though nobody wants to stop")
            return self.reports.popleft()

        return carry_out

    # -- as a callback -------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            pl_module.seat = self
            self._together.share(trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._leave(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._leave(pl_module)

    def _leave(self, pl_module: Any) -> None:
        pl_module.seat = None
        take_apart(pl_module.model)


def by_themselves(tensors: dict[str, Any]) -> None:
    """Copy those that are parts of larger ones, which would be saved whole."""
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() > tensor.nbytes:
            tensors[name] = tensor.clone()
