"""Which runs are given up before their end. Their time is counted in validations, the first one is 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vaelab.errors import SettingError, choice, integer, nearest

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

SETTING = "sweep.pruner"
NONE, MEDIAN, HYPERBAND = "none", "median", "hyperband"
#: the options of each, and the least that they may be
OPTIONS = {
    NONE: {},
    MEDIAN: {"n_startup_trials": 0, "n_warmup_steps": 0, "interval_steps": 1, "n_min_trials": 1},
    HYPERBAND: {"min_resource": 1, "max_resource": 1, "reduction_factor": 2, "bootstrap_count": 0},
}


def build(name: str, options: Mapping[str, Any] | None = None, resource: int | None = None) -> BasePruner:
    """The pruner of a study, the same for whoever chooses its trials and for each of its runs.

    Args:
        name: ``none``; ``median``, which gives up a run whose best score so far is worse than the median of those that completed at the same validation; ``hyperband``,
            which lets the best third of those that came so far go on, from one validation to three times as many, and spares some the first of these comparisons.
        options: of Optuna's class of that name; None as a value = ours.
        resource: validations of a run that nobody stops; None = not known: then ``hyperband`` gives up nothing until a run has completed.

    Raises:
        SettingError: there is no such pruner, or it has no such option.
    """
    choice(SETTING, name, OPTIONS)
    given = {key: value for key, value in (options or {}).items() if value is not None}
    for key, value in given.items():
        if key not in OPTIONS[name]:
            known = ", ".join(OPTIONS[name]) or "none at all"
            raise SettingError(SETTING, name, f"has no option {key}; it has {known}", nearest=nearest(key, OPTIONS[name]))  # fmt: skip
        integer(f"{SETTING}.{key}", value, OPTIONS[name][key])
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if name == NONE:
        return NopPruner()
    if name == MEDIAN:
        # n_startup_trials: a median of fewer says little. n_warmup_steps: what the first validations order is how fast runs begin, which is the learning
        # rate and the warm-up of beta, and not how well they end
        warmup = 2 if resource is None else max(2, resource // 5)
        return MedianPruner(**{"n_startup_trials": 5, "n_warmup_steps": warmup, **given})
    least, most = given.get("min_resource", 1), given.get("max_resource", resource)
    if most is not None and least > most:
        rule = f"is more than the {most} validations of a whole run"
        raise SettingError(f"{SETTING}.min_resource", least, rule)
    if most is None and given.get("bootstrap_count"):
        rule = "needs to be told how many validations a run has: sweep.pruner.max_resource"
        raise SettingError(f"{SETTING}.bootstrap_count", given["bootstrap_count"], rule)
    # min_resource 1: brackets that start later are Hyperband's own answer to slow beginnings. reduction_factor 3: that of its paper (Li et al. 2018, JMLR 18)
    usual = {
        "min_resource": 1,
        "max_resource": "auto" if most is None else most,
        "reduction_factor": 3,
    }
    return HyperbandPruner(**{**usual, **given})
