"""A search with a launcher that takes batches only: as many trials as a batch has run, the study is told, and so on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from vaelab.errors import SettingError
from vaelab.sweeps.search import pruners
from vaelab.sweeps.search.settings import Settings
from vaelab.sweeps.search.space import Space
from vaelab.sweeps.search.storage import placed
from vaelab.sweeps.search.study import Question, Study, Taken, finite

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]
#: the numbers of a job that has been launched; raises SettingError where it has none
Numbers = Callable[[Sequence[str], JobReturn], list[float]]


def run(study: Study, fixed: Sequence[str], launch: Launch, numbers: Numbers, batch: int) -> list[JobReturn]:
    """Have all trials carried out that no other process has in hand.

    Args:
        study: that is asked for trials.
        fixed: the overrides that all of them have.
        launch: Hydra's launcher.
        numbers: of a job.
        batch: trials at a time.
    """
    print(
        f"this launcher runs batches: {batch} trials at a time, and the next ones when all of them have ended",
        flush=True,
    )
    done: list[JobReturn] = []
    while True:
        study.beat()
        trials: list[Taken] = []
        while len(trials) < batch and (trial := study.take()) is not None:
            trials.append(trial)
        if not trials:
            return done
        try:
            overrides = [[*fixed, *study.question.space.overrides(trial.params)] for trial in trials]
            with study.alive():
                launched = launch(overrides, len(done))
            for returned, own in zip(launched, overrides, strict=True):
                trial = trials[0]
                try:
                    study.complete(trial, numbers(own, returned))
                except SettingError as error:
                    print(f"trial {trial.place}: {error}", flush=True)
                    study.fail(trial, str(error))
                trials.pop(0)
                done.append(returned)
        finally:
            for trial in trials:
                study.lose(trial)


def search(
    settings: Settings, context: HydraContext, config: DictConfig, lines: Sequence[str], launch: Launch
) -> list[JobReturn]:
    """Search what any Hydra application returns: a number, or a sequence of as many as there are objectives.

    Args:
        settings: of the search.
        context, config: as Hydra hands them to a sweeper.
        lines: the overrides as typed.
        launch: Hydra's launcher.
    """
    from vaelab.sweeps.search import summary

    if settings.pruner != "none":
        raise SettingError(
            "hydra.sweeper.pruner",
            settings.pruner,
            "this application reports nothing by which a run could be given up",
        )
    parsed = OverridesParser.create(context.config_loader).parse_overrides(list(lines))
    overrides = list({override.get_key_element(): override for override in parsed}.values())
    swept = [override for override in overrides if override.is_sweep_override()]
    fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    if not swept:
        raise SettingError(
            "hydra.sweeper", "optuna", "no setting has several values: there is nothing to search"
        )
    objectives = dict(settings.objectives) or {"value": "min"}
    name = settings.name or str(OmegaConf.select(config, "hydra.job.name") or "study")
    given = {str(line).partition("=")[0]: str(line).partition("=")[2] for line in fixed}
    question = Question(Space.of(swept), objectives, given)
    storage = placed(settings.storage, Path.cwd() / f"{name}_study")
    sampler = (settings.sampler, settings.seed, settings.sampler_options)
    study = Study(storage, name, question, settings.trials, sampler, pruners.build("none", {}, None))

    def numbers(_: Sequence[str], returned: JobReturn) -> list[float]:
        return returned_numbers(returned, len(objectives))

    try:
        return run(study, fixed, launch, numbers, settings.batch)
    finally:
        try:
            print("\n".join(summary.lines(study, None, fixed)), flush=True)
        except SettingError as error:  # the storage is out of reach: what ended the search is said, too
            print(f"what was found cannot be shown: {error}", flush=True)
        study.close()


def returned_numbers(returned: JobReturn, count: int) -> list[float]:
    """What a job returned.

    Raises:
        SettingError: it failed, or returned something else.
    """
    if returned.status is not JobStatus.COMPLETED:
        error: Any = returned._return_value
        raise SettingError("job", type(error).__name__, f"failed: {error}")
    value = returned.return_value
    values = list(value) if isinstance(value, list | tuple) else [value]
    if len(values) != count or not all(isinstance(one, int | float) and math.isfinite(one) for one in values):
        raise SettingError("job", value, f"returned something else than {count} finite numbers")
    assert finite(values)
    return [float(one) for one in values]
