"""A study: what a search was asked for, its trials, and who has each of them in hand.

The study lies in a storage that several processes may share, on one machine or on several, and that outlives all of them. So that they make exactly as many trials
as were asked for, a place is reserved for each when the study is made. A place has a trial, which waits, runs, or has ended; where the process that had it in hand is
gone, that trial is *lost*: it is failed, and the place gets another one with the same values.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from vaelab.errors import SettingError
from vaelab.runs import Secrets
from vaelab.runs.identity import counts
from vaelab.runs.status import process_identity, utc_now
from vaelab.runs.table import flatten
from vaelab.sweeps.search.samplers import GRID, EachTrialItsSeed
from vaelab.sweeps.search.space import Space, as_json, describe, is_number
from vaelab.sweeps.search.storage import alone, explained, open_storage, shown

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

SCHEMA = 1
ASKED = "vaelab"  # attribute of the study
#: attributes of a trial
PLACE, ATTEMPT, WORKER, LOST, SURPLUS, ERROR = (
    "vaelab:place", "vaelab:attempt", "vaelab:worker", "vaelab:lost", "vaelab:surplus", "vaelab:error"
)  # fmt: skip
#: seconds between two signs of life, and of a silence after which a process of another machine is taken for gone
BEAT, SILENCE = 20.0, 120.0
SECONDS_OF_GROWTH = 1.0  # without a new place, after which nobody else is taken to reserve any
SECONDS_BETWEEN = 5.0  # two looks at the trials of others
#: a place whose trials were lost so often is given up
MOST_ATTEMPTS = 20
USUAL = 20  # trials
DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}


@dataclass(frozen=True)
class Question:
    """What a study is about; it holds for as long as there is the study.

    Attributes:
        space: the values that are searched.
        objectives: name of each number -> ``min`` or ``max``.
        fixed: setting -> value, of all others that can change a number.
        typed: the settings among them that were typed.
    """

    space: Space
    objectives: Mapping[str, str]
    fixed: Mapping[str, Any]
    typed: frozenset[str] = frozenset()

    def record(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "space": as_json(self.space),
            "objectives": dict(self.objectives),
            "order": list(self.objectives),
            "fixed": dict(self.fixed),
        }

    def differences(self, record: Mapping[str, Any]) -> list[str]:
        """How this differs from a study's, a line each: ``optimizer.lr: 0.001 to 0.1 here, 0.0001 to 0.01 in the study``."""
        import json

        from optuna.distributions import json_to_distribution

        known = {
            name: describe(json_to_distribution(json.dumps(one))) for name, one in record["space"].items()
        }
        lines = _compared(self.space.described(), known, "is not searched")
        lines += _compared(dict(self.objectives), record["objectives"], "is no objective")
        if not lines and list(self.objectives) != record["order"]:
            lines.append(f"objectives: {list(self.objectives)} here, {record['order']} in the study")
        fixed = record["fixed"]
        # a setting that a later version has added is no difference, unless somebody has set it
        lines += _compared(
            {key: value for key, value in self.fixed.items() if key in fixed or key in self.typed},
            fixed,
            "has no value",
        )
        return lines


def _compared(here: Mapping[str, Any], there: Mapping[str, Any], lacking: str) -> list[str]:
    return [
        f"{key}: {here.get(key, lacking)} here, {there.get(key, lacking)} in the study"
        for key in dict.fromkeys([*there, *here])
        if key not in here or key not in there or here[key] != there[key]
    ]


@dataclass(frozen=True)
class Taken:
    """A trial in this process's hands."""

    number: int
    place: int
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """How many places of a study have what: ``ended`` counts completed, pruned and failed ones."""

    total: int
    completed: int
    pruned: int
    failed: int
    running: int

    @property
    def ended(self) -> int:
        return self.completed + self.pruned + self.failed

    @property
    def waiting(self) -> int:
        return self.total - self.ended - self.running


