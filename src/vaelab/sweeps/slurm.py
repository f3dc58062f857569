"""Processes of jobs as Slurm jobs. They go on though whoever submitted them is gone, and are found again by whoever asks for the same."""

from __future__ import annotations

import hashlib
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError

from vaelab.errors import SettingError, integer
from vaelab.sweeps import slurm_queue as queue
from vaelab.sweeps.pool import last_line
from vaelab.sweeps.slots import THREADS
from vaelab.sweeps.slurm_job import RESUME_ME, Command, JobFiles, after
from vaelab.sweeps.slurm_queue import ACTIVE, Listed, SlurmError
from vaelab.sweeps.workers import Ended, MakeWorkers, Process

POLL = 0.5  # seconds between two looks at the files of jobs
ASK = 10.0  # seconds between two questions to Slurm, which answers everybody on the cluster
#: seconds for which a job's own word is waited for once Slurm says that it has ended, and Slurm's once the job has said that it ended badly
PATIENCE = 20.0
#: jobs in the queue at a time. Many clusters limit how many one person may have there, and the order among them is the queue's business: more would only make
#: it longer
SLOTS = 64
REFUSED = 2
FOLDER = "slurm"  # beside the files of output

#: what ended a job that is to go on
AGAIN = ("TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE")
CAUSES = {
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "the time of the job was over before it had saved",
    "NODE_FAIL": "the node failed",
    "BOOT_FAIL": "the node did not start",
    "PREEMPTED": "preempted",
    "CANCELLED": "cancelled (scancel)",
    "DEADLINE": "the deadline of the job was reached",
}
#: reasons of jobs that wait for a person
STUCK = ("held", "JobHeld", "BadConstraints", "NeverSatisfied")


