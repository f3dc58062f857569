"""Schedules: a weight in [0, 1] as a function of the optimizer step."""

from __future__ import annotations

from vaelab.errors import integer, number


class ConstantSchedule:
    """The whole weight from the first step on."""

    warmup_steps = 0

    def __call__(self, step: int) -> float:
        return 1.0


class LinearSchedule:
    """From ``start`` to 1 in equal steps, then 1: the warm-up of the KL term (Bowman et al. 2016; Sonderby et al. 2016).

    Args:
        warmup_epochs: length in epochs (a fraction is allowed), unless ``warmup_steps`` is given.
        warmup_steps: length in optimizer steps.
        start: weight at step 0.
        steps_per_epoch: optimizer steps an epoch.

    >>> schedule = LinearSchedule(warmup_steps=10)
    >>> [schedule(step) for step in (0, 5, 10, 11)]
    [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(
        self,
        warmup_epochs: float = 10,
        warmup_steps: int | None = None,
        start: float = 0.0,
        steps_per_epoch: int = 1,
    ) -> None:
        if warmup_steps is not None:
            integer("schedule.warmup_steps", warmup_steps, 0, " or null")
        number("schedule.warmup_epochs", warmup_epochs, "must be a number of epochs >= 0", lambda n: n >= 0)
        number("schedule.start", start, "must be a number from 0 to 1", lambda w: 0 <= w <= 1)
        self.warmup_steps = round(warmup_epochs * steps_per_epoch) if warmup_steps is None else warmup_steps
        self.start = start

    def __call__(self, step: int) -> float:
        if step >= self.warmup_steps:
            return 1.0
        return self.start + (1.0 - self.start) * step / self.warmup_steps
