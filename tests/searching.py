"""A search over ``x``, as tests and their processes carry it out; runs are stood in for (objective.py), all else is real.

python searching.py STORAGE FOLDER TOTAL SLOTS: one process of such a search.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from vaelab.sweeps.job import Job
from vaelab.sweeps.pool import Pool
from vaelab.sweeps.search import search
from vaelab.sweeps.search.pruners import build
from vaelab.sweeps.search.space import Space
from vaelab.sweeps.search.storage import placed
from vaelab.sweeps.search.study import Question, Study, Taken
from vaelab.sweeps.slots import Slots
from vaelab.sweeps.sweep import Commands, Sweep

OBJECTIVE = str(Path(__file__).parent / "sweeps" / "objective.py")
CONFIG = {"score": {"name": "val/elbo", "mode": "max"}}
ELBO = {"val/elbo": "max"}


def space_of(*typed: str) -> Space:
    return Space.of(OverridesParser.create().parse_overrides(list(typed)))


def study_of(
    storage: str,
    total: int | None,
    *typed: str,
    objectives: Mapping[str, str] = ELBO,
    fixed: Mapping[str, Any] | None = None,
    typed_fixed: frozenset[str] = frozenset(),
    sampler: str = "random",
    seed: int = 0,
    retry: int = 0,
    name: str = "s",
) -> Study:
    question = Question(
        space_of(*(typed or ("x=interval(0,1)",))), objectives, fixed or {"seed": 0}, typed_fixed
    )
    study = Study(storage, name, question, total, (sampler, seed, {}), build("none"), retry)
    OPENED.append(study)
    return study


#: studies whose connections a test closes at its end
OPENED: list[Study] = []


def close_all() -> None:
    while OPENED:
        OPENED.pop().close()


def sweep_in(folder: Path, slots: int = 2) -> Sweep:
    commands = Commands((sys.executable, OBJECTIVE, "train"), (sys.executable, OBJECTIVE, "resume"))
    return Sweep(folder, commands, Pool(Slots(slots)), 1, ["vae-train", "-m"], [])


def job_of(trial: Taken, word: str = "completes") -> Job:
    identity = hashlib.sha256(json.dumps(dict(trial.params), sort_keys=True).encode()).hexdigest()
    own = tuple(f"{key}={value}" for key, value in trial.params.items())
    return Job((*own, f"word={word}", f"identity={identity}"), dict(trial.params), CONFIG, identity, own)


def carry_out(study: Study, folder: Path, slots: int = 2, make: Callable[[Taken], Job] = job_of) -> Sweep:
    sweep = sweep_in(folder, slots)
    try:
        search.run(study, sweep, make, "val/elbo")
    finally:
        sweep.close()
    return sweep


if __name__ == "__main__":
    storage, folder, total, slots = sys.argv[1:]
    carry_out(study_of(placed(storage, Path(folder)), int(total)), Path(folder), int(slots))
    close_all()
