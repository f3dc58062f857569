"""What every posterior returns: samples of q(z|x) with their density."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.distributions import Distribution


class PosteriorSample(Protocol):
    """Samples of q(z|x) and their density. A posterior computes the density where it is asked for, or along with the sample where that is cheaper.

    Attributes:
        z: ``[K, B, D]``, differentiable in the parameters of q (reparameterised).
        log_q: log q(z|x) ``[K, B]``, nats.
        log_q_stopped: the same numbers, differentiable through z only: whatever the parameters of q were computed from is held fixed
            (Roeder et al. 2017, "Sticking the landing").
        distribution: q(z|x) itself, batch shape ``[B]``, event shape ``[D]``.
        mean: of q(z|x), ``[B, D]``; None where it is not known in closed form.
        stddev: of each dimension of q(z|x) by itself, ``[B, D]``; None likewise.
    """

    @property
    def z(self) -> Tensor: ...

    @property
    def log_q(self) -> Tensor: ...

    @property
    def log_q_stopped(self) -> Tensor: ...

    @property
    def distribution(self) -> Distribution: ...

    @property
    def mean(self) -> Tensor | None: ...

    @property
    def stddev(self) -> Tensor | None: ...
