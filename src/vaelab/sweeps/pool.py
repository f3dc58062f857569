"""Processes, as many at a time as there are slots."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaelab.sweeps.slots import Slots
from vaelab.sweeps.workers import Ended, MakeWorkers, Process

POLL = 0.05  # seconds between two looks at the processes
PR_SET_PDEATHSIG = 1
TAIL = 4096  # bytes of a process's output that are searched for its last words


@dataclass(frozen=True)
class _Running:
    process: Process
    popen: subprocess.Popen[bytes]
    started: float


class Pool:
    """A free slot takes the next process that was submitted.

    Each is the first of a session of its own, so that a terminal's Ctrl-C reaches it only through :meth:`tell`, and what it has started itself ends with it.
    On Linux it is told by SIGTERM when this process is gone, however that came about.

    Args:
        slots: of this machine.
    """

    outlives = False

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self._waiting: deque[Process] = deque()
        self._running: dict[int, _Running] = {}  # by slot

    @classmethod
    def makes(cls, number: int | None = None, threads: int | None = None) -> MakeWorkers:
        """One with so many slots of this machine, as :meth:`Slots.here` counts them."""
        return lambda with_gpus, processes: cls(
            Slots.here(number, threads, with_gpus=with_gpus, processes=processes)
        )

    def __str__(self) -> str:
        return str(self.slots)

    @property
    def free(self) -> int:
        """Slots for which nothing has been submitted."""
        return self.slots.number - len(self._running) - len(self._waiting)

    @property
    def running(self) -> dict[Any, float]:
        """The keys of those that run, and for how many seconds."""
        return {one.process.key: time.monotonic() - one.started for one in self._running.values()}

    @property
    def busy(self) -> bool:
        """Whether something is still to be collected."""
        return bool(self._running or self._waiting)

    def adopt(self, key: Any, output: Path) -> bool:
        """Never: processes of an earlier pool have ended with it."""
        return False

    def submit(self, process: Process) -> None:
        """Start a process in a free slot, or as soon as there is one. Whoever has others to submit asks :attr:`free` first."""
        self._waiting.append(process)
        self._start()

    def collect(self, timeout: float = 0.0) -> list[Ended]:
        """Those that have ended since the last call; waits for one, up to ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not (ended := self._ended()) and self._running:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(POLL, left))
        self._start()
        return ended

    def tell(self, signum: int = signal.SIGTERM) -> None:
        """Send every process a signal, and start no other: those that wait are forgotten."""
        self._waiting.clear()
        for one in self._running.values():
            if one.popen.poll() is None:
                one.popen.send_signal(signum)

    def leave(self) -> None:
        """As :meth:`close`."""
        self.close()

    def close(self) -> None:
        """Kill what still runs, with all that it has started."""
        self._waiting.clear()
        for one in self._running.values():
            _kill_session(one.popen.pid)
            one.popen.wait()
        self._running.clear()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        for slot in range(self.slots.number):
            if slot not in self._running and self._waiting:
                self._running[slot] = self._begin(self._waiting.popleft(), slot)

    def _begin(self, process: Process, slot: int) -> _Running:
        environment = {**os.environ, **self.slots.environment(slot), **process.environment}
        output = None
        if process.output is not None:
            process.output.parent.mkdir(parents=True, exist_ok=True)
            output = process.output.open("wb")
        try:
            popen = subprocess.Popen(
                process.argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                start_new_session=True,
                pass_fds=process.keep,
                preexec_fn=dies_with(os.getpid()),
            )
        finally:
            if output is not None:
                output.close()
        return _Running(process, popen, time.monotonic())

    def _ended(self) -> list[Ended]:
        found = []
        for slot, one in list(self._running.items()):
            status = one.popen.poll()
            if status is None:
                continue
            del self._running[slot]
            if status < 0:  # other ranks wait for ever for one that was killed
                _kill_session(one.popen.pid)
            cause = _cause(status, last_line(one.process.output))
            seconds = time.monotonic() - one.started
            found.append(Ended(one.process.key, one.popen.pid, status, seconds, cause))
        return found


def last_line(output: Path | None) -> str:
    """The last line that a process has printed; empty where it has none, or printed elsewhere."""
    if output is None or not output.is_file():
        return ""
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    return next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "")


def _cause(status: int, last: str) -> str | None:
    if status == 0:
        return None
    if status < 0:
        name = signal.Signals(-status).name if -status in {*signal.Signals} else f"signal {-status}"
        if name == "SIGKILL":
            return "killed by SIGKILL (out of memory?)"
        return f"killed by {name}" + (f": {last}" if last else "")
    return last or f"exit status {status}"


def _kill_session(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # nothing of it is left
        os.killpg(leader, signal.SIGKILL)


def dies_with(parent: int) -> Any:
    """What a new process does before its program: ask the kernel for SIGTERM when ``parent`` is gone. None where no kernel can do that."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: after a fork nothing should be loaded

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it was gone before that
            os.kill(os.getpid(), signal.SIGTERM)

    return ask