@dataclass(frozen=True)
class SlurmSettings:
    """What each job asks Slurm for, under the names that ``sbatch`` has for it; None = whatever the cluster gives."""

    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    timeout_min: int = 60
    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int | None = None
    gpus_per_node: int | str | None = None
    mem_gb: float | None = None
    constraint: str | None = None
    exclude: str | None = None
    comment: str | None = None
    setup: Sequence[str] = ()
    additional_parameters: Mapping[str, Any] | None = None
    signal_delay_s: int = 120
    max_num_timeout: int = 10
    slots: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("timeout_min", "nodes", "tasks_per_node", "cpus_per_task", "slots", "threads"):
            value = getattr(self, name)
            if value is not None:
                integer(f"hydra.launcher.{name}", value, 1)
        for name in ("signal_delay_s", "max_num_timeout"):
            integer(f"hydra.launcher.{name}", getattr(self, name), 0)
        memory = self.mem_gb
        if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int | float) or memory <= 0):  # fmt: skip
            raise SettingError("hydra.launcher.mem_gb", memory, "must be a number > 0")
        if not isinstance(self.setup, Sequence) or isinstance(self.setup, str):
            raise SettingError("hydra.launcher.setup", self.setup, "must be a list of shell lines")

    def cpus(self, processes: int) -> int:
        """Of each task, of which a job of so many processes has ``processes`` over the tasks of a node."""
        return self.cpus_per_task or (self.threads or 1) * self.of_a_task(processes)

    def of_a_task(self, processes: int) -> int:
        """Processes that each task has: those that are no tasks themselves are started by the task."""
        return max(1, processes // self.tasks_per_node)


@dataclass
class _Job:
    """One that has been submitted."""

    id: str
    key: Any
    output: Path
    files: JobFiles
    told: bool = False  # that it is to save and stop
    since: float | None = None  # first seen without one of the two words that say how it ended
    running: float | None = None  # first seen running
    stuck: bool = False  # which has been said


class SlurmWorkers:
    """As many jobs in the queue at a time as there are slots.

    A job's own files say that it has ended, and Slurm how, where it did not end well. Whether it is still to come, or runs, Slurm alone knows: a job is known by its
    name, which hangs on the process's key and on where its output goes, so that no second one is submitted for it while the first is in the queue.

    Args:
        settings: of the jobs.
        processes: of each job.

    Raises:
        SettingError: there is no Slurm here, or it would not take such a job.
    """

    outlives = True

    def __init__(self, settings: SlurmSettings, processes: int = 1) -> None:
        self.settings, self._processes = settings, processes
        queue.require()
        self._slots = settings.slots or SLOTS
        self._waiting: deque[Process] = deque()
        self._jobs: dict[Any, _Job] = {}
        self._over: set[str] = set()  # ids of those that have been collected
        self._told = False
        self._executors: dict[Path, _Executor] = {}
        try:
            self._listed = queue.listed()
            queue.check(self._executor(Path("/")).script("true"))
        except SlurmError as error:
            raise SettingError("hydra.launcher", _typed(settings), f"Slurm says: {error}") from error
        self._asked = time.monotonic()
        self._silent: str | None = None  # why Slurm cannot be asked
        self._not_before = 0.0  # when to submit again, after a refusal

    @classmethod
    def makes(cls, settings: SlurmSettings) -> MakeWorkers:
        """One with these settings."""
        return lambda with_gpus, processes: cls(settings, processes)

    def __str__(self) -> str:
        cpus = self.settings.cpus(self._processes)
        each = f"{cpus} CPU{'s' * (cpus > 1)}"
        if self.settings.gpus_per_node:
            each += f" and {self.settings.gpus_per_node} GPU(s) a node"
        return f"up to {self._slots} in Slurm's queue at a time, {each} each"

    @property
    def free(self) -> int:
        """Jobs that would be put into the queue at once; none while Slurm does not answer."""
        if self._silent is not None:
            self._ask(ASK)
        return 0 if self._silent else self._slots - len(self._jobs) - len(self._waiting)

    @property
    def running(self) -> dict[Any, float]:
        """The keys of those that run, and for how many seconds; the others wait in the queue."""
        found = {}
        for key, job in self._jobs.items():
            if self._state(job) == "RUNNING":
                process = job.files.process()
                begun = time.time() if process is None else process[1]
                found[key] = max(0.0, time.time() - begun)
        return found

    @property
    def busy(self) -> bool:
        """Whether something is still to be collected."""
        return bool(self._jobs or self._waiting)

    def adopt(self, key: Any, output: Path) -> bool:
        """Take in hand the job of this key, if another process has submitted it and it is still to end."""
        self._ask(ASK)
        name = _mark(key, output)
        for one in self._listed.values():
            if one.name.endswith(name) and one.state in ACTIVE and one.id not in self._over:
                self._jobs[key] = _Job(one.id, key, output, JobFiles(_folder(output), one.id))
                return True
        return False

    def submit(self, process: Process) -> None:
        """Put a process into the queue, at once or as soon as Slurm takes it."""
        assert process.output is not None, "nobody would see what it prints"
        self._waiting.append(process)
        try:
            self._start()
        except OSError:  # nothing can be written; nothing was submitted
            self._waiting.remove(process)
            raise

    def collect(self, timeout: float = 0.0) -> list[Ended]:
        """Those that have ended since the last call; waits for one, up to ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._start()
            except OSError as error:
                self._try_later(str(error))
            if self._ask(2 * POLL if self._told else ASK) and self._told:
                self._tell()  # what had not begun, or was not there, before
            ended = self._ended()
            left = deadline - time.monotonic()
            if ended or left <= 0 or not self.busy:
                return ended
            time.sleep(min(POLL, left))

    def tell(self) -> None:
        """Ask those that run to save and stop, take the others out of the queue, and submit no other."""
        self._told = True
        self._waiting.clear()
        for job in self._jobs.values():
            with suppress(OSError):  # on a full disk; then it is put back into the queue, and cancelled there
                job.files.stop.touch()
        self._ask(0.0)
        self._tell()

    def leave(self) -> None:
        """Go on without them, and they without this process."""
        self._waiting.clear()
        self._jobs.clear()

    def close(self) -> None:
        """Cancel those that have been told to stop and have not yet. Where nobody was told they go on, also if this process ends by an error."""
        if self._told and self._jobs:
            try:
                queue.cancel([job.id for job in self._jobs.values()])
            except SlurmError as error:
                ids = ", ".join(job.id for job in self._jobs.values())
                print(f"not cancelled, since Slurm does not answer ({error}): jobs {ids}")
        self.leave()

    def _executor(self, folder: Path) -> _Executor:
        if folder not in self._executors:
            self._executors[folder] = _Executor(folder, self.settings, self._processes)
        return self._executors[folder]

    def _start(self) -> None:
        """Submit what waits; after a refusal, of which limits on the number of jobs are the usual one, no sooner than in a while."""
        while self._waiting and time.monotonic() >= self._not_before:
            process = self._waiting[0]
            assert process.output is not None
            output = process.output.absolute()
            folder = _folder(output)
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)  # command lines may hold what no record may
            cpus = self.settings.cpus(self._processes) // self.settings.of_a_task(self._processes)
            threads = {name: str(max(1, cpus)) for name in THREADS}
            command = Command(process.argv, {**threads, **process.environment}, str(output), str(folder))
            executor = self._executor(folder)
            executor.parameters["job_name"] = f"{output.stem[:60]}-{_mark(process.key, output)}"
            try:
                with queue.unsignalled(), redirect_stderr(StringIO()):  # the error has it, too
                    job = executor.submit(command)
            except FailedJobError as error:
                return self._try_later(_last(str(error)))
            self._waiting.popleft()
            self._jobs[process.key] = _Job(job.job_id, process.key, output, JobFiles(folder, job.job_id))
            self._listed[job.job_id] = Listed(job.job_id, "PENDING", "", "")  # until Slurm is asked

    def _try_later(self, why: str) -> None:
        self._not_before = time.monotonic() + 3 * ASK
        print(f"not taken by Slurm, and tried again: {why}", flush=True)

    def _ask(self, seconds: float) -> bool:
        """Ask Slurm how the jobs stand, unless it was asked less than ``seconds`` ago; whether it has been asked."""
        if time.monotonic() - self._asked < seconds:
            return False
        try:
            self._listed, self._silent = queue.listed(), None
        except SlurmError as error:
            if self._silent is None:
                print(f"Slurm does not answer, and is asked again: {error}", flush=True)
            self._silent = str(error)
        self._asked = time.monotonic()
        return True

    def _state(self, job: _Job) -> str | None:
        found = self._listed.get(job.id)
        return None if found is None else found.state

    def _tell(self) -> None:
        """Cancel the jobs that wait, and tell those that run, each once."""
        waiting = [job.id for job in self._jobs.values() if self._state(job) == "PENDING"]
        running = [job for job in self._jobs.values() if self._state(job) == "RUNNING" and not job.told]
        try:
            queue.stop(waiting, "PENDING")
            queue.stop([job.id for job in running], "RUNNING", signal.SIGTERM)
        except SlurmError as error:
            print(f"Slurm does not answer, and is told again: {error}", flush=True)
            return
        for job in running:
            job.told = True

    def _ended(self) -> list[Ended]:
        if any(job.since is not None or self._suspicious(job) for job in self._jobs.values()):
            self._ask(1.0)
        found = []
        for key, job in list(self._jobs.items()):
            self._look(job)
            ended = self._end(job)
            if ended is not None:
                del self._jobs[key]
                self._over.add(job.id)
                job.files.remove(with_log=ended.exit_status in (0, REFUSED, RESUME_ME))
                found.append(ended)
        return found

    def _suspicious(self, job: _Job) -> bool:
        return job.files.exit_status() not in (None, 0, REFUSED)

    def _look(self, job: _Job) -> None:
        """Say once that a job waits for a person."""
        listed = self._listed.get(job.id)
        if listed is not None and listed.state == "PENDING" and any(word in listed.reason for word in STUCK):
            if not job.stuck:
                print(f"Slurm's job {job.id} will not start by itself: {listed.reason}", flush=True)
            job.stuck = True

    def _end(self, job: _Job) -> Ended | None:
        """How a job has ended; None while it has not, or that is not yet known."""
        status, state = job.files.exit_status(), self._state(job)
        if status in (0, REFUSED):
            return self._record(job, status, state)
        if state in ACTIVE and (status is None or state in ("PENDING", "REQUEUED")):
            job.since = None
            return None  # what it has said, it has said before it was put back into the queue
        if self._silent is not None and status is None:
            return None
        job.since = time.monotonic() if job.since is None else job.since
        waited = time.monotonic() - job.since
        if waited < PATIENCE and (state in ACTIVE or (status is None and waited < PATIENCE / 4)):
            return None
        if state is None:
            state = queue.state_of_ended(job.id)
        if state in AGAIN and not job.files.stop.exists() and self._again(job):
            return None
        return self._record(job, status, state)

    def _again(self, job: _Job) -> bool:
        """Put back into the queue a job that Slurm has ended before it could do that itself."""
        number = queue.restarts(job.id)
        if number is None or number >= self.settings.max_num_timeout or not queue.requeue(job.id):
            return False
        job.since = None
        self._ask(0.0)
        return True

    def _record(self, job: _Job, status: int | None, state: str | None) -> Ended:
        process = job.files.process()
        pid, begun = (0, time.time()) if process is None else process
        if status is None:  # it was ended from outside
            of_state = {"COMPLETED": 0, "OUT_OF_MEMORY": -signal.SIGKILL, "CANCELLED": -signal.SIGTERM}
            status = RESUME_ME if state in AGAIN else of_state.get(state or "", 1)
        elif status > 128:  # as a shell says that a signal ended something
            status = 128 - status
        over = job.files.status.stat().st_mtime if job.files.status.is_file() else time.time()
        cause = None if status == 0 else self._cause(job, status, state)
        return Ended(job.key, pid, status, max(0.0, over - begun), cause)

    def _cause(self, job: _Job, status: int, state: str | None) -> str:
        known = CAUSES.get(state or "")
        if known is not None:
            return known
        last = last_line(job.output) or last_line(job.files.log)
        if status >= 0:
            return last or f"exit status {status}"
        name = signal.Signals(-status).name if -status in {*signal.Signals} else f"signal {-status}"
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else f": {last}" if last else "")  # fmt: skip


class _Executor(SlurmExecutor):
    """Writes the batch scripts of jobs with these settings, and hands them in."""

    def __init__(self, folder: Path, settings: SlurmSettings, processes: int) -> None:
        super().__init__(folder)
        cpus = settings.cpus(processes)
        asked = {
            "partition": settings.partition,
            "qos": settings.qos,
            "account": settings.account,
            "constraint": settings.constraint,
            "exclude": settings.exclude,
            "comment": settings.comment,
            "gpus_per_node": settings.gpus_per_node,
            "mem": None if settings.mem_gb is None else f"{round(settings.mem_gb * 1024)}M",
        }
        self.update_parameters(
            time=settings.timeout_min,
            nodes=settings.nodes,
            ntasks_per_node=settings.tasks_per_node,
            cpus_per_task=cpus,
            stderr_to_stdout=True,
            setup=[*settings.setup],
            teardown=after(folder, settings.max_num_timeout),
            # a step no longer takes over what its job was given for a task
            # and other tasks wait for ever for one that is gone
            srun_args=[f"--cpus-per-task={cpus}", "--wait=120"],
            additional_parameters={
                "signal": f"USR1@{settings.signal_delay_s}",  # which asks a run to save and stop
                "requeue": True,
                **(settings.additional_parameters or {}),
            },
            **{name: value for name, value in asked.items() if value is not None},
        )

    def script(self, command: str) -> str:
        return self._make_submission_file_text(command, "")

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return queue.without_own_job(super()._make_submission_command(submission_file_path))


def _folder(output: Path) -> Path:
    return output.absolute().parent / FOLDER


def _mark(key: Any, output: Path) -> str:
    """What the name of a job ends with: the same for the same key of the same folder of outputs, whoever submits it."""
    return hashlib.sha256(f"{output.absolute().parent}\n{key}".encode()).hexdigest()[:16]


def _typed(settings: SlurmSettings) -> str:
    """The settings that are not what they are by themselves."""
    usual = SlurmSettings()
    return ", ".join(f"{name}={value}" for name, value in vars(settings).items() if value != getattr(usual, name)) or "as it is"  # fmt: skip


def _last(text: str) -> str:
    return " ".join(text.strip().splitlines()[-1].split()) if text.strip() else "no reason given"
