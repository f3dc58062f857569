"""Learning rates as a function of the optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable

from vaelab.errors import choice

SCHEDULES = ("constant", "cosine", "staircase")
STAIRS = 8  # of 3^i epochs each, 3,280 epochs together


def learning_rate(
    schedule: str, lr: float, num_steps: int, steps_per_epoch: int, scale: float = 1.0
) -> Callable[[int], float] | None:
    """The learning rate of each step; None where it never changes.

    - ``cosine``: from ``lr`` to 0 along half a cosine over the whole run (Loshchilov & Hutter 2017);
    - ``staircase``: lr 10^(-i/7) for 3^i epochs, i = 0 .. 7 (Burda et al. 2016), then the last of them; each stair ``scale`` times as long.

    Args:
        schedule: one of :data:`SCHEDULES`.
        lr: ``optimizer.lr``.
        num_steps: of the run.
        steps_per_epoch: optimizer steps an epoch.
        scale: of the stairs; the other schedules have the length of the run.

    >>> rate = learning_rate("staircase", 1.0, num_steps=100, steps_per_epoch=1)
    >>> [round(rate(epoch), 4) for epoch in (0, 1, 3, 4, 12, 13)]
    [1.0, 0.7197, 0.7197, 0.5179, 0.5179, 0.3728]
    """
    choice("optimizer.schedule", schedule, SCHEDULES)
    if schedule == "constant":
        return None
    if schedule == "cosine":
        return lambda step: lr * 0.5 * (1 + math.cos(math.pi * min(1.0, step / num_steps)))

    def staircase(step: int) -> float:
        ends = 0
        for stair in range(STAIRS):
            ends += 3**stair
            if step < ends * scale * steps_per_epoch:
                return lr * 10 ** (-stair / 7)
        return lr * 10 ** (-(STAIRS - 1) / 7)

    return staircase
