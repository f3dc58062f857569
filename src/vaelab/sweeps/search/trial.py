"""The side of a run: it tells its trial how it is doing, and is told whether to go on."""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vaelab.errors import SettingError
from vaelab.sweeps.search.pruners import NONE, build
from vaelab.sweeps.search.storage import SETTING, explained, open_storage, shown

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage

#: the variable that tells the process of a job which trial it is
TRIAL = "VAELAB_TRIAL"
#: a storage in trouble may hold up a run for so long, once
SECONDS = 10.0
SECONDS_BETWEEN = 0.5  # two attempts


@dataclass(frozen=True)
class Trial:
    """Which trial of which study a run is.

    Attributes:
        storage: of the study; may hold a password, so it is in no record and not in the text of this one.
        study: name of the study.
        number: of the trial in it.
        pruner: name of the pruner.
        options: of the pruner.
        resource: validations of a run that nobody stops; None = not known.
    """

    storage: str = field(repr=False)
    study: str
    number: int
    pruner: str = NONE
    options: Mapping[str, Any] = field(default_factory=dict)
    resource: int | None = None

    @classmethod
    def told(cls) -> Trial | None:
        """What this process was told; None where it is no trial. Processes that it starts are not told.

        >>> os.environ |= Trial("sqlite:////s/study.db", "s", 7, "median").variables()
        >>> Trial.told(), Trial.told()
        (Trial(study='s', number=7, pruner='median', options={}, resource=None), None)
        """
        text = os.environ.pop(TRIAL, None)
        if text is None:
            return None
        told = json.loads(text)
        pruner = told["pruner"]
        return cls(
            told["storage"], told["study"], told["trial"], pruner["name"], pruner["options"], told["resource"]
        )

    def variables(self) -> dict[str, str]:
        """The environment that tells it."""
        told = {
            "storage": self.storage,
            "study": self.study,
            "trial": self.number,
            "pruner": {"name": self.pruner, "options": dict(self.options)},
            "resource": self.resource,
        }
        return {TRIAL: json.dumps(told)}


class TrialReport:
    """Reports the validations of a run to its trial.

    The storage is opened at the first report. One in trouble (locked, full, out of reach, without the study) ends no run: it is tried for :data:`SECONDS`, then
    left out with one line on the screen, and the run goes on to its end.

    Args:
        trial: which one the run is.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self._left_out = False
        self._opened: _Opened | None = None

    def report(self, score: float, validation: int) -> bool:
        """Put the score of a validation into the study; nan and inf, too, which the pruner sees as such.

        Args:
            score: of the model as it is now.
            validation: which one it is: 1, 2, ...

        Returns:
            whether the run is to be given up.
        """
        if self._left_out:
            return False
        import optuna  # noqa: F401  # in this thread: two threads that import at the same time can wait for each other

        prune, error = _in_time(lambda: self._ask(score, validation))
        if prune is None:
            self._left_out = True
            where = f"the study {self.trial.study} in {shown(self.trial.storage)}"
            print(f"{where} is left out from here on ({error}): the run goes on to its end", flush=True)
        return bool(prune)

    def _ask(self, score: float, validation: int) -> bool:
        with explained(self.trial.storage):
            if self._opened is None:
                self._opened = _Opened.of(self.trial)
            there = self._opened
            there.storage.set_trial_intermediate_value(there.trial_id, validation, score)
            return there.pruner.prune(there.study, there.storage.get_trial(there.trial_id))


@dataclass(frozen=True)
class _Opened:
    """A trial in its storage."""

    storage: BaseStorage
    study: Study
    pruner: BasePruner
    trial_id: int

    @classmethod
    def of(cls, trial: Trial) -> _Opened:
        from optuna import load_study

        # of a run that has nothing but nan: Optuna gives it up, and numpy's remark is no news
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning, r"optuna\.")
        storage = open_storage(trial.storage, SECONDS / 2)  # so that there is time to hear why not
        pruner = build(trial.pruner, trial.options, trial.resource)
        study = load_study(study_name=trial.study, storage=storage, pruner=pruner)
        study_id = storage.get_study_id_from_name(trial.study)
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        return cls(storage, study, pruner, trial_id)


def _in_time(ask: Callable[[], bool]) -> tuple[bool | None, str]:
    """What ``ask`` says within :data:`SECONDS`, or None and why not.

    It is asked in a thread of its own, as a driver may wait for as long as it likes, and again while the storage is what fails: somebody else's lock may be gone.
    """
    deadline = time.monotonic() + SECONDS
    answers: list[bool] = []
    errors = [f"no answer within {SECONDS:g} s"]

    def work() -> None:
        while True:
            try:
                return answers.append(ask())
            except Exception as error:  # of whatever kind: it ends the reports and not the run
                is_of_the_storage = isinstance(error, SettingError) and error.setting == SETTING
                errors.append(error.rule if isinstance(error, SettingError) else _one_line(error))
            if not is_of_the_storage or time.monotonic() + SECONDS_BETWEEN > deadline:
                return
            time.sleep(SECONDS_BETWEEN)

    thread = threading.Thread(target=work, name="study", daemon=True)
    thread.start()
    thread.join(SECONDS)
    return (answers[0], "") if answers else (None, errors[-1])


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
