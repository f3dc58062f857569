"""A sweep at work: jobs come in, results come out, and what the folder has already is not made again."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vaelab.errors import RunFailed
from vaelab.runs import RunDirectory, Status, read_status
from vaelab.sweeps.claim import Claim
from vaelab.sweeps.found import Found, FoundRuns, make_room
from vaelab.sweeps.job import Job, Place
from vaelab.sweeps.record import Entry, Record
from vaelab.sweeps.workers import Ended, Process, Run, Workers

REFUSED, RESUME_ME = 2, 75  # exit statuses of vae-train
OUTPUT = ".output"  # folder of what processes print; hidden, so that it is not searched for runs
SECONDS_BETWEEN = 1.0  # two looks at jobs that another process has in hand
#: what a full disk says, to this process or to a job: every further job would end by it
FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))


@dataclass(frozen=True)
class Commands:
    """The commands of one run, without its arguments: to make it, and to go on with it; and variables of both."""

    train: tuple[str, ...]
    resume: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """How a job stands now that nothing more is done about it.

    Attributes:
        job: the job.
        status: completed, failed, refused, interrupted or pruned.
        run: its directory; None where it has made none.
        score: of the selected checkpoint, or the last one of a run that was pruned; None without validation, and of what came to no end of its own.
        error: why it is not complete, in one line.
        seconds: that its process took; None where none was started.
    """

    job: Job
    status: str
    run: Path | None = None
    score: float | None = None
    error: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class _InHand:
    """A job whose process has been started."""

    job: Job
    claim: Claim
    directory: Path
    resumed: bool


class Sweep:
    """Jobs are submitted, run in processes of their own, and collected.

    A grid submits all of them at once. A search asks :attr:`free`, submits so many, collects, and tells its sampler: so a free slot has the next trial at once.
    A job that has been completed in the folder is not run again; one that was interrupted, or whose process is gone, is resumed; one that failed is tried
    again ``retry`` times; one that another process has in hand is waited for.

    Args:
        folder: of the sweep.
        commands: of one run.
        workers: who carries the jobs out.
        retry: how often a job that failed is tried again.
        argv, overrides: of this start, for the record.

    Attributes:
        results: all that have been collected.
    """

    def __init__(
        self,
        folder: Path,
        commands: Commands,
        workers: Workers,
        retry: int,
        argv: Sequence[str] = (),
        overrides: Sequence[str] = (),
    ) -> None:
        self.folder, self.commands, self.retry = folder.absolute(), commands, retry
        self.workers = workers
        self.record = Record(self.folder, argv, overrides)
        self._earlier = self.record.earlier()
        self._runs = FoundRuns(self.folder)
        self._waiting: deque[Job] = deque()
        self._elsewhere: dict[str, Job] = {}  # in another process's hands
        self._in_hand: dict[str, _InHand] = {}
        self._ready: list[Result] = []
        self.results: list[Result] = []
        self._stopped = False
        self._cannot_write: str | None = None  # why no other job is begun
        self._next_look = 0.0

    @property
    def free(self) -> int:
        """Jobs that would be started at once."""
        return self.workers.free - len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether there is something to be collected, now or later."""
        return bool(self._waiting or self._elsewhere or self._in_hand or self._ready)

    @property
    def running(self) -> list[tuple[Job, Path, float]]:
        """The jobs whose processes run here, with their run directories and for how many seconds."""
        seconds = self.workers.running
        return [
            (one.job, one.directory, seconds[key]) for key, one in self._in_hand.items() if key in seconds
        ]

    def others(self, jobs: Sequence[Job]) -> list[str]:
        """The names of the jobs on record that are none of these."""
        asked = {job.identity for job in jobs}
        return [entry.name for entry in self._earlier.values() if entry.id not in asked]

    @property
    def in_hand(self) -> int:
        """How many jobs are to be collected from those who carry them out; some may wait there."""
        return len(self._in_hand)

    @property
    def elsewhere(self) -> list[Job]:
        """The jobs that another process has in hand."""
        return list(self._elsewhere.values())

    def submit(self, job: Job) -> None:
        """Have a job run, or found: its result is collected in either case."""
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = self._earlier.get(job.identity)
        self.record.mine[job.identity] = Entry(
            job.identity,
            job.name,
            list(job.overrides),
            dict(job.swept),
            job.directory if earlier is None else earlier.run,
            tries=0 if earlier is None else earlier.tries,
        )
        done = self._done(job, self._runs.of(job.identity))
        if done is None:
            self._waiting.append(job)
        else:
            self._conclude(done)

    def collect(self, timeout: float = 0.0) -> list[Result]:
        """The results that have come in since the last call; waits for one, up to ``timeout`` seconds.

        Raises:
            RunFailed: jobs wait, and nothing more can be written. Those that ran have ended, and their results have been collected.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._begin()
            self._look_elsewhere()
            left = deadline - time.monotonic()
            if self._ready or left <= 0 or not self.busy or self._is_held_up:
                break
            if not self._in_hand:  # all are in the hands of others
                time.sleep(min(SECONDS_BETWEEN, left))
            for ended in self.workers.collect(min(SECONDS_BETWEEN, left)):
                self._conclude(self._result(self._in_hand.pop(ended.key), ended))
        ready, self._ready = self._ready, []
        self.results += ready
        if self._is_held_up and not ready:
            jobs = "1 job was" if len(self._waiting) == 1 else f"{len(self._waiting)} jobs were"
            raise RunFailed(
                f"{self._cannot_write}; {jobs} not begun: the same command goes on with the sweep"
            )
        return ready

    def stop(self, signum: int | None = signal.SIGINT) -> int:
        """Begin no other job, and ask those that run to save and stop. Returns how many are not asked, and go on.

        Those that outlive this process are only stopped by a Ctrl-C, which a person means for them. Any other signal is for this process (its terminal is gone, its
        machine goes down): they go on, and the same command finds them.
        """
        self._stopped = True
        self._waiting.clear()
        self._elsewhere.clear()
        if not self.workers.outlives or signum == signal.SIGINT:
            self.workers.tell()
            return 0
        left = len(self._in_hand)
        self.workers.leave()
        self._let_go()
        return left

    def close(self) -> None:
        """Kill what still runs; what outlives this process goes on, unless it was asked to stop."""
        self.workers.close()
        self._let_go()
        if self.record.mine:
            self._write()

    def _let_go(self) -> None:
        for one in self._in_hand.values():
            one.claim.release()
        self._in_hand.clear()

    @property
    def _is_held_up(self) -> bool:
        """Whether the jobs that wait are all that is left, and cannot be begun."""
        return self._cannot_write is not None and bool(self._waiting) and not self._in_hand

    def _begin(self) -> None:
        """Begin with the jobs that wait, for as long as there is a slot."""
        while self._waiting and self.workers.free > 0 and self._cannot_write is None:
            job = self._waiting[0]
            try:
                claim = Claim.take(self.folder, job.identity)
            except OSError as error:
                return self._hold(error)
            if claim is not None and self.workers.adopt(job.identity, self._output(job)):
                self._adopted(self._waiting.popleft(), claim)
                continue
            if claim is None or any(found.live for found in self._runs.of(job.identity)):
                if claim is not None:
                    claim.release()
                self._elsewhere[job.identity] = self._waiting.popleft()
                self._note(job, "running")
                continue
            entry = replace(self.record.mine[job.identity])
            try:
                done = self._start(job, claim)
            except OSError as error:  # no process has been started
                claim.release()
                self.record.mine[job.identity] = entry
                return self._hold(error)
            self._waiting.popleft()
            if done is not None:
                claim.release()
                self._conclude(done)

    def _start(self, job: Job, claim: Claim) -> Result | None:
        """Start the process that a job needs. Returns its result if it needs none."""
        runs = self._runs.of(job.identity)
        done = self._done(job, runs)  # it may have been waiting for hours
        if done is not None:
            return done
        entry = self.record.mine[job.identity]
        begun = [one for one in runs if one.status is not Status.FAILED]
        if begun:  # interrupted, or its process is gone
            directory = max(begun, key=lambda one: one.record.updated).run.path
            argv, environment = (*self.commands.resume, str(directory)), {}
            run = Run(job.name, job.config, directory=directory)
        else:
            directory = self.folder / job.directory
            make_room(directory)
            argv = (*self.commands.train, *job.flags, *job.overrides)
            place = Place(self.folder, directory.name, {"name": self.folder.name, "swept": dict(job.swept)})
            environment, run = place.variables(), None
            if job.request is not None:
                run = Run(job.name, job.config, place.asked(job.request, argv))
            entry.tries += 1
        entry.run, entry.status = directory.name, "running"
        self.record.write()  # a try counts, though this process be killed
        self.workers.submit(
            Process(
                job.identity,
                argv,
                {**self.commands.environment, **job.environment, **environment},
                self._output(job),
                (claim.descriptor,),
                run,
            )
        )
        self._in_hand[job.identity] = _InHand(job, claim, directory, bool(begun))
        return None

    def _adopted(self, job: Job, claim: Claim) -> None:
        """Go on with a process that an earlier start of this sweep has submitted."""
        begun = [one for one in self._runs.of(job.identity) if one.status is not Status.FAILED]
        directory = self.folder / self.record.mine[job.identity].run
        if begun:
            directory = max(begun, key=lambda one: one.record.updated).run.path
        self._note(job, "running")
        self._in_hand[job.identity] = _InHand(job, claim, directory, bool(begun))

    def _done(self, job: Job, runs: Sequence[Found]) -> Result | None:
        """What comes of a job for which nothing is left to do."""
        for wanted in (Status.COMPLETED, Status.PRUNED):
            for one in runs:
                if one.status is wanted:
                    return Result(job, wanted.value, one.run.path, one.score, one.record.error)
        if any(one.status is not Status.FAILED for one in runs):
            return None
        earlier = self._earlier.get(job.identity)
        if runs:
            if len(runs) <= self.retry:
                return None
            last = max(runs, key=lambda one: one.record.updated)
            return Result(job, "failed", last.run.path, error=self._no_more(last.record.error, len(runs)))
        if earlier is not None and earlier.status == "refused":
            return Result(job, "refused", error=earlier.error)
        if earlier is not None and earlier.status == "failed" and earlier.tries > self.retry:
            return Result(job, "failed", error=self._no_more(earlier.error, earlier.tries))
        return None

    def _no_more(self, error: str | None, tries: int) -> str:
        times = "once" if tries == 1 else f"{tries} times"
        return f"{error or 'failed'} (tried {times}; no more with sweep.retry={self.retry})"

    def _result(self, one: _InHand, ended: Ended) -> Result | None:
        """What a process that has ended leaves of its job; None where the run is another process's."""
        one.claim.release()
        run = RunDirectory(one.directory)
        record = read_status(run.status_file) if run.status_file.is_file() else None
        told = record is not None and record.pid == ended.pid  # else by an earlier process, or another
        if ended.exit_status == REFUSED and not told:
            if run.path.is_dir() and not one.resumed:
                self._elsewhere[one.job.identity] = one.job
                return None
            message = (ended.cause or "").partition(": ")[2]
            status = "failed" if _is_full(message) else "refused"
            return Result(one.job, status, error=message, seconds=ended.seconds)
        path = run.path if record is not None else None
        if record is not None and told and record.status is not Status.RUNNING:
            found = Found(run, record)
            score = found.score if record.status in (Status.COMPLETED, Status.PRUNED) else None
            return Result(one.job, record.status.value, path, score, record.error, ended.seconds)
        if self._stopped:
            return Result(one.job, "interrupted", path, error="stopped", seconds=ended.seconds)
        if ended.exit_status == RESUME_ME:  # it had no time to say so itself
            return Result(one.job, "interrupted", path, error=ended.cause, seconds=ended.seconds)
        return Result(one.job, "failed", path, error=ended.cause, seconds=ended.seconds)

    def _conclude(self, result: Result | None) -> None:
        if result is None:
            return
        self._ready.append(result)
        entry = self.record.mine[result.job.identity]
        entry.error, entry.seconds = result.error, result.seconds
        entry.run = entry.run if result.run is None else result.run.name
        if result.status in ("completed", "pruned"):
            with contextlib.suppress(OSError):  # a disk that is read-only by now
                self._output(result.job).unlink(missing_ok=True)  # console.log has it
        self._note(result.job, result.status)
        if result.seconds is not None and _is_full(result.error):
            self._cannot_write = f"{result.job.name} failed: {result.error}"

    def _note(self, job: Job, status: str) -> None:
        self.record.mine[job.identity].status = status
        self._write(now=False)

    def _write(self, *, now: bool = True) -> None:
        try:
            self.record.write(now=now)
        except OSError as error:
            self._hold(error)

    def _hold(self, error: OSError) -> None:
        """Begin no other job: each would end by it, and use up a try."""
        file = Path(error.filename2 or error.filename or self.folder)
        where = file.parent if file.suffix == ".tmp" else file  # temporary files have odd names
        self._cannot_write = f"{where}: {error.strerror or error}"

    def _look_elsewhere(self) -> None:
        """See to the jobs that another process had in hand: it has let go of some."""
        if not self._elsewhere or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + SECONDS_BETWEEN
        for identity, job in list(self._elsewhere.items()):
            claim = Claim.take(self.folder, identity)
            if claim is None:
                continue
            claim.release()
            if not any(found.live for found in self._runs.of(identity)):
                del self._elsewhere[identity]
                self._waiting.appendleft(job)

    def _output(self, job: Job) -> Path:
        return self.folder / OUTPUT / f"{job.directory}.txt"


def _is_full(error: str | None) -> bool:
    """Whether a disk's being full is what ended a job."""
    return error is not None and any(reason in error for reason in FULL)
