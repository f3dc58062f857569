"""Processes that carry out several jobs at a time each, where these can be trained together; the others have one each."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vaelab.experiments.request import Request
from vaelab.sweeps.job import PLACE
from vaelab.sweeps.pool import Pool
from vaelab.sweeps.search.trial import TRIAL
from vaelab.sweeps.slots import Slots
from vaelab.sweeps.stacking import in_stacks, likeness, why_not
from vaelab.sweeps.workers import Ended, MakeWorkers, Process, Run

#: members of a stack, at most: what a process shares among them is little by then, and one that is lost loses no more
LARGEST = 64
POLL = 0.2  # seconds between two looks at what has come of the members


@dataclass
class _Stack:
    """Several processes that are one.

    Attributes:
        members: as they were submitted.
        task: the file that tells the process what to do.
        started: when.
        ended: which of the members have.
    """

    members: list[Process]
    task: Path
    started: float
    ended: set[int] = field(default_factory=set)

    @property
    def results(self) -> Path:
        return results_file(self.task)


def results_file(task: Path) -> Path:
    """Where a process says what has come of its members, a line each as they end."""
    return task.with_suffix(".ended")


class Stacks:
    """What is submitted is held until the next look at what has ended; then those that can be trained together are shared out between the free slots.

    Args:
        slots: of this machine.
        largest: how many jobs a process has at most.
    """

    outlives = False

    def __init__(self, slots: Slots, largest: int = LARGEST) -> None:
        self.pool, self.largest = Pool(slots), largest
        self._held: list[Process] = []
        self._alone = 0  # of those that are held
        self._stacks: dict[Any, _Stack] = {}  # by the key of their process
        self._number = itertools.count(1)
        self._said: set[str] = set()

    @classmethod
    def makes(
        cls, number: int | None = None, threads: int | None = None, largest: int | None = None
    ) -> MakeWorkers:
        """With so many slots of this machine, as :meth:`vaelab.sweeps.slots.Slots.here` counts them."""
        return lambda with_gpus, processes: cls(
            Slots.here(number, threads, with_gpus=with_gpus, processes=processes), largest or LARGEST
        )

    def __str__(self) -> str:
        return f"in stacks of up to {self.largest}, {self.pool}"

    @property
    def free(self) -> int:
        """Jobs that would be started at once."""
        stacked = len(self._held) - self._alone
        return max(0, (self._slots - self._alone) * self.largest - stacked)

    @property
    def _slots(self) -> int:
        """Those that are free, or in a moment: the process of a stack ends when its last member has."""
        ending = sum(len(stack.ended) == len(stack.members) for stack in self._stacks.values())
        return self.pool.free + ending

    @property
    def running(self) -> dict[Any, float]:
        """The keys of those that run, and for how many seconds."""
        found = {}
        for key, seconds in self.pool.running.items():
            stack = self._stacks.get(key)
            if stack is None:
                found[key] = seconds
            else:
                found |= {
                    one.key: seconds for place, one in enumerate(stack.members) if place not in stack.ended
                }
        return found

    @property
    def busy(self) -> bool:
        """Whether something is still to be collected."""
        return bool(self._held or self.pool.busy)

    def adopt(self, key: Any, output: Path) -> bool:
        """Never: processes of an earlier start have ended with it."""
        return False

    def submit(self, process: Process) -> None:
        """Have a process run, perhaps as a part of another one."""
        self._held.append(process)
        self._alone += _reason(process) is not None

    def collect(self, timeout: float = 0.0) -> list[Ended]:
        """Those that have ended since the last call; waits for one, up to ``timeout`` seconds."""
        self._start()
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            ended = [one for key in self._stacks for one in self._members(key)]
            for process in self.pool.collect(max(0.0, min(POLL, left))):
                ended += self._whole(process)
            if ended or left <= 0 or not self.pool.busy:
                return ended

    def tell(self, signum: int = signal.SIGTERM) -> None:
        """Send every process a signal, and start no other: those that wait are forgotten."""
        self._forget_held()
        self.pool.tell(signum)

    def leave(self) -> None:
        """As :meth:`close`."""
        self.close()

    def close(self) -> None:
        """Kill what still runs, with all that it has started."""
        self._forget_held()
        self.pool.close()
        for stack in self._stacks.values():
            _remove(stack, but_output=len(stack.ended) < len(stack.members))
        self._stacks.clear()

    def _forget_held(self) -> None:
        self._held.clear()
        self._alone = 0

    def _start(self) -> None:
        """Hand what is held to the pool."""
        alike: dict[str, list[Process]] = {}
        alone: list[Process] = []
        for process in self._held:
            if (reason := _reason(process)) is not None:
                self._say(f"not stacked: {reason}")
                alone.append(process)
            else:
                assert process.run is not None
                alike.setdefault(likeness(process.run.config), []).append(process)
        self._forget_held()
        slots = max(1, self._slots - len(alone))
        stacks = [
            stack
            for group in alike.values()
            for stack in in_stacks(group, max(1, slots // len(alike)), self.largest)
        ]
        for stack in sorted(stacks, key=len, reverse=True):
            if len(stack) > 1:
                self._submit(stack)
                continue
            (one,) = stack
            alone.append(one)
        for group in alike.values():
            assert group[0].run is not None
            if len(group) == 1:
                self._say(f"not stacked: {group[0].run.name} has no other job like it")
        for process in alone:
            self.pool.submit(process)

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            print(text, flush=True)

    def _submit(self, members: list[Process]) -> None:
        first = members[0]
        assert first.output is not None
        name = f"stack_{os.getpid()}_{next(self._number)}"
        task = first.output.with_name(f"{name}.json")
        task.parent.mkdir(parents=True, exist_ok=True)
        runs = [told(one.run) for one in members if one.run is not None]
        with os.fdopen(os.open(task, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"members": runs}, file)
        process = Process(
            ("stack", name),
            (sys.executable, "-m", "vaelab.commands.stack", str(task)),
            {key: value for key, value in first.environment.items() if key != PLACE},
            task.with_suffix(".txt"),
            tuple(descriptor for one in members for descriptor in one.keep),
        )
        self._stacks[process.key] = _Stack(members, task, time.monotonic())
        self.pool.submit(process)

    def _members(self, key: Any) -> list[Ended]:
        """Those of a stack that have ended since the last look."""
        stack, found = self._stacks[key], []
        if not stack.results.is_file():
            return found
        for line in stack.results.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n"):  # still being written
                break
            said = json.loads(line)
            if said["member"] in stack.ended:
                continue
            stack.ended.add(said["member"])
            member = stack.members[said["member"]]
            cause = None if said["cause"] is None else f"vae-train: {said['cause']}"
            found.append(Ended(member.key, said["pid"], said["exit_status"], said["seconds"], cause))
        return found

    def _whole(self, process: Ended) -> list[Ended]:
        """Those that ended with a process."""
        if process.key not in self._stacks:
            return [process]
        found = self._members(process.key)
        stack = self._stacks.pop(process.key)
        for place, one in enumerate(stack.members):
            if place not in stack.ended:
                found.append(replace(process, key=one.key))
        _remove(stack, but_output=process.exit_status != 0)
        return found


def _remove(stack: _Stack, *, but_output: bool) -> None:
    for path in (stack.task, stack.results, *([] if but_output else [stack.task.with_suffix(".txt")])):
        path.unlink(missing_ok=True)


def _reason(process: Process) -> str | None:
    """Why a process cannot be a part of another one."""
    if TRIAL in process.environment:
        return "a search with a pruner asks each run by itself"
    if process.run is None or process.output is None:
        return "only runs can be stacked"
    return why_not(process.run.config)


def told(run: Run) -> dict[str, Any]:
    """A run in words that a file takes."""
    request = None if run.request is None else asdict(run.request)
    if request is not None:
        request = {key: str(value) if isinstance(value, Path) else value for key, value in request.items()}
    directory = None if run.directory is None else str(run.directory)
    return {"config": dict(run.config), "request": request, "directory": directory}


def heard(told: Mapping[str, Any]) -> tuple[dict[str, Any], Request | None, Path | None]:
    """What :func:`told` has said: configuration, request, directory."""
    request, directory = told["request"], told["directory"]
    if request is not None:
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in request.items()
        }
        for key in ("parent", "note"):
            given[key] = None if given[key] is None else Path(given[key])
        request = Request(**given)
    return dict(told["config"]), request, None if directory is None else Path(directory)
