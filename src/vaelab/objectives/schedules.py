"""Schedules: a weight in [0, 1] as a function of the optimizer step."""

from __future__ import annotations

import math

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


class CyclicalSchedule:
    """From 0 to 1 again and again: a linear rise during ``rise`` of each cycle, then 1 to its end (Fu et al. 2019).

    Args:
        cycle_epochs: length of a cycle in epochs (a fraction is allowed).
        rise: part of a cycle that rises, above 0 and at most 1.
        steps_per_epoch: optimizer steps an epoch.

    >>> schedule = CyclicalSchedule(cycle_epochs=10, rise=0.5)
    >>> [schedule(step) for step in (0, 4, 5, 9, 10, 11)]
    [0.0, 0.8, 1.0, 1.0, 0.0, 0.2]
    """

    def __init__(self, cycle_epochs: float = 10, rise: float = 0.5, steps_per_epoch: int = 1) -> None:
        number("schedule.cycle_epochs", cycle_epochs, "must be a number of epochs > 0", lambda n: n > 0)
        number("schedule.rise", rise, "must be a number above 0 and at most 1", lambda r: 0 < r <= 1)
        self.cycle_steps = max(1, round(cycle_epochs * steps_per_epoch))
        self.rise = rise
        self.warmup_steps = math.ceil(self.cycle_steps * rise)

    def __call__(self, step: int) -> float:
        return min(1.0, step % self.cycle_steps / (self.cycle_steps * self.rise))


class CapacitySchedule:
    """The whole weight, on the distance of the KL term from a capacity that grows from ``start`` to ``end`` nats (Burgess et al. 2018).

    Args:
        start, end: nats an image.
        warmup_epochs: how long it grows, in epochs.
        steps_per_epoch: optimizer steps an epoch.

    >>> CapacitySchedule(end=25.0, warmup_epochs=10).capacity(5)
    12.5
    """

    def __init__(
        self, start: float = 0.0, end: float = 25.0, warmup_epochs: float = 10, steps_per_epoch: int = 1
    ) -> None:
        for key, value in {"start": start, "end": end}.items():
            number(f"schedule.{key}", value, "must be a number of nats >= 0", lambda nats: nats >= 0)
        number("schedule.warmup_epochs", warmup_epochs, "must be a number of epochs >= 0", lambda n: n >= 0)
        self.start, self.end = start, end
        self.warmup_steps = round(warmup_epochs * steps_per_epoch)

    def __call__(self, step: int) -> float:
        return 1.0

    def capacity(self, step: int) -> float:
        """C at a step, nats an image."""
        if step >= self.warmup_steps:
            return self.end
        return self.start + (self.end - self.start) * step / self.warmup_steps
