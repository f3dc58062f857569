"""What a person sees of a sweep: jobs as they end, those that run, and all of them in the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vaelab.errors import SettingError
from vaelab.runs import RunDirectory, read_status
from vaelab.sweeps.sweep import Result, Sweep

T = TypeVar("T")

ENDS = ("completed", "pruned", "interrupted", "failed", "refused")
SECONDS_BETWEEN = 1.0  # two looks at how far the jobs are
PATIENCE = 1.0  # seconds without a word


class Screen:
    """Within, each job that ends is a line; on a terminal those that run are a table below.

    Args:
        sweep: that is looked at.
        score: what the number of a job is called.
        total: of the jobs.
    """

    def __init__(self, sweep: Sweep, score: str, total: int) -> None:
        self.sweep, self.score, self.total = sweep, score, total
        self.console = Console(soft_wrap=True, highlight=False)
        self._ended: Counter[str] = Counter()
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._next = 0.0

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def ended(self, result: Result, remark: str = "") -> None:
        """Say how a job has ended, and what is remarkable about it."""
        self._ended[result.status] += 1
        number = f"{self._ended.total():>{len(str(self.total))}}/{self.total}"
        words = [f"{result.status:<9}" if result.error is None else f"{result.status}: {result.error}"]
        if result.score is not None:
            words.append(f"{self.score} {result.score:.6g}")
        words.append("was there already" if result.seconds is None else clock(result.seconds))
        words += [remark] if remark else []
        self.console.print(Text(f"{number}  {result.job.name}  {'  '.join(words)}"))

    def stopping(self, left: int) -> None:
        """Say that the jobs that run have been asked to stop, or that so many are left to go on."""
        if left:
            self.say(f"{'1 job' if left == 1 else f'{left} jobs'} will go on; the same command finds them")
        elif number := len(self.sweep.running):
            jobs_are = "1 job is" if number == 1 else f"{number} jobs are"
            self.say(f"stopping: {jobs_are} saving (Ctrl-C again kills)")

    def say(self, text: str) -> None:
        self.console.print(Text(text))

    def refresh(self) -> None:
        """Show those that run, not more often than once a second."""
        if not self.console.is_terminal or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS_BETWEEN
        self._live.update(self._table(), refresh=True)

    def _table(self) -> Group:
        table = Table("job", "status", "progress", "time", box=None, padding=(0, 2, 0, 0))
        room = max(3, self.console.height - 4)
        running = self.sweep.running
        for job, directory, seconds in running[:room]:
            table.add_row(job.name, "running", progress(directory), clock(seconds))
        for job in self.sweep.elsewhere[: max(0, room - len(running))]:
            table.add_row(
                job.name, "in the hands of another process", progress(self.sweep.folder / job.directory), ""
            )
        waiting = self.total - self._ended.total() - len(running) - len(self.sweep.elsewhere)
        queued = self.sweep.in_hand - len(running)
        counts = [f"{number} {status}" for status, number in self._ended.items()]
        counts += [
            f"{len(running)} running",
            f"{waiting} waiting" + (f" ({queued} in the queue)" if queued else ""),
        ]
        return Group(table, Text(" · ".join(counts)))


def watched(items: Sequence[T], doing: str) -> Iterator[T]:
    """The items, one by one; on a terminal beside a bar, once they have taken long."""
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(doing, total=len(items))
    begun = time.monotonic()
    try:
        for item in items:
            if console.is_terminal and not bar.live.is_started and time.monotonic() - begun > PATIENCE:
                bar.start()
            yield item
            bar.advance(task)
    finally:
        if bar.live.is_started:
            bar.stop()


def summary(results: Sequence[Result], score: str, mode: str) -> list[str]:
    """A line a job: those that completed first, the best one first, then the others with why they have no number; one that was pruned has its last."""

    def rank(result: Result) -> tuple[bool, float, str]:
        number = _final(result)
        return (
            number is None,
            0.0 if number is None else number if mode == "min" else -number,
            result.job.name,
        )

    rows = []
    for result in sorted(results, key=rank):
        final = _final(result)
        last = f"{score} {result.score:.6g}" if result.score is not None and final is None else ""
        word = result.status if final is None else f"{final:.6g}"
        rows.append((word, result.job.name, "  ".join(filter(None, (result.error, last)))))
    left, middle = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    left = max(left, len(score))
    lines = [f"{score:>{left}}  job"]
    return lines + [f"{word:>{left}}  {name:<{middle}}  {error}".rstrip() for word, name, error in rows]


def _final(result: Result) -> float | None:
    """The number of a job that can be compared with others': not the last one of a run that was pruned early."""
    return None if result.status == "pruned" else result.score


def counted(results: Sequence[Result]) -> str:
    """``21 completed, 3 failed``."""
    number = Counter(result.status for result in results)
    return ", ".join(f"{number[status]} {status}" for status in ENDS if number[status]) or "no job"


def progress(directory: Path) -> str:
    """How far a run is, from its last sign of life; empty before that."""
    try:
        done = read_status(RunDirectory(directory).status_file).progress
    except SettingError:
        return ""
    return "" if done is None else f"step {done[0]} of {done[1]}"


def clock(seconds: float) -> str:
    """
    >>> clock(8.4), clock(75), clock(3725)
    ('8 s', '1:15', '1:02:05')
    """
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if whole < 60:
        return f"{whole} s"
    return f"{minutes}:{whole % 60:02d}" if not hours else f"{hours}:{minutes % 60:02d}:{whole % 60:02d}"