class Study:
    """The trials of a search.

    Args:
        storage: as :func:`vaelab.sweeps.search.storage.placed` gives it.
        name: of the study.
        question: what it is about.
        total: of the trials; None = 20, or a grid's points.
        sampler: name, seed and options of the sampler.
        pruner: that the trials are asked by, too; a sampler may look at it.
        retry: how often a trial that failed is tried again, when the study is opened again.
    """

    def __init__(
        self,
        storage: str,
        name: str,
        question: Question,
        total: int | None,
        sampler: tuple[str, int, Mapping[str, Any]],
        pruner: BasePruner | None = None,
        retry: int = 0,
    ) -> None:
        self.storage, self.name, self.question = storage, name, question
        self._mine: set[int] = set()
        self._made = False
        self._me = {"pid": os.getpid(), "process": process_identity(os.getpid())}
        self._seen: dict[
            int, tuple[Any, float]
        ] = {}  # of others' trials: the last sign of life, and when it was new
        self._next_beat = self._next_look = 0.0
        optuna.logging.set_verbosity(
            optuna.logging.ERROR
        )  # its warnings are a line a trial, across the live table
        grid = question.space.grid() if sampler[0] == GRID else None
        self.total = (total or USUAL) if grid is None else len(grid)
        if grid is not None and total not in (None, len(grid)):
            raise SettingError(
                "sweep.trials", total, f"a grid has as many as it has points, here {len(grid)}; leave it away"
            )
        if sampler[0] == "cmaes" and not any(is_number(one) for one in question.space.distributions.values()):
            raise SettingError(
                "sweep.sampler",
                "cmaes",
                "moves in numbers, of which this space has none: take tpe, random or grid",
            )
        self._backend = open_storage(storage)
        with explained(storage):
            self.study = self._made_or_found(EachTrialItsSeed(*sampler, PLACE), pruner)
            self._id = self._backend.get_study_id_from_name(name)
            self._agree()
            self._reserve(grid)
            self._try_again(retry)

    @property
    def trials(self) -> list[FrozenTrial]:
        """Those that stand for their places, in the order of these."""
        return [attempts[-1] for _, attempts in sorted(self._places().items())]

    @property
    def standing(self) -> Standing:
        places = self._places()
        self.total = max(self.total, len(places))  # another process may have asked for more
        states = [_state(attempts) for attempts in places.values()]
        count = states.count
        return Standing(
            self.total, count(TrialState.COMPLETE), count(TrialState.PRUNED), count(TrialState.FAIL), count(TrialState.RUNNING)
        )  # fmt: skip

    def take(self) -> Taken | None:
        """A trial that waits, with values for all settings; None where none does."""
        with explained(self.storage), alone(self.storage):
            while self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                trial = self.study.ask(fixed_distributions=dict(self.question.space.distributions))
                place = trial.user_attrs.get(PLACE)
                if place is None or self._is_double(trial.number, trial.user_attrs):
                    trial.set_user_attr(
                        SURPLUS, True
                    )  # two processes reserved one place, or took the last one at the same moment
                    self.study.tell(trial, state=TrialState.FAIL)
                    continue
                self._sign(trial.number)
                self._mine.add(
                    trial.number
                )  # after that: one that could not be signed is nobody's, and is found lost
                return Taken(trial.number, place, dict(trial.params))
        return None

    def complete(self, trial: Taken, values: Sequence[float]) -> None:
        """A trial has its numbers."""
        with explained(self.storage):
            self._end(trial.number, TrialState.COMPLETE, values)

    def prune(self, trial: Taken) -> None:
        """A trial was given up, by what it reported itself."""
        with explained(self.storage):
            self._end(trial.number, TrialState.PRUNED)

    def fail(self, trial: Taken, error: str) -> None:
        """A trial has no number, and will have none."""
        with explained(self.storage):
            self._note(trial.number, ERROR, Secrets.of(os.environ).redact(error)[:500])
            self._end(trial.number, TrialState.FAIL)

    def lose(self, trial: Taken) -> None:
        """A trial has stopped before its end; whoever comes next goes on with it."""
        with explained(self.storage):
            self._lose(self._trial(trial.number))
            self._mine.discard(trial.number)

    def beat(self) -> None:
        """Say that this process is there, and see to the trials of those that are not. To be called every few seconds."""
        now = time.monotonic()
        with explained(self.storage):
            if now >= self._next_beat:
                self._next_beat = now + BEAT
                self._sign_all()
            if now >= self._next_look:
                self._next_look = now + SECONDS_BETWEEN
                self._bury(now)
                self._fill()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Within, signs of life are given by a thread: whoever works within does not come back for hours."""
        over = threading.Event()

        def sign() -> None:
            while not over.wait(BEAT):
                # out of reach: the next one may come through
                with suppress(SettingError), explained(self.storage):
                    self._sign_all()
            if isinstance(self._backend, optuna.storages.RDBStorage):
                self._backend.remove_session()  # this thread's

        thread = threading.Thread(target=sign, name="study", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        """Close the connections to the storage."""
        if isinstance(self._backend, optuna.storages.RDBStorage):
            self._backend.remove_session()
            self._backend.engine.dispose()

    def _made_or_found(self, sampler: EachTrialItsSeed, pruner: BasePruner | None) -> optuna.Study:
        directions = [DIRECTIONS[mode] for mode in self.question.objectives.values()]
        arguments: dict[str, Any] = {"study_name": self.name, "storage": self._backend, "sampler": sampler}
        arguments["pruner"] = optuna.pruners.NopPruner() if pruner is None else pruner
        try:
            study = optuna.create_study(directions=directions, **arguments)
        except DuplicatedStudyError:
            return optuna.load_study(**arguments)
        self._made = True
        study.set_user_attr(ASKED, self.question.record())
        return study

    def _agree(self) -> None:
        """Raise SettingError where the study is about something else."""
        where = f"{self.name} in {shown(self.storage)}"
        for _ in range(20):  # whoever is making it at this moment has said what it is about in a moment
            record = self.study.user_attrs.get(ASKED)
            if record is not None:
                break
            time.sleep(0.1)
        else:
            if self.study.get_trials(deepcopy=False):
                raise SettingError(
                    "sweep.name", self.name, f"{where} is a study that something else has made"
                )
            record = self.question.record()  # whoever made it was killed before that
            self.study.set_user_attr(ASKED, record)
        if record.get("schema") != SCHEMA:
            raise SettingError(
                "sweep.name", self.name, f"{where} is of schema {record.get('schema')}, not {SCHEMA}"
            )
        if different := self.question.differences(record):
            lines = "\n  ".join(different)
            raise SettingError(
                "sweep.name",
                self.name,
                f"{where} is about something else; give another name, or the same settings:\n  {lines}",
            )

    def _reserve(self, grid: list[dict[str, Any]] | None) -> None:
        places = self._places()
        while (
            not self._made and len(places) < self.total
        ):  # whoever made the study may be about to reserve them
            time.sleep(SECONDS_OF_GROWTH)
            before, places = places, self._places()
            if len(places) == len(before):
                break
        if len(places) > self.total:
            raise SettingError(
                "sweep.trials",
                self.total,
                f"{self.name} has {len(places)} trials already; they may become more, not fewer",
            )
        for place in range(self.total):
            if place not in places:
                self._enqueue(place, 0, {} if grid is None else grid[place])

    def _try_again(self, retry: int) -> None:
        for place, attempts in self._places().items():
            failed = [
                trial for trial in attempts if trial.state is TrialState.FAIL and LOST not in trial.user_attrs
            ]
            if _state(attempts) is TrialState.FAIL and len(failed) <= retry:
                last = attempts[-1]
                self._enqueue(place, last.user_attrs[ATTEMPT] + 1, _values(last))
        self._fill()

    def _fill(self) -> None:
        """Give places whose trial was lost another one."""
        for place, attempts in self._places().items():
            if _state(attempts) is None:
                last = attempts[-1]
                self._enqueue(place, last.user_attrs[ATTEMPT] + 1, _values(last))

    def _places(self) -> dict[int, list[FrozenTrial]]:
        """The trials of each place, in the order of their attempts; of two of one attempt the first one."""
        found: dict[int, dict[int, FrozenTrial]] = defaultdict(dict)
        with explained(self.storage):
            trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            attrs = trial.user_attrs
            if PLACE in attrs and SURPLUS not in attrs:
                found[attrs[PLACE]].setdefault(attrs[ATTEMPT], trial)
        return {place: [attempts[number] for number in sorted(attempts)] for place, attempts in found.items()}

    def _is_double(self, number: int, attrs: Mapping[str, Any]) -> bool:
        """Whether an earlier trial is the same attempt at the same place, or the place has its result."""
        attempts = self._places()[attrs[PLACE]]
        return any(
            (trial.number < number and trial.user_attrs[ATTEMPT] == attrs[ATTEMPT])
            or (trial.number != number and trial.state in (TrialState.COMPLETE, TrialState.PRUNED))
            for trial in attempts
        )

    def _enqueue(self, place: int, attempt: int, params: Mapping[str, Any]) -> None:
        self.study.enqueue_trial(dict(params), user_attrs={PLACE: place, ATTEMPT: attempt})

    def _bury(self, now: float) -> None:
        """Lose the trials of processes that are gone."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number in self._mine or PLACE not in trial.user_attrs:
                continue
            sign = trial.user_attrs.get(WORKER)
            here = _is_here(sign)
            if here is None:
                known, since = self._seen.get(trial.number, (object(), now))
                if known != sign:
                    self._seen[trial.number] = (sign, now)
                here = known != sign or now - since < SILENCE
            if not here:
                self._lose(trial)

    def _lose(self, trial: FrozenTrial) -> None:
        try:
            if not self._note(trial.number, LOST, True):
                return
            self.study.tell(trial.number, state=TrialState.FAIL)
        except (UpdateFinishedTrialError, ValueError):  # another process has been faster
            return
        attempt = trial.user_attrs[ATTEMPT] + 1
        if attempt < MOST_ATTEMPTS:
            self._enqueue(trial.user_attrs[PLACE], attempt, _values(trial))

    def _end(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        self._mine.discard(number)
        # one that was taken for lost has been given to somebody else, who finds the run
        self.study.tell(
            number, values if state is TrialState.COMPLETE else None, state=state, skip_if_finished=True
        )

    def _sign_all(self) -> None:
        for number in list(self._mine):
            if not self._sign(number):  # taken for lost, and given to somebody else, who finds the run
                self._mine.discard(number)

    def _sign(self, number: int) -> bool:
        return self._note(number, WORKER, {**self._me, "at": utc_now()})

    def _note(self, number: int, key: str, value: Any) -> bool:
        """Put something down at a trial. Returns False where it has ended."""
        trial_id = self._backend.get_trial_id_from_study_id_trial_number(self._id, number)
        try:
            self._backend.set_trial_user_attr(trial_id, key, value)
        except UpdateFinishedTrialError:
            return False
        return True

    def _trial(self, number: int) -> FrozenTrial:
        return self._backend.get_trial(
            self._backend.get_trial_id_from_study_id_trial_number(self._id, number)
        )


def _values(trial: FrozenTrial) -> dict[str, Any]:
    """Those that a trial has, and those that it was to have, if its process was gone before it had them all."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _state(attempts: Sequence[FrozenTrial]) -> TrialState | None:
    """Of a place; None where its trials were lost."""
    # one that was taken for lost, and yet completed, is completed
    states = {one.state for one in attempts if one.state is not TrialState.FAIL or LOST not in one.user_attrs}
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING):
        if state in states:
            return state
    given_up = attempts[-1].user_attrs[ATTEMPT] + 1 >= MOST_ATTEMPTS
    return TrialState.FAIL if TrialState.FAIL in states or given_up else None


def _is_here(sign: Any) -> bool | None:
    """Whether the process that signed is there; None where it is on another machine, or nobody has signed yet."""
    if not isinstance(sign, dict) or sign.get("process") is None:
        return None
    mine = process_identity(os.getpid())
    if mine is None or mine.partition(":")[0] != str(sign["process"]).partition(":")[0]:
        return None
    return process_identity(int(sign["pid"])) == sign["process"]


def finite(values: Sequence[float]) -> bool:
    """Whether a study takes these numbers."""
    return all(math.isfinite(value) for value in values)


def settings_of(counted: Mapping[str, Any]) -> dict[str, Any]:
    """Of a configuration, by their dotted keys; lists stay whole.

    >>> settings_of({"optimizer": {"lr": 0.1}, "seed": 0})
    {'optimizer.lr': 0.1, 'seed': 0}
    """
    return {key: value for key, value in flatten(counted).items() if counts(key)}
