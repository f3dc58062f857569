"""Giving up a run that a search finds unpromising."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch

from vaelab.data.chunks import ChunkPlan
from vaelab.training.module import VAEModule

#: told the score of a validation, and which one it is (1, 2, ...), it says whether to give the run up
Report = Callable[[float, int], bool]


@dataclass(frozen=True)
class GivenUp:
    """Where a run was given up.

    Attributes:
        validation: the one after which it was: 1, 2, ...
        validations: that the whole run would have had.
        step: optimizer steps done.
        score: of that validation.
    """

    validation: int
    validations: int
    step: int
    score: float


class Validations:
    """Which validation of a run is due at which optimizer step. So they are counted by steps, and a run that was resumed counts on.

    >>> plan = ChunkPlan(num_images=100, batch_size=10, num_steps=25, chunk_steps=5)
    >>> epochs, steps = Validations(plan), Validations(plan, interval=10)
    >>> [epochs.at(step) for step in (10, 20, 25)], epochs.total
    ([1, 2, 3], 3)
    >>> [steps.at(step) for step in (10, 20, 25)], Validations(plan, every_n_epochs=2).total
    ([1, 2, 3], 1)

    Args:
        plan: of the run.
        interval: optimizer steps between two validations; None = at the end of epochs.
        every_n_epochs: of those.
    """

    def __init__(self, plan: ChunkPlan, interval: int | None = None, every_n_epochs: int | None = 1) -> None:
        self._plan, self._interval = plan, interval
        self._every = 1 if interval is not None else every_n_epochs or 1

    def at(self, step: int) -> int:
        """The number of the validation after ``step`` steps, where one is due: 1, 2, ..."""
        return -(-step // (self._interval or self._plan.steps_per_epoch)) // self._every

    @property
    def total(self) -> int:
        return self.at(self._plan.num_steps)


class Pruning(L.Callback):
    """Reports the score of each validation, and ends the training where the answer is to give it up, after the checkpoints of that validation.

    All ranks end together: the main process asks, and the others are told. A training that has come to its end is not given up, whatever the answer.

    Args:
        score: the metric that is reported, ``score.name``.
        report: who is told it; None in a process that is not the main one, which never asks.
        earlier: optimizer step -> score, of the validations before a resume: whoever is told may not know of them.
    """

    def __init__(self, score: str, report: Report | None, earlier: Mapping[int, float] | None = None) -> None:
        self.score, self.report = score, report
        self._earlier = dict(earlier or {})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        assert isinstance(pl_module, VAEModule)
        step, score = trainer.global_step, float(trainer.callback_metrics[self.score])
        validations = Validations(
            pl_module.plan, pl_module.val_check_interval, trainer.check_val_every_n_epoch
        )
        answers: list[bool] = []
        if trainer.is_global_zero:
            assert self.report is not None
            answers = [self.report(*one) for one in self._due(validations, step, score)]
        told = torch.tensor(float(any(answers)), device=pl_module.device)
        wanted = bool(trainer.strategy.reduce(told, reduce_op="max"))  # pyright: ignore[reportArgumentType]
        ends_anyway = step >= pl_module.plan.num_steps or trainer.should_stop
        if wanted and not ends_anyway and trainer.fit_loop._can_stop_early:
            found = GivenUp(validations.at(step), validations.total, step, score)
            pl_module.given_up = asdict(found)
            trainer.should_stop = True

    def _due(self, validations: Validations, step: int, score: float) -> list[tuple[float, int]]:
        """What is to be reported: this score, and at the first time those from before a resume."""
        due = {validations.at(at): one for at, one in sorted(self._earlier.items())}
        due[validations.at(step)] = score
        self._earlier = {}
        return [(one, number) for number, one in due.items()]


def given_up(checkpoint: Mapping[str, Any]) -> GivenUp | None:
    """Where the run was given up whose last checkpoint this is; None where it was not."""
    found = checkpoint["progress"].get("given_up")  # one of an earlier version has none
    return None if found is None else GivenUp(**found)
