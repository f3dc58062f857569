"""SIGTERM during training, validation, checkpoints, the test, an evaluation afterwards: how long does it take to stop, and can it go on?"""

from __future__ import annotations

import json
import os
import pkgutil
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forks import SETTINGS, compared, config, directory_of, forked, resumed, waited
from torture_damage import said, trained

TITLE = "Asked to stop"
SECONDS = 10.0
BATCH = 3  # of an evaluation, in which the signal comes: two are done
#: what is going on when the signal comes
MOMENTS = {
    "a step of the training": "vaelab.training.step.OptimisationStep.__call__",
    "a validation": "vaelab.training.module.VAEModule.validation_step",
    "the write of a checkpoint": "vaelab.training.checkpoints.AtomicCheckpointIO.save_checkpoint",
    "the test": "vaelab.training.module.VAEModule.test_step",
    "the last pictures": "vaelab.experiments.train.draw_pictures",
}
#: MNIST in place of the digits, where there is time for it
MNIST = (
    "experiment=reference", "data.val_size=10000", "trainer=cpu", "trainer.max_epochs=2", "logger=none", "trainer.enable_progress_bar=false", "estimator=elbo",
    "checkpoints.every_n_steps=100", "name=vae",
)  # fmt: skip


def torture(trials: int, seed: int) -> tuple[list[str], int]:
    """``trials`` of each moment. Returns lines of Markdown, and how many did not end as they should have."""
    generator = np.random.default_rng(seed)
    large = trials >= 5 and (Path(os.environ.get("DATA_DIR", "")) / "MNIST").is_dir()
    settings = MNIST if large else SETTINGS
    lines = [
        f"- {'the reference experiment, two epochs on MNIST with validation' if large else 'the 8x8 digits'}"
    ]
    failures = 0
    with tempfile.TemporaryDirectory(prefix="vaelab-torture-") as folder:
        root = Path(folder)
        whole = trained(root / "whole", settings=settings)
        for name, target in MOMENTS.items():
            slowest, problems = 0.0, []
            for trial in range(trials):
                logs = root / name.replace(" ", "_") / str(trial)
                seconds, problem = stopped(whole, logs, target, generator, settings)
                slowest = max(slowest, seconds)
                problems.append(problem)
                shutil.rmtree(logs)
            lines += said(
                f"SIGTERM in {name}: exit 75 after at most {slowest:.1f} s, resumed to the same end", problems
            )
            failures += sum(problem is not None for problem in problems)
        slowest, problems = 0.0, []
        for trial in range(trials):
            seconds, problem = evaluation(whole, root / "evaluations" / str(trial))
            slowest = max(slowest, seconds)
            problems.append(problem)
        lines += said(
            f"SIGTERM in an evaluation of a finished run: exit 75 after at most {slowest:.1f} s, the same command went on from what was done, to the same values",
            problems,
        )
        failures += sum(problem is not None for problem in problems)
    return lines, failures


def stopped(
    whole: Path, logs: Path, target: str, generator: np.random.Generator, settings: Sequence[str]
) -> tuple[float, str | None]:
    """The seconds that it took to stop, and what went wrong."""
    chosen = config(logs, settings=settings)
    calls = calls_of(target, whole)
    at = int(generator.integers(1, calls + 1))

    def task() -> None:
        from vaelab.experiments.train import train

        with Signalled(target, at, logs / "when"):
            train(chosen)

    status, seconds = timed(task, logs)
    run = directory_of(logs)
    assert run is not None
    if status != 75:
        return seconds, f"call {at} of {calls}: exit status {status}: {(logs / 'log').read_text()[-300:]}"
    if seconds > SECONDS:
        return seconds, f"call {at} of {calls}: took {seconds:.1f} s"
    return seconds, resumed(run) or compared(whole, run)


def calls_of(target: str, whole: Path) -> int:
    """At most so often a run calls it, of its first ones."""
    steps = json.loads((whole / "manifest.json").read_text())["steps"]
    return {"__call__": steps, "validation_step": 2, "save_checkpoint": 3}.get(target.rpartition(".")[2], 1)


class Signalled:
    """Within, the ``at``-th call of ``target`` sends this process a SIGTERM first, and writes down when."""

    def __init__(self, target: str, at: int, when: Path) -> None:
        owner, _, self.name = target.rpartition(".")
        self.owner: Any = pkgutil.resolve_name(owner)
        self.original: Callable[..., Any] = getattr(self.owner, self.name)
        self.at, self.when, self.calls = at, when, 0

    def __enter__(self) -> None:
        def called(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                self.when.write_text(str(time.time()))
                os.kill(os.getpid(), signal.SIGTERM)
            return self.original(*arguments, **named)

        setattr(self.owner, self.name, called)

    def __exit__(self, *_: object) -> None:
        setattr(self.owner, self.name, self.original)


def timed(task: Callable[[], None], logs: Path) -> tuple[int, float]:
    """Exit status, and the seconds from the signal to the end."""
    status = waited(forked(task, logs / "log"))
    ended = time.time()
    when = logs / "when"
    return status, ended - float(when.read_text()) if when.is_file() else 0.0


def evaluation(whole: Path, logs: Path) -> tuple[float, str | None]:
    """The seconds that it took to stop, and what went wrong."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from vaelab.commands.entry import config_directory

    run, undisturbed = logs / "run", logs / "undisturbed"
    for copy in (run, undisturbed):
        shutil.copytree(whole, copy)

    def options(directory: Path) -> Any:
        with initialize_config_dir(str(config_directory("evaluate")), version_base="1.3"):
            overrides = [
                f"run={directory}",
                "estimator=importance",  # of few images at once
                "estimator.num_samples=2000",
                "num_images=300",
                "binarize=threshold",
            ]
            return OmegaConf.to_container(compose("evaluate", overrides=overrides), resolve=True)

    def evaluated(chosen: Any, at: int | None) -> Callable[[], None]:
        def task() -> None:
            from vaelab.experiments.evaluate import evaluate

            if at is None:
                evaluate(chosen)
            else:
                with Signalled(MOMENTS["the test"], at, logs / "when"):
                    evaluate(chosen)

        return task

    status, seconds = timed(evaluated(options(run), BATCH), logs)
    if status != 75:
        return seconds, f"exit status {status}: {(logs / 'log').read_text()[-300:]}"
    for directory in (run, undisturbed):
        status = waited(forked(evaluated(options(directory), None), logs / "log"))
        said = (logs / "log").read_text()
        if status != 0:
            return seconds, f"again: exit status {status}: {said[-300:]}"
        if directory == run and " images are measured already, " not in said:
            return seconds, "what was done was done again"
    values = [
        [card["value"] for card in json.loads((directory / "evaluation.json").read_text())["cards"]]
        for directory in (run, undisturbed)
    ]
    if values[0] != values[1]:
        return seconds, f"{values[0]} in place of {values[1]}"
    return seconds, None if seconds <= SECONDS else f"took {seconds:.1f} s"
