"""Whoever carries out the processes of jobs: this machine (:class:`vaelab.sweeps.pool.Pool`), or others that are asked for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol


@dataclass(frozen=True)
class Run:
    """A run of a sweep, as its command would make it.

    Attributes:
        name: of its job.
        config: resolved, primitives only.
        request: how it is asked for (:class:`vaelab.experiments.request.Request`), of a new one.
        directory: of one that is gone on with.
    """

    name: str
    config: Mapping[str, Any]
    request: Any = None
    directory: Path | None = None


@dataclass(frozen=True)
class Process:
    """One that is to be started.

    Attributes:
        key: by which whoever collects it knows it.
        argv: the command.
        environment: variables beside those of this process and of the slot.
        output: the file that takes what it prints; None = it prints where this process does.
        keep: file descriptors that stay open in it.
        run: what it makes, for who has several made by one process; None = nothing that could be.
    """

    key: Any
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    output: Path | None = None
    keep: tuple[int, ...] = ()
    run: Run | None = None


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        key: of its :class:`Process`.
        pid: that it had.
        exit_status: as a shell gives it, or minus the signal that killed it.
        seconds: that it took.
        cause: why it did not end well, in one line; None where it did.
    """

    key: Any
    pid: int
    exit_status: int
    seconds: float
    cause: str | None


class Workers(Protocol):
    """Processes are submitted, and collected when they have ended. Its text says in words how many there is room for: ``2 at a time, 1 thread each``."""

    @property
    def outlives(self) -> bool:
        """Whether the processes go on when this one is gone, on other machines perhaps: what they write has to lie where those see it."""
        ...

    @property
    def free(self) -> int:
        """How many more processes would be started at once."""
        ...

    @property
    def running(self) -> dict[Any, float]:
        """The keys of those that run, and for how many seconds."""
        ...

    @property
    def busy(self) -> bool:
        """Whether something has been submitted that is still to be collected."""
        ...

    def adopt(self, key: Any, output: Path) -> bool:
        """Take in hand the process of this key and output that an earlier process has submitted, if it is still to end: it is collected as if it had been submitted here."""
        ...

    def submit(self, process: Process) -> None:
        """Have a process run, at once or as soon as there is room for it."""
        ...

    def collect(self, timeout: float = 0.0) -> list[Ended]:
        """Those that have ended since the last call; waits for one, up to ``timeout`` seconds."""
        ...

    def tell(self) -> None:
        """Ask every process to save and stop (SIGTERM), and start no other: those that wait are forgotten."""
        ...

    def leave(self) -> None:
        """Let the processes go on without this one, where they outlive it."""
        ...

    def close(self) -> None:
        """Kill what still runs; of what outlives this process, only what was told to stop."""
        ...


def jobs_folder(workers: Workers) -> TemporaryDirectory[str]:
    """A folder for what jobs without run directories leave behind: in the current directory, where other machines may have to see it."""
    if workers.outlives:
        return TemporaryDirectory(prefix=".vaelab-jobs-", dir=Path.cwd())
    return TemporaryDirectory(prefix="vaelab-jobs-")


#: workers for jobs that may compute on GPUs (or not), and have so many processes each
MakeWorkers = Callable[[bool, int], Workers]
