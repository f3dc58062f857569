"""What a prior that needs inference is handed: it owns no encoder."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.distributions import Distribution

from vaelab.posteriors import PosteriorSample


class Inference(Protocol):
    """x -> q(z|x) of a model.

    Attributes:
        noise_dim: number of standard normal numbers that one sample of z takes.
    """

    @property
    def noise_dim(self) -> int: ...

    def __call__(self, x: Tensor, /) -> Distribution:
        """q(z|x) of images ``[B, C, H, W]``, batch shape ``[B]``, event shape ``[D]``."""
        ...

    def sample(self, x: Tensor, eps: Tensor, /) -> PosteriorSample:
        """Samples of q(z|x) from noise ``eps [K, B, noise_dim]``."""
        ...
