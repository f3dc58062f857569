"""The search itself: a free slot gets the next trial at once, and what came of it is told to the study."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vaelab.errors import RunFailed, SettingError
from vaelab.runs import RunDirectory, read_manifest
from vaelab.runs.interruption import StopRequest
from vaelab.runs.metrics import validation_at
from vaelab.sweeps.job import Job
from vaelab.sweeps.screen import Screen
from vaelab.sweeps.search.storage import SETTING as STORAGE
from vaelab.sweeps.search.storage import explained
from vaelab.sweeps.search.study import Study, Taken, finite
from vaelab.sweeps.sweep import Result, Sweep

#: seconds that a storage may be out of reach while jobs run, and between two attempts
LONGEST_OUTAGE, SECONDS_BETWEEN = 600.0, 5.0


def run(study: Study, sweep: Sweep, make_job: Callable[[Taken], Job], score: str) -> None:
    """Have all trials of a study carried out that no other process has in hand, and wait for those that one has.

    Args:
        study: that is asked for trials.
        sweep: that carries out their jobs.
        score: what the number of a job is called.
        make_job: the job of a trial; raises SettingError for values that do not go together, which is a failed trial.

    Raises:
        Interrupted: by a signal; the jobs that ran have saved and stopped, and their trials are there for whoever comes next.
        RunFailed: the storage is out of reach for minutes. The runs are there, and the same command goes on with them.
    """
    hands: dict[str, list[Taken]] = defaultdict(
        list
    )  # by the identity of the job: two trials may have the same values
    stop = StopRequest()
    begun = study.standing
    left, own = begun.total - begun.ended, 0
    try:
        with stop.watching(), stop.deferred(), Screen(sweep, score, left) as screen:
            patient = Patience(screen, stop)
            told = False
            while not (stop.requested and not sweep.busy):
                # one that waits for a run with the same values takes a slot, too: else a small space would be gone through without a look at what comes of it
                while not stop.requested and sweep.free > sum(len(those) - 1 for those in hands.values()):
                    trial = patient(study.take)
                    if trial is None:
                        break
                    try:
                        job = make_job(trial)
                    except SettingError as error:
                        screen.say(f"trial {trial.place} is refused: {error}")
                        patient(study.fail, trial, f"refused: {error}")
                        own += 1
                        continue
                    except BaseException:
                        study.lose(trial)
                        raise
                    if job.identity not in hands:
                        sweep.submit(job)
                    hands[job.identity].append(trial)
                for result in sweep.collect(timeout=1.0):
                    for trial in hands.pop(result.job.identity):
                        own += result.status != "interrupted"
                        _conclude(study, trial, result, patient)
                        screen.ended(result, _remark(study, trial, patient))
                        result = replace(result, seconds=None)  # the others have it, too
                if stop.requested and not told:
                    told = True
                    screen.stopping(sweep.stop(stop.signum))
                patient(study.beat)
                screen.refresh()
                if not sweep.busy and not stop.requested:
                    standing = patient(lambda: study.standing)
                    if standing.ended >= standing.total:
                        if others := left - own:
                            screen.say(f"{others} more made by other processes")
                        break
                    time.sleep(1.0)  # for those that other processes have in hand
    except RunFailed:  # the runs that are on their way save first
        sweep.stop(signal.SIGTERM)
        while sweep.busy:
            sweep.collect(timeout=1.0)
        raise
    finally:
        for trial in [trial for those in hands.values() for trial in those]:
            try:
                study.lose(trial)
            except SettingError:  # the storage is out of reach, and it is this that ends the search: whoever comes next finds them lost
                break


class Patience:
    """Calls what needs the storage, again and again while that is out of reach: a server may be started anew, a disk may be cleared.

    Args:
        screen: on which it is said.
        stop: ends the patience.
    """

    def __init__(self, screen: Screen, stop: StopRequest) -> None:
        self._screen, self._stop = screen, stop

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> Any:
        until = time.monotonic() + LONGEST_OUTAGE
        said = False
        while True:
            try:
                return call(*arguments)
            except SettingError as error:
                if error.setting != STORAGE:
                    raise
                if time.monotonic() > until or self._stop.requested:
                    words = f"{error}; the runs are kept, and the same command goes on with them"
                    raise RunFailed(words) from error
                if not said:
                    self._screen.say(f"{error}; tried again every {SECONDS_BETWEEN:g} s")
                    said = True
                time.sleep(SECONDS_BETWEEN)


def _conclude(study: Study, trial: Taken, result: Result, patient: Patience) -> None:
    if result.status == "completed":
        try:
            values = numbers(result, list(study.question.objectives))
        except SettingError as error:
            return patient(study.fail, trial, str(error))
        return patient(study.complete, trial, values)
    if result.status == "pruned":
        return patient(study.prune, trial)
    if result.status == "interrupted":
        return patient(study.lose, trial)
    return patient(study.fail, trial, result.error or result.status)


def _remark(study: Study, trial: Taken, patient: Patience) -> str:
    """That a trial is the best one so far."""
    if len(study.question.objectives) > 1:
        return ""
    best = patient(lambda: best_places(study))
    return "the best so far" if best == [trial.place] else ""


def best_places(study: Study) -> list[int]:
    """Of the trials that no other one is better than: one, or with several objectives those that none exceeds in all of them."""
    from vaelab.sweeps.search.study import PLACE

    if not any(trial.values for trial in study.trials):
        return []
    with explained(study.storage):
        best = study.study.best_trials
    return [trial.user_attrs[PLACE] for trial in best][: None if len(study.question.objectives) > 1 else 1]


def numbers(result: Result, objectives: Sequence[str]) -> list[float]:
    """What the selected checkpoint of a completed run has in validation.

    Raises:
        SettingError: it has none of that name, or no finite one.
    """
    assert result.run is not None
    score = str(result.job.config["score"]["name"])
    found = {} if result.score is None else {score: result.score}
    if set(objectives) - found.keys():
        run = RunDirectory(result.run)
        found = validation_at(run.metrics_file, read_manifest(run).get("best_step")) | found
    for name in objectives:
        if name not in found:
            known = ", ".join(sorted(found)) or "nothing"
            raise SettingError("sweep.objectives", name, f"is not logged in validation; logged is {known}")
    values = [found[name] for name in objectives]
    if not finite(values):
        raise SettingError("sweep.objectives", values, "holds a number that is not finite")
    return values
