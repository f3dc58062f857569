"""What the screen shows while a run goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vaelab.evidence.progress import Progress as Told
from vaelab.training.module import VAEModule

SECONDS_BETWEEN = 0.5  # two drawings of the bar
SECONDS_BETWEEN_LINES = 30  # where the screen is no terminal: a log file, a batch job


class _Drawn(L.Callback):
    """What a callback with a bar on the screen has: the bar, while there is one, which goes when the loop ends, however that is."""

    _progress: Progress | None = None

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class RunProgress(_Drawn, ProgressBar):
    """One bar over the optimizer steps of the run, with loss and images per second; a line an epoch is left behind.

    Where the screen is no terminal (a log file, a batch job) only the lines are written.

    Args:
        screen: where the bar is drawn; the lines go to standard output.
    """

    def __init__(self, screen: TextIO | None = None) -> None:
        super().__init__()
        self._screen = screen
        self._task: TaskID | None = None
        self._enabled = True
        self._next_refresh = 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        console = Console(file=self._screen or sys.stdout)
        if not self._enabled or not console.is_terminal:
            return
        self._progress = _bar(console)
        plan = _module(pl_module).plan
        self._task = self._progress.add_task(
            "step", total=plan.num_steps, completed=trainer.global_step, numbers=""
        )
        self._progress.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self._progress is None or self._task is None or time.monotonic() < self._next_refresh:
            return
        self._next_refresh = time.monotonic() + SECONDS_BETWEEN
        self._progress.update(
            self._task,
            completed=trainer.global_step,
            numbers=_numbers(_module(pl_module).latest),
            refresh=True,
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._enabled:
            return
        module = _module(pl_module)
        epochs = -(-module.plan.num_steps // module.plan.steps_per_epoch)
        place = f"epoch {trainer.current_epoch + 1}/{epochs}  step {trainer.global_step}"
        self._say(f"{place}  {_numbers(module.latest)}".rstrip())  # nothing is known just after a resume

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def print(self, *args: Any, **kwargs: Any) -> None:
        self._say(" ".join(str(arg) for arg in args))

    def _say(self, line: str) -> None:
        # The bar is taken down for the moment, so that the line goes the way of all lines (the console log reads along).
        if self._progress is not None:
            self._progress.stop()
        print(line, flush=True)
        if self._progress is not None:
            self._progress.start()


class TestProgress(_Drawn):
    """A bar over the images of a test; now and then a line where the screen is no terminal."""

    _lines: _Lines | None = None

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        _module(pl_module).estimator.progress = self._within
        total = sum(len(index) for index in _module(pl_module).data.test_dataloader())
        console = Console()
        if not console.is_terminal:
            self._lines, self._total, self._done = _Lines(), total, 0
            return
        self._progress = _bar(console)
        self._task = self._progress.add_task("images", total=total, numbers="")
        self._progress.start()

    def _within(self, done: int, total: int) -> None:
        """How far the batch at hand is."""
        if self._progress is not None:
            self._progress.update(self._task, numbers=f"{done / total:.0%} of these", refresh=True)
        if self._lines is not None:
            self._lines.tell(f"after {self._done:,} of {self._total:,} images, step", done, total)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if self._progress is not None:
            self._progress.update(self._task, advance=len(batch), numbers="", refresh=True)
        if self._lines is not None:
            self._done += len(batch)
            self._lines.tell("images", self._done, self._total)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()


class StepsDone(L.Callback):
    """Tells a heartbeat how far the training is.

    Args:
        heartbeat: whoever has a ``progress``.
    """

    def __init__(self, heartbeat: Any) -> None:
        self._heartbeat = heartbeat

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._heartbeat.progress = (trainer.global_step, _module(pl_module).plan.num_steps)


class _Lines:
    """How far something long is, as lines, so seldom that they fill no log.

    Args:
        screen: where they go; standard output if not given.
    """

    def __init__(self, screen: TextIO | None = None) -> None:
        self._screen = screen
        self._started = self._last = time.monotonic()

    def tell(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES or done == total:
            return
        self._last = now
        of = "" if total is None else f" of {total:,}"
        print(f"{what}: {done:,}{of}, {now - self._started:.0f} s", file=self._screen, flush=True)


@contextmanager
def parts_progress(screen: TextIO | None = None) -> Iterator[Told]:
    """A bar for the part at hand of a long computation, to be told of it; now and then a line where the screen is no terminal.

    Args:
        screen: where it is drawn; standard output if not given.
    """
    console = Console(file=screen)
    if not console.is_terminal:
        yield _Lines(screen).tell
        return
    part, task, next_refresh = "", TaskID(0), 0.0

    def tell(what: str, done: int, total: int | None) -> None:
        nonlocal part, task, next_refresh
        if what != part:
            if part:
                bar.remove_task(task)
            part, task = what, bar.add_task(what, total=total, numbers="")
        elif time.monotonic() < next_refresh:
            return
        next_refresh = time.monotonic() + SECONDS_BETWEEN
        bar.update(task, completed=done, total=total, refresh=True)

    with _bar(console) as bar:
        yield tell


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        auto_refresh=False,  # no thread that takes turns with the matrix products
    )


def _module(pl_module: L.LightningModule) -> VAEModule:
    assert isinstance(pl_module, VAEModule)
    return pl_module


def _numbers(latest: dict[str, float]) -> str:
    shown = []
    if "train/loss" in latest:
        shown.append(f"loss {latest['train/loss']:.2f}")
    if "val/elbo" in latest:
        shown.append(f"val/elbo {latest['val/elbo']:.2f}")
    if "time/images_per_second" in latest:
        shown.append(f"{latest['time/images_per_second']:,.0f} images/s")
    return "  ".join(shown)
