"""A grid: every job that was asked for, each once."""

from __future__ import annotations

from collections.abc import Sequence

from vaelab.runs.interruption import StopRequest
from vaelab.sweeps.job import Job
from vaelab.sweeps.screen import Screen
from vaelab.sweeps.sweep import Result, Sweep


def run(sweep: Sweep, jobs: Sequence[Job]) -> list[Result]:
    """Have every job run, or found, and return the results in the order in which they came; the sweep has them, too.

    Jobs of one identity are one run, which is said.

    Raises:
        Interrupted: by a signal; the jobs that ran have saved and stopped.
        KeyboardInterrupt: by a second Ctrl-C; they may be running on until the sweep is closed.
    """
    first: dict[str, Job] = {}
    for job in jobs:
        same = first.setdefault(job.identity, job)
        if same is not job:
            print(f"{job.name} is the same run as {same.name}: no setting that makes its numbers differs")
    score = jobs[0].config["score"]["name"]
    results: list[Result] = []
    stop = StopRequest()
    with stop.watching(), stop.deferred(), Screen(sweep, score, len(first)) as screen:
        for job in first.values():
            sweep.submit(job)
        told = False
        while sweep.busy:
            for result in sweep.collect(timeout=1.0):
                results.append(result)
                screen.ended(result)
            if stop.requested and not told:
                told = True
                screen.stopping(sweep.stop(stop.signum))
            screen.refresh()
    return results
