"""Whether a training, carried out twice, is the same bit for bit; and if not, which setting is to blame."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import vaelab
from vaelab.errors import RunFailed
from vaelab.experiments.doctor.finding import Finding, ok, wrong
from vaelab.experiments.reproduce import carry_out, environment
from vaelab.loading import weights_digest
from vaelab.runs import RunDirectory
from vaelab.runs.cards import typed as typed_value
from vaelab.runs.equality import unequal
from vaelab.runs.metrics import read
from vaelab.runs.record import Record
from vaelab.runs.verdict import Agreement, judge
from vaelab.training.checkpoints import newest, read_checkpoint

STEPS = 20


@dataclass(frozen=True)
class Change:
    """One setting at another value.

    Attributes:
        given: the setting as it is, e.g. ``trainer.precision=bf16-mixed``.
        typed: what takes its place, e.g. ``trainer.precision=32-true``.
        settings: the same, as group -> the settings in it; a whole group where ``replaces`` is set.
        variables: of the environment.
        replaces: whether each group is replaced, and not only the settings named.
    """

    given: str
    typed: str
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    replaces: bool = False


@dataclass(frozen=True)
class Attempt:
    """How the steps are to be carried out.

    Attributes:
        config: resolved, primitives only.
        variables: of the environment, beside those that are set.
    """

    config: dict[str, Any]
    variables: Mapping[str, str] = field(default_factory=dict)

    def changed(self, *changes: Change) -> Attempt:
        config, variables = copy.deepcopy(self.config), dict(self.variables)
        for change in changes:
            for group, settings in change.settings.items():
                config[group] = dict(settings) if change.replaces else {**config[group], **settings}
            variables |= change.variables
        return Attempt(config, variables)


@dataclass(frozen=True)
class Outcome:
    """What became of some steps.

    Attributes:
        record: their losses, and a digest of the weights after them.
        milliseconds: of a step, towards the end.
    """

    record: Record
    milliseconds: float


Run = Callable[[Attempt], Outcome]


@dataclass(frozen=True)
class Search:
    """Which changes make two trainings the same.

    Attributes:
        alone: those that do by themselves.
        tried: all.
        failed: change as typed -> why the steps cannot be carried out with it.
        together: whether all of them do at once; None = not tried.
    """

    alone: tuple[Change, ...]
    tried: tuple[Change, ...]
    failed: Mapping[str, str]
    together: bool | None


def repeatability(
    attempt: Attempt, changes: Sequence[Change], run: Run, progress: Callable[[str], None]
) -> Finding:
    """Carry out the steps twice; where they differ, twice more with each of ``changes``.

    Args:
        attempt: the training as it is asked for.
        changes: what may be to blame, with what takes its place.
        run: carries out the steps.
        progress: is told which of how many runs is next.

    Raises:
        RunFailed: the training as it is asked for cannot be carried out.
    """
    progress("run 1 of 2")
    first = run(attempt)
    progress("run 2 of 2")
    second = run(attempt)
    verdict, last = judge(first.record, second.record), max(first.record.fingerprint)
    losses = first.record.fingerprint
    what = f"{last} {'step' if last == 1 else 'steps'} twice"
    if verdict.agreement is Agreement.BITWISE:
        words = f"losses and final weights are the same bit for bit (loss {losses[min(losses)]:.6g} -> {losses[last]:.6g})"
        return ok("repeatability", f"{what}: {words}; {second.milliseconds:.3g} ms a step")
    search = blame(attempt, changes, run, progress)
    return replace(
        wrong("repeatability", f"{what}: {_difference(first, second)}", _advice(search)), is_difference=True
    )


def blame(attempt: Attempt, changes: Sequence[Change], run: Run, progress: Callable[[str], None]) -> Search:
    """Carry out the steps twice with each change, and with all of them where none is enough."""
    failed: dict[str, str] = {}
    done, total = 2, 2 + 2 * len(changes)

    def same(*made: Change) -> bool:
        nonlocal done
        name, records = " ".join(change.typed for change in made), []
        for _ in range(2):
            done += 1
            progress(f"not the same; run {done} of {total}, with {name}")
            try:
                records.append(run(attempt.changed(*made)).record)
            except RunFailed as error:
                failed[name] = str(error)
                return False
        return judge(*records).agreement is Agreement.BITWISE

    alone = tuple(change for change in changes if same(change))
    together = None
    if not alone and len(changes) > 1:
        done, total = total, total + 2
        together = same(*changes)
    return Search(alone, tuple(changes), failed, together)


def _difference(first: Outcome, second: Outcome) -> str:
    """Where two trainings part."""
    a, b = first.record.fingerprint, second.record.fingerprint
    for step in sorted({*a, *b}):
        if unequal("fingerprint", step, {"loss": a.get(step)}, {"loss": b.get(step)}):
            apart = judge(first.record, second.record, step).largest
            return f"not the same from step {step} on, where the loss is {a.get(step)!r} and {b.get(step)!r} ({apart:.1e} relative)"
    return "the losses are the same, and the final weights are not"


def _advice(search: Search) -> str:
    lines = [f"{change.given} breaks it: with {change.typed} it is the same bit for bit" for change in search.alone]  # fmt: skip
    lines += [f"with {name} it does not run: {why}" for name, why in search.failed.items()]
    names = ", ".join(change.typed for change in search.tried)
    if not search.tried:
        lines.append("no setting is at a value that could be to blame: look for random numbers that are not made by noise.py in what is your own")  # fmt: skip
    elif search.together:
        lines.append(f"none of {names} is enough alone; all of them together make it the same bit for bit")
    elif not search.alone:
        alone = ", alone or together" if len(search.tried) > 1 else ""
        lines.append(f"with {names}{alone} it is not the same either: look for random numbers that are not made by noise.py in what is your own")  # fmt: skip
    return "\n".join(lines)


def changes(config: Mapping[str, Any], threads: int, engine: tuple[str, Mapping[str, Any]]) -> list[Change]:
    """What may be to blame in a configuration. There are no data workers: the data are tensors in memory.

    Args:
        config: resolved, primitives only.
        threads: that share an operation.
        engine: the usual entry of its group, by name, and its settings.
    """
    trainer, (usual, settings) = config["trainer"], engine
    found = []

    def of_trainer(**values: Any) -> Change:
        given, typed = (
            " ".join(f"trainer.{key}={typed_value(side.get(key))}" for key in values)
            for side in (trainer, values)
        )
        return Change(given, typed, {"trainer": values})

    if trainer["deterministic"] is not True:
        found.append(of_trainer(deterministic=True))
    if threads > 1:
        found.append(Change(f"{threads} threads", "OMP_NUM_THREADS=1", variables={"OMP_NUM_THREADS": "1"}))
    if str(trainer["precision"]) not in ("32-true", "32"):
        found.append(of_trainer(precision="32-true"))
    if str(trainer["devices"]) != "1" or trainer["strategy"] != "auto":
        found.append(of_trainer(devices=1, strategy="auto"))
    if dict(config["engine"]) != dict(settings):
        others = {key: value for key, value in config["engine"].items() if settings.get(key) != value}
        given = " ".join(f"engine.{key}={typed_value(value)}" for key, value in others.items())
        found.append(Change(given, f"engine={usual}", {"engine": settings}, replaces=True))
    return found


def in_child(steps: int, folder: Path) -> Run:
    """A function that carries out the first ``steps`` optimizer steps of a training in a process of its own, as vae-train would, in a new directory in ``folder``.

    The training is as long as it is asked for, so learning rate and beta are those of its first steps; it stops as one that is interrupted.
    """
    made = 0

    def run(attempt: Attempt) -> Outcome:
        nonlocal made
        made += 1
        place = folder / str(made)
        place.mkdir()
        config = copy.deepcopy(attempt.config)
        config["logger"] = {"name": "none"}
        config["paths"]["log_dir"] = str(place)
        # a chunk ends where a log is due; the speed is that of the second half, when all memory has been allocated
        config["trainer"] |= {"enable_progress_bar": False, "log_every_n_steps": max(1, steps // 2)}
        config["checkpoints"] |= {"every_n_steps": steps, "keep": "best_and_last"}
        source = Path(vaelab.__file__).resolve().parents[1]
        job = {
            "source": str(source),
            "config": config,
            "threads": None,
            "steps": steps,
            "folder": str(place),
            "name": "run",
            "requested_data": None,
            "fallback_reason": None,
        }
        screen = place / "screen.txt"
        status = carry_out(job, place, {**environment({}, source), **attempt.variables}, screen)
        made_run = RunDirectory(place / "run")
        # of ranks that are copies of a process, the process does not know that they stopped because they were told to
        if status != 0 and not _came_to(made_run, steps):
            raise RunFailed(_last_line(screen) or f"exit status {status}")
        return _outcome(made_run, config)

    return run


def _came_to(run: RunDirectory, steps: int) -> bool:
    found, _ = newest(run.checkpoints)
    return found is not None and found.step == steps


def _outcome(run: RunDirectory, config: Mapping[str, Any]) -> Outcome:
    digest = weights_digest(read_checkpoint(run.last_checkpoint)["state_dict"])
    record = replace(Record.open(run.path), run=None, manifest={"weights": digest})
    speed = read(run.metrics_file)[-1]["time/images_per_second"]
    images = config["data"]["batch_size"] * config["optimizer"].get("accumulate", 1)
    return Outcome(record, 1000 * images / speed)


def _last_line(screen: Path) -> str:
    lines = screen.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("vae-reproduce: ") if said else ""
