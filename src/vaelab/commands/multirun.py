"""``-m``: from a command line with several values to jobs, and from what came of them to an exit status.

A job is a command of its own, so whatever launcher Hydra was asked for, no job is carried out in this process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from vaelab.commands import process
from vaelab.errors import SettingError
from vaelab.experiments.request import Request
from vaelab.runs import check_writable
from vaelab.runs.identity import config_hash
from vaelab.runs.interruption import StopRequest
from vaelab.sweeps import grid, screen
from vaelab.sweeps.job import Job, sweep_name
from vaelab.sweeps.pool import Pool
from vaelab.sweeps.search.settings import Settings
from vaelab.sweeps.sweep import Commands, Result, Sweep
from vaelab.sweeps.workers import MakeWorkers, Process, Workers, jobs_folder

if TYPE_CHECKING:
    from vaelab.sweeps.search.batches import Launch

DONE, FAILED, REFUSED, SOME_FAILED = 0, 1, 2, 3
#: settings that a grid has no use for
OF_A_SEARCH = {f"sweep.{one.name}" for one in fields(Settings)} - {"sweep.name", "sweep.batch"}
#: what Hydra makes jobs of, and no job's business
OF_THE_SWEEP = (
    "hydra/launcher",
    "hydra/sweeper",
    "hydra.launcher",
    "hydra.sweeper",
    "hydra.sweep",
    "hydra.mode",
)


#: the configuration that the single run with these overrides would train, the SHA-256 of the weights that it would begin with, and how it is asked for;
#: raises SettingError as the single run would
Compose = Callable[[Sequence[str]], tuple[dict[str, Any], str | None, Request]]


class Multirun:
    """A command with ``-m``: its jobs, and what it has come to so far.

    Args:
        command: ``vae-train``.
        hydra: Hydra's own settings of the command line.
        compose: of a run; None for a command that makes no runs, whose jobs have neither identity nor record.
        flags: of the command line, which every job has too.
        with_tracebacks: whether jobs show them.
    """

    def __init__(
        self,
        command: str,
        hydra: HydraConf,
        compose: Compose | None,
        flags: Sequence[str],
        *,
        with_tracebacks: bool,
    ) -> None:
        self.command, self.compose = command, compose
        self.of_hydra = _of_a_job(hydra)
        self.flags = (*flags, *self.of_hydra)
        self.typed = _typed(hydra)
        self.swept = [override for override in self.typed if override.is_sweep_override()]
        self.environment = {"HYDRA_FULL_ERROR": str(int(with_tracebacks))}  # here it is set in any case
        self.sweep: Sweep | None = None
        self.is_search = False
        self.findings: list[str] = []  # of a search
        self.search_status: int | None = None  # of one whose trials have all ended
        self._jobs: dict[tuple[str, ...], Job] = {}  # that have been composed
        self.statuses: dict[str, int] = {}  # of jobs without identity

    def launch(self, job_overrides: Sequence[Sequence[str]], workers: MakeWorkers) -> list[JobReturn]:
        """Carry out a batch of jobs; called by a launcher of ours, which knows who carries them out.

        Raises:
            SettingError: of a job, before the first one is started.
        """
        if not job_overrides:
            raise self._empty()
        for one in self.typed:
            if not self.is_search and one.key_or_group in OF_A_SEARCH:
                raise SettingError(
                    one.key_or_group,
                    one.get_value_string(),
                    "says nothing of a grid; a search is hydra/sweeper=optuna",
                )
        scores: dict[int, float | None] = {}
        if self.compose is None:
            self._run_commands(job_overrides, workers(True, 1))
        else:
            jobs = self.jobs(job_overrides)
            if self.sweep is None:
                self.open(jobs, workers)
                self.announce(f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}")
                self._mention_others(jobs)
            assert self.sweep is not None
            done = grid.run(self.sweep, jobs)
            by_identity = {result.job.identity: result.score for result in done}
            scores = {number: by_identity[job.identity] for number, job in enumerate(jobs)}
        return [_returned(overrides, scores.get(number)) for number, overrides in enumerate(job_overrides)]

    def returned(self, result: Result) -> JobReturn:
        """What Hydra is told of a job."""
        return _returned(result.job.overrides, result.score)

    def search(self, settings: Settings, workers: MakeWorkers | None, launch: Launch) -> list[JobReturn]:
        """Search for the best values of what is swept over; called by ``hydra/sweeper=optuna``. See :func:`vaelab.commands.search.carry_out`."""
        from vaelab.commands import search  # it imports Optuna

        self.is_search = True
        return search.carry_out(self, settings, workers, launch)

    @property
    def makes_runs(self) -> bool:
        """Whether its jobs are runs, which are known by what they are."""
        return self.compose is not None

    def jobs(self, job_overrides: Sequence[Sequence[str]]) -> list[Job]:
        """The jobs with these overrides; a sweeper asks before the first of them starts, and a launcher again.

        Raises:
            SettingError: what is wrong with one of them or more, each message once.
        """
        found: list[Job] = []
        errors: list[SettingError] = []
        wrong: dict[str, list[str]] = {}
        for overrides in screen.watched(job_overrides, "composing and checking the jobs"):
            try:
                found.append(self.job(overrides))
            except SettingError as error:
                errors.append(error)
                wrong.setdefault(str(error), []).append(" ".join(self._own(overrides)))
        if not wrong:
            return found
        if len(wrong) == 1 and not found:
            raise errors[0]  # of all of them: it is the command line's
        lines = [
            f"{message} (in {len(those)} of {len(job_overrides)} jobs, as in {those[0]})"
            for message, those in wrong.items()
        ]
        raise Refused("\n".join(lines))

    def job(self, overrides: Sequence[str]) -> Job:
        """The job with these overrides, of a single run.

        Raises:
            SettingError: the single run would be refused.
        """
        assert self.compose is not None
        key = tuple(overrides)
        if key not in self._jobs:
            own = self._own(overrides)
            parsed = OverridesParser.create().parse_overrides(own)
            config, weights, request = self.compose([*self.of_hydra, *overrides])
            self._jobs[key] = Job(
                key,
                {override.key_or_group: override.value() for override in parsed},
                config,
                config_hash(config, weights)["sha256"],
                tuple(own),
                self.flags,
                request=request,
            )
        return self._jobs[key]

    def _own(self, overrides: Sequence[str]) -> list[str]:
        """Those of a job's overrides that are swept over."""
        keys = tuple(f"{override.get_key_element()}=" for override in self.swept)
        return [override for override in overrides if override.startswith(keys)]

    def open(self, jobs: Sequence[Job], workers: MakeWorkers | None) -> Sweep:
        """The sweep that these jobs, and later ones of the same command, belong to; None = one after the other, on this machine.

        Raises:
            SettingError: there cannot be one here.
        """
        if asked := os.environ.get("WANDB_SWEEP_ID"):  # each job would be the one run that is waited for
            raise SettingError("WANDB_SWEEP_ID", asked, "an agent of W&B asks for one run: leave -m away")
        master, trainers = jobs[0].config, [job.config["trainer"] for job in jobs]
        name = master["sweep"]["name"] or sweep_name(_plain_name(jobs), [o.key_or_group for o in self.swept])
        folder = Path(master["paths"]["log_dir"]) / "sweeps" / name
        check_writable(folder)
        with_gpus = any(trainer["accelerator"] not in ("cpu", "mps") for trainer in trainers)
        room = (workers or Pool.makes(1))(with_gpus, max(_processes(trainer) for trainer in trainers))
        train = process.program(self.command)
        resume = str(Path(train).with_name("vae-resume"))
        typed = [str(o.input_line) for o in self.typed]
        commands = Commands((train,), (resume, "--solo"), self.environment)
        self.sweep = Sweep(folder, commands, room, master["sweep"]["retry"], sys.argv, typed)
        return self.sweep

    def announce(self, what: str, *where: str) -> None:
        """Say what is going to be done."""
        assert self.sweep is not None
        folder = self.sweep.folder
        print(
            f"{folder.name}: {what}, {self.sweep.workers} | {' | '.join([str(folder), *where])}", flush=True
        )

    def _mention_others(self, jobs: Sequence[Job]) -> None:
        assert self.sweep is not None
        if others := self.sweep.others(jobs):
            these = f"1 other job is there already, {others[0]}: it stays"
            if len(others) > 1:
                these = f"{len(others)} other jobs are there already, as {others[0]}: they stay"
            print(f"{these}, in one table with these; sweep.name=NAME keeps them apart", flush=True)

    def close(self) -> None:
        """Kill what still runs."""
        if self.sweep is not None:
            self.sweep.close()

    @property
    def results(self) -> list[Result]:
        """Of the jobs that have come to an end."""
        return [] if self.sweep is None else self.sweep.results

    @property
    def status(self) -> int:
        """The exit status, once all jobs have come to an end."""
        if self.search_status is not None:
            return self.search_status
        words = {result.status for result in self.results}
        if self.results:
            ends = [
                REFUSED if words == {"refused"} else DONE if words <= {"completed", "pruned"} else SOME_FAILED
            ]
        else:
            ends = list(self.statuses.values())
        return ends[0] if len(set(ends)) == 1 and ends[0] in (DONE, REFUSED, SOME_FAILED) else SOME_FAILED

    def report(self) -> None:
        """A line a job, the best first, or what a search has found, and where the sweep is."""
        if self.findings and self.sweep is not None:
            print("\n".join(self.findings))
            print(_from_here(self.sweep.folder), flush=True)
        elif self.results and self.sweep is not None:
            score = self.results[0].job.config["score"]
            print("\n".join(screen.summary(self.results, score["name"], score["mode"])))
            print(f"{screen.counted(self.results)}  {_from_here(self.sweep.folder)}", flush=True)
        if self.results and self.sweep is not None and self.results[0].job.config["report"]:
            from vaelab.report import try_to_report  # after the table, which needs nothing of it

            try_to_report(_from_here(self.sweep.folder))
        width = max(map(len, self.statuses), default=0)
        for name, status in self.statuses.items():
            print(f"{name:<{width}}  {'done' if status == DONE else f'exit status {status}'}")

    def _empty(self) -> SettingError:
        for override in self.swept:
            if not list(override.sweep_iterator()):
                value = str(override.input_line).partition("=")[2]
                return SettingError(override.key_or_group, value, "holds no value: there is no job")
        raise AssertionError("no jobs, though each key has values")

    def _run_commands(self, job_overrides: Sequence[Sequence[str]], workers: Workers) -> None:
        """Jobs of a command that makes no runs: what each prints is shown when it has ended."""
        program = process.program(self.command)
        stop = StopRequest()
        with (
            jobs_folder(workers) as folder,
            closing(workers),
            stop.watching(),
            stop.deferred(),
        ):
            outputs = [Path(folder) / str(number) for number in range(len(job_overrides))]
            for number, overrides in enumerate(job_overrides):
                self.statuses[" ".join(overrides)] = DONE  # in the order in which they were asked for
                argv = (program, *self.flags, *overrides)
                workers.submit(Process(number, argv, self.environment, outputs[number]))
            told = False
            while workers.busy:
                for ended in workers.collect(1.0):
                    name = " ".join(job_overrides[int(ended.key)])
                    self.statuses[name] = ended.exit_status
                    print(
                        f"# {self.command} {name}\n{outputs[int(ended.key)].read_text(errors='replace')}",
                        flush=True,
                    )
                if stop.requested and not told:
                    told = True
                    workers.tell()


