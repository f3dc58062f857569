"""``-m hydra/sweeper=optuna``: from a command line with several values to a study, and from its trials to jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn

from vaelab.errors import SettingError, choice
from vaelab.experiments.check import VALIDATION
from vaelab.runs.identity import counted
from vaelab.sweeps.job import Job
from vaelab.sweeps.search import batches, pruners, search, summary
from vaelab.sweeps.search.batches import Launch
from vaelab.sweeps.search.settings import Settings
from vaelab.sweeps.search.space import Space
from vaelab.sweeps.search.storage import placed, shown
from vaelab.sweeps.search.study import Question, Study, Taken, settings_of
from vaelab.sweeps.search.trial import Trial
from vaelab.sweeps.workers import MakeWorkers

DONE, SOME_FAILED = 0, 3

if TYPE_CHECKING:
    from vaelab.commands.multirun import Multirun


def carry_out(
    multirun: Multirun, settings: Settings, workers: MakeWorkers | None, launch: Launch
) -> list[JobReturn]:
    """Search for the best values of what is swept over.

    Args:
        multirun: the command line.
        settings: of the search.
        workers: of a launcher that takes jobs one by one.
        launch: of any launcher.

    Raises:
        SettingError: of the search, or of one of its jobs, before the first one is started.
    """
    swept = _searched(multirun)
    space = Space.of(swept)
    # the storage may hold a password, and is no job's business
    typed = [
        one for one in multirun.typed if not one.is_sweep_override() and one.key_or_group != "sweep.storage"
    ]
    corners = [
        [*(str(one.input_line) for one in typed), *space.overrides(corner)] for corner in space.corners()
    ]
    try:
        jobs = multirun.jobs(corners)
    except SettingError as error:
        raise _of_whole_numbers(swept, error) or error from error
    fixed = [str(one.input_line) for one in typed if not one.key_or_group.startswith("sweep.")]
    config = jobs[0].config
    objectives = _objectives(settings, jobs)
    _check_pruner(settings, objectives, config["score"])
    if settings.pruner != "none" and workers is None:
        rule = "needs a launcher that takes jobs one by one, as hydra/launcher=local does"
        raise SettingError("sweep.pruner", settings.pruner, rule)
    sweep = multirun.open(jobs, workers)
    keys = [one.key_or_group for one in swept]
    question = Question(space, objectives, _others(config, keys), frozenset(map(_key, fixed)))
    resource = num_validations(config)
    storage = placed(settings.storage, sweep.folder)
    study = Study(
        storage,
        sweep.folder.name,
        question,
        settings.trials,
        (settings.sampler, settings.seed, settings.sampler_options),
        pruners.build(settings.pruner, settings.pruner_options, resource),
        sweep.retry,
    )
    multirun.announce(_standing(study, settings), *([] if settings.storage is None else [shown(storage)]))

    def job_of(trial: Taken) -> Job:
        job = multirun.job([*fixed, *space.overrides(trial.params)])
        if settings.pruner == "none":
            return job
        told = Trial(storage, study.name, trial.number, settings.pruner, settings.pruner_options, resource)
        return replace(job, environment=told.variables())

    try:
        if workers is None:
            return batches.run(study, fixed, launch, _numbers(multirun, list(objectives)), settings.batch)
        search.run(study, sweep, job_of, config["score"]["name"])
        return [multirun.returned(result) for result in sweep.results]
    finally:
        try:
            multirun.findings = summary.lines(study, f"{multirun.command} -m hydra/sweeper=grid", fixed)
            summary.write(study, sweep.folder, settings.sampler, settings.pruner)
            standing = study.standing
            if standing.ended == standing.total:
                multirun.search_status = SOME_FAILED if standing.failed else DONE
        except SettingError as error:  # the storage is out of reach: what ended the search is said, too
            multirun.findings = [f"what was found cannot be shown: {error}"]
        finally:
            study.close()


def num_validations(config: Mapping[str, Any]) -> int | None:
    """Of a run that is not given up; None where that depends on the data."""
    trainer = config["trainer"]
    if (
        trainer["val_check_interval"] is not None
        or trainer["max_steps"] != -1
        or (trainer["max_epochs"] or -1) < 1
    ):
        return None
    return max(1, trainer["max_epochs"] // trainer["check_val_every_n_epoch"])


def _searched(multirun: Multirun) -> list[Override]:
    if multirun.compose is None:
        rule = f"{multirun.command} makes no runs that could be searched"
        raise SettingError("hydra/sweeper", "optuna", rule)
    if not multirun.swept:
        rule = "no setting has several values: there is nothing to search; one has, as in latent_dim=8,16 or 'optimizer.lr=tag(log,interval(1e-4,1e-2))'"
        raise SettingError("hydra/sweeper", "optuna", rule)
    for override in multirun.swept:
        if override.key_or_group == "seed":
            rule = "is not searched: the best seed is only the luckiest one; give one, and run what was found with several"
            raise SettingError("seed", override.get_value_string(), rule)
    return multirun.swept


def _of_whole_numbers(swept: Sequence[Override], error: SettingError) -> SettingError | None:
    """What is wrong with an interval of fractions for a setting that takes none."""
    for one in swept:
        ends = vars(one.value()) if one.is_interval_sweep() else {}
        if (
            isinstance(ends.get("start"), float)
            and f"{one.key_or_group}=" in str(error)
            and "integer" in str(error)
        ):
            value = one.get_value_string()
            return SettingError(
                one.key_or_group, value, f"takes whole numbers: {one.key_or_group}=int({value})"
            )
    return None


def _objectives(settings: Settings, jobs: Sequence[Job]) -> dict[str, str]:
    for job in jobs:
        if not job.config["data"]["val_size"]:
            rule = "a search chooses by validation: cut some images from the training set for it"
            raise SettingError("data.val_size", job.config["data"]["val_size"], rule)
    for name in settings.objectives:
        choice("sweep.objectives", name, VALIDATION)
    score = jobs[0].config["score"]
    return dict(settings.objectives) or {score["name"]: score["mode"]}


def _check_pruner(settings: Settings, objectives: Mapping[str, str], score: Mapping[str, str]) -> None:
    """A run reports its score, and is compared by it."""
    if settings.pruner != "none" and objectives != {score["name"]: score["mode"]}:
        ((name, mode),) = objectives.items()
        rule = f"goes by the score that a run reports: set score.name={name} score.mode={mode} in the place of sweep.objectives"
        raise SettingError("sweep.pruner", settings.pruner, rule)


def _others(config: Mapping[str, Any], searched: Sequence[str]) -> dict[str, Any]:
    """The settings that all trials have in common and that can change a number."""
    own = tuple(f"{key.replace('/', '.')}." for key in searched)
    settings = settings_of(counted(config))
    return {key: value for key, value in settings.items() if not f"{key}.".startswith(own)}


def _key(line: str) -> str:
    return line.partition("=")[0].lstrip("+~").replace("/", ".")


def _standing(study: Study, settings: Settings) -> str:
    standing = study.standing
    words = f"{standing.total} trials"
    if standing.ended:
        words += f", {standing.ended} of them made already"
    pruned = "" if settings.pruner == "none" else f", pruned by {settings.pruner}"
    return f"{words}; {settings.sampler}{pruned}"


def _numbers(multirun: Multirun, objectives: list[str]) -> Callable[[Sequence[str], JobReturn], list[float]]:
    """Those of a job that another launcher has launched: its run directory says them, where it was made in this process."""

    def numbers(overrides: Sequence[str], returned: JobReturn) -> list[float]:
        identity = multirun.job(overrides).identity
        for result in multirun.results:
            if result.job.identity == identity:
                if result.status != "completed":
                    raise SettingError("job", result.status, result.error or "has no number")
                return search.numbers(result, objectives)
        return batches.returned_numbers(returned, len(objectives))

    return numbers
