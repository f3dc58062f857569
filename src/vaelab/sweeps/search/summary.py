"""What a search has found: its best trials, ready to be typed, and which settings mattered."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.exceptions import OptunaError
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from vaelab.runs import Secrets, write_json
from vaelab.sweeps.search.search import best_places
from vaelab.sweeps.search.storage import shown
from vaelab.sweeps.search.study import ERROR, PLACE, SURPLUS, Study

SCHEMA = 1
FILE = "search.json"  # in the folder of a sweep
MOST = 12  # of the best ones that are shown
FEWEST = 4  # trials that importances need to say anything


def lines(study: Study, command: str | None, fixed: Sequence[str]) -> list[str]:
    """What is printed at the end.

    Args:
        study: that has ended, or been interrupted.
        command: by which the best trial can be run with several seeds, ``vae-train -m hydra/sweeper=grid``; None where an application has none.
        fixed: the overrides that are common to all trials.
    """
    standing = study.standing
    said = [f"{standing.completed} completed"]
    said += [f"{number} {word}" for number, word in ((standing.pruned, "pruned"), (standing.failed, "failed"), (standing.running, "running"), (standing.waiting, "waiting")) if number]  # fmt: skip
    configurations = len({tuple(trial.params.items()) for trial in study.trials if trial.params})
    fewer = f", in {configurations} configurations" if configurations < standing.ended else ""
    found = [f"{standing.total} trials: {', '.join(said)}{fewer}"]
    best = best_trials(study)
    names = list(study.question.objectives)
    if len(names) > 1 and best:
        found.append(f"{len(best)} that no other one is better than in everything:")
        best = sorted(best, key=lambda trial: trial.values)
    for trial in best[:MOST]:
        values = "  ".join(f"{name} {value:.6g}" for name, value in zip(names, trial.values, strict=True))
        found += [f"best: {values} (trial {trial.user_attrs[PLACE]})", f"  {_pasted(study, trial)}"]
    if len(best) > MOST:
        found.append(f"... and {len(best) - MOST} more")
    for name, shares in importances(study).items():
        of = f" of {name}" if len(names) > 1 else ""
        found.append(
            f"importance{of} (fANOVA): {', '.join(f'{key} {share:.2f}' for key, share in shares.items())}"
        )
    if command is not None and best and len(names) == 1:
        again = " ".join(
            [
                command,
                *map(shlex.quote, Secrets.of(os.environ).words(fixed)),
                _pasted(study, best[0]),
                "seed=0,1,2,3,4",
            ]
        )
        found.append(f"one seed says little; the best with five:\n  {again}")
    return found


def write(study: Study, folder: Path, sampler: str, pruner: str) -> None:
    """Write ``search.json``: all trials, the best of them, the importances."""
    record = {
        "schema": SCHEMA,
        "study": study.name,
        "storage": shown(study.storage),
        "sampler": sampler,
        "pruner": pruner,
        "objectives": dict(study.question.objectives),
        "space": study.question.space.described(),
        "trials": [_record(trial) for trial in study.trials],
        "best": [trial.user_attrs[PLACE] for trial in best_trials(study)],
        "importances": importances(study),
    }
    folder.mkdir(parents=True, exist_ok=True)  # another machine may have made all of them
    write_json(folder / FILE, Secrets.of(os.environ).redact(record))


def best_trials(study: Study) -> list[FrozenTrial]:
    """See :func:`vaelab.sweeps.search.search.best_places`."""
    best = best_places(study)
    by_place = {trial.user_attrs[PLACE]: trial for trial in study.trials}
    return [by_place[place] for place in best if place in by_place]


def importances(study: Study) -> dict[str, dict[str, float]]:
    """The share of each objective's variance that each setting explains (Hutter et al. 2014), the largest first; empty where there are too few trials, or no variance.

    Returns:
        objective -> setting -> share, which sum to one.
    """
    completed = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    found: dict[str, dict[str, float]] = {}
    for number, name in enumerate(study.question.objectives):
        if len(completed) < FEWEST or len({trial.values[number] for trial in completed}) < 2:
            continue
        evaluator = FanovaImportanceEvaluator(seed=0)
        target = None if len(study.question.objectives) == 1 else _value(number)
        try:
            shares: Mapping[str, Any] = get_param_importances(study.study, evaluator=evaluator, target=target)
        except (ValueError, RuntimeError, OptunaError):  # a forest without a split: nothing can be told apart
            continue
        found[name] = {key: float(share) for key, share in shares.items()}
    return found


def _value(number: int) -> Any:
    return lambda trial: trial.values[number]


def _pasted(study: Study, trial: FrozenTrial) -> str:
    return " ".join(map(shlex.quote, study.question.space.overrides(trial.params)))


def _record(trial: FrozenTrial) -> dict[str, Any]:
    assert SURPLUS not in trial.user_attrs
    return {
        "place": trial.user_attrs[PLACE],
        "number": trial.number,
        "state": trial.state.name.lower(),
        "params": dict(trial.params),
        "values": trial.values if trial.state is TrialState.COMPLETE else None,
        "error": trial.user_attrs.get(ERROR),
    }
