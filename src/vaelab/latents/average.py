"""A mean over samples, with its error."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from vaelab.evidence.estimates import exact


@dataclass(frozen=True)
class Average:
    """A mean over samples of z, or over images where there is a closed form for each.

    Attributes:
        value: nats.
        se: its standard error, as if the samples were independent; nan for one sample.
        num_samples: how many.
    """

    value: float
    se: float
    num_samples: int


def average(samples: Tensor) -> Average:
    """The mean of ``samples [M]`` in float64.

    >>> import torch
    >>> average(torch.tensor([1.0, 3.0]))
    Average(value=2.0, se=1.0, num_samples=2)
    """
    values = exact(samples)
    count = values.numel()
    se = values.std(correction=1).item() / math.sqrt(count) if count > 1 else math.nan
    return Average(value=values.mean().item(), se=se, num_samples=count)
