"""What a search is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vaelab.errors import SettingError, choice, integer


@dataclass(frozen=True)
class Settings:
    """
    Attributes:
        name: of the study; None = what the sweep is called.
        trials: in all, however often the search is started; None = 20, or a grid's points.
        sampler, sampler_options: one of :data:`vaelab.sweeps.search.samplers.KINDS`, and arguments of its class.
        pruner, pruner_options: as :mod:`vaelab.sweeps.search.pruners` takes them.
        objectives: name -> ``min`` or ``max``; empty = the score.
        storage: as :func:`vaelab.sweeps.search.storage.placed` takes it.
        seed: of what is proposed.
        batch: jobs at a time, with a launcher that takes no single ones.
    """

    name: str | None = None
    trials: int | None = None
    sampler: str = "tpe"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    pruner: str = "none"
    pruner_options: Mapping[str, Any] = field(default_factory=dict)
    objectives: Mapping[str, str] = field(default_factory=dict)
    storage: str | None = None
    seed: int = 0
    batch: int = 1

    @classmethod
    def of(cls, settings: Mapping[str, Any], batch: int = 1) -> Settings:
        """Checked.

        Raises:
            SettingError: of a value that cannot be.
        """
        from vaelab.sweeps.search import pruners, samplers

        given = {key: value for key, value in settings.items() if value is not None}
        found = cls(**{**given, "batch": integer("hydra.sweeper.batch", batch, 1)})
        if found.trials is not None:
            integer("sweep.trials", found.trials, 1)
        for name in ("name", "storage"):
            if not isinstance(given.get(name, ""), str):
                raise SettingError(f"sweep.{name}", given[name], "must be text")
        integer("sweep.seed", found.seed, 0)
        for name in ("objectives", "sampler_options", "pruner_options"):
            if not isinstance(given.get(name, {}), Mapping):
                raise SettingError(f"sweep.{name}", given[name], "must be a mapping, as in {name: value}")
        for name, mode in found.objectives.items():
            choice(f"sweep.objectives.{name}", mode, ("min", "max"))
        several = len(found.objectives) > 1
        samplers.check(found.sampler, found.sampler_options, len(found.objectives) or 1)
        pruners.build(found.pruner, found.pruner_options, None)
        if several and found.pruner != "none":
            raise SettingError(
                "sweep.pruner",
                found.pruner,
                "a trial is given up by one number; with several objectives: none",
            )
        return found
