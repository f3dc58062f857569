"""A job of any other Hydra application: its function and its configuration, pickled into a fresh process.

``python -m vaelab.sweeps.pickled FILE`` is that process: it reads the job from a file and leaves beside it what came of it.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import (
    JobReturn,
    JobStatus,
    configure_log,
    filter_overrides,
    run_job,
    setup_globals,
)
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from vaelab.runs.interruption import StopRequest
from vaelab.sweeps.workers import Ended, Process, Workers, jobs_folder


def launch(
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    workers: Workers,
) -> list[JobReturn]:
    """Run a batch of jobs, each in a process, in Hydra's directories.

    Args:
        context, task, config: as Hydra hands them to a launcher.
        job_overrides: of each job.
        first: the number of the first job.
        workers: who carries them out.

    Raises:
        Interrupted: by a signal.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    sweep_dir = Path(str(config.hydra.sweep.dir))
    sweep_dir.mkdir(parents=True, exist_ok=True)
    singletons = Singleton.get_state()
    returns: dict[int, JobReturn] = {}
    stop = StopRequest()
    with jobs_folder(workers) as folder, closing(workers):
        files = [Path(folder) / str(number) for number in range(len(job_overrides))]
        for index, overrides in enumerate(job_overrides):
            job = context.config_loader.load_sweep_config(config, list(overrides))
            with open_dict(job):
                job.hydra.job.id = f"{job.hydra.job.name}_{first + index}"
                job.hydra.job.num = first + index
            content = cloudpickle.dumps((singletons, context, task, job))
            files[index].write_bytes(pickle.dumps((sys.path, content)))
            print(f"#{first + index}: {' '.join(filter_overrides(overrides))}", flush=True)
        with stop.watching(), stop.deferred():
            for index, file in enumerate(files):
                argv = (sys.executable, "-m", "vaelab.sweeps.pickled", str(file))
                output = file.with_suffix(".txt") if workers.outlives else None  # it may be another machine
                workers.submit(Process(index, argv, output=output))
            told = False
            while workers.busy:
                for ended in workers.collect(1.0):
                    index = int(ended.key)
                    returns[index] = _read(files[index], ended, job_overrides[index])
                    if workers.outlives and (text := files[index].with_suffix(".txt")).is_file():
                        print(text.read_text(errors="replace"), end="", flush=True)
                if stop.requested and not told:
                    told = True
                    workers.tell()
    return [returns[index] for index in range(len(files))]


def _read(file: Path, ended: Ended, overrides: Sequence[str]) -> JobReturn:
    result = file.with_suffix(".result")
    if result.is_file():
        return pickle.loads(result.read_bytes())
    failed = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    failed.return_value = RuntimeError(f"the process of the job ended without a result: {ended.cause}")
    return failed


def main(file: Path) -> None:
    """Carry out the job in ``file``."""
    path, content = pickle.loads(file.read_bytes())
    sys.path[:] = path  # the function's module may lie beside a script
    singletons, context, task, job = pickle.loads(content)
    setup_globals()
    Singleton.set_state(singletons)
    HydraConfig.instance().set_config(job)
    done = run_job(task, job, "hydra.sweep.dir", "hydra.sweep.subdir", context)
    write = file.with_suffix(".part")
    write.write_bytes(_pickled(done))
    os.replace(write, file.with_suffix(".result"))


def _pickled(done: JobReturn) -> bytes:
    try:
        return cloudpickle.dumps(done)
    except Exception as error:
        value: Any = done._return_value
        done.status = JobStatus.FAILED
        done.return_value = RuntimeError(f"what the job returned cannot be pickled ({error}): {value!r}")
        return cloudpickle.dumps(done)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