class Refused(SettingError):
    """What is wrong with some of the jobs; the message has a line for each."""

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)


def words(overrides: Any) -> list[str]:
    """A list of overrides in a configuration, with ``${...}`` as it was typed."""
    found = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(found, list)
    return [str(word) for word in found]


def _typed(hydra: HydraConf) -> list[Override]:
    """What was typed, and what a configuration says is swept over, which comes first and yields to it."""
    params: Any = OmegaConf.to_container(hydra.sweeper, resolve=False)
    lines = [f"{key}={value}" for key, value in (params.get("params") or {}).items()]
    lines += words(hydra.overrides.task)
    overrides = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(lines)
    return list({override.get_key_element(): override for override in overrides}.values())


def _from_here(path: Path) -> Path:
    """Relative, where it lies below the current directory."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _of_a_job(hydra: HydraConf) -> list[str]:
    """What was typed of Hydra's own settings that a job needs, too: where configurations are searched for."""
    return [line for line in words(hydra.overrides.hydra) if not line.lstrip("+~").startswith(OF_THE_SWEEP)]


def _plain_name(jobs: Sequence[Job]) -> str:
    """``name``, where the jobs agree on it."""
    names = {str(job.config["name"]) for job in jobs}
    return names.pop() if len(names) == 1 else "sweep"


def _processes(trainer: dict[str, Any]) -> int:
    devices = trainer["devices"]
    return devices if isinstance(devices, int) and devices > 0 else 1


def _returned(overrides: Sequence[str], score: float | None) -> JobReturn:
    done = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, task_name=None)
    done.return_value = score
    return done
