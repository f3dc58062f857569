"""How the next settings are chosen from what came of those before."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, RandomSampler, TPESampler

from vaelab.errors import SettingError, choice

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

SETTING = "sweep.sampler"
#: whose points are known beforehand
GRID = "grid"
KINDS: dict[str, tuple[type[BaseSampler], dict[str, Any]]] = {
    # several settings are seen together, and trials that run as if they had failed: else free slots would try one point twice
    "tpe": (
        TPESampler,
        {"multivariate": True, "group": True, "constant_liar": True},
    ),
    "cmaes": (CmaEsSampler, {}),
    "random": (RandomSampler, {}),
    GRID: (RandomSampler, {}),
    "nsgaii": (NSGAIISampler, {}),
}


def check(name: str, options: Mapping[str, Any], num_objectives: int) -> None:
    """Raise SettingError for a sampler that there is not, that does not take these options, or not so many objectives."""
    choice(SETTING, name, list(KINDS))
    if name == "cmaes" and num_objectives > 1:
        raise SettingError(SETTING, name, "searches for one objective; several take tpe, nsgaii or random")
    if name == GRID and options:
        raise SettingError("sweep.sampler_options", dict(options), "a grid has none")
    _build(name, 0, options)


class EachTrialItsSeed(BaseSampler):
    """A sampler that is made anew for each trial, from ``seed`` and the trial's place in the study: so what is proposed depends on these, and on what is
    known by then, but neither on which process asks nor on how often the search was interrupted.

    Args:
        name: one of :data:`KINDS`.
        seed: of the search.
        options: arguments of Optuna's class.
        place: under which attribute a trial has its place.
    """

    def __init__(self, name: str, seed: int, options: Mapping[str, Any], place: str) -> None:
        self._name, self._seed, self._options, self._place = name, seed, options, place
        self._inner = _build(name, seed, options)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        place = trial.user_attrs.get(self._place, trial.number)
        digest = hashlib.sha256(f"{self._seed}/{place}".encode()).digest()
        self._inner = _build(self._name, int.from_bytes(digest[:4]), self._options)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()


def _build(name: str, seed: int, options: Mapping[str, Any]) -> BaseSampler:
    kind, usual = KINDS[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return kind(**{**usual, **options, "seed": seed})
    except (TypeError, ValueError) as error:
        raise SettingError(
            "sweep.sampler_options", dict(options), f"{kind.__name__} does not take them: {error}"
        ) from None
