"""Real pixels with a two-sided exponential density."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Laplace

from vaelab.likelihoods.pixels import inside
from vaelab.likelihoods.scale import MODES, scale_of


class LaplaceLikelihood(nn.Module):
    """p(x|z) = prod_i exp(-|x_i - mu_i(z)| / b) / (2 b), b as one of three: the sum of absolute errors instead of squared ones.

    - ``decoder``: b_i(z), one a pixel, from the decoder beside the mean;
    - ``learned``: one number for all pixels, trained;
    - ``constant``: one number for all pixels, fixed at ``b``.

    b is not the standard deviation, which is sqrt(2) b. b = b_floor + softplus(s) where it is trained; the floor is what it is for the Gaussian.

    Args:
        image_shape: ``(C, H, W)``.
        pixel_range: smallest and largest pixel value; b is in the same units.
        num_levels: number of grey levels of the data between them.
        scale: ``decoder``, ``learned`` or ``constant``.
        b: the scale where it is constant, and its first value where it is trained; ``auto`` = a tenth of the range, twice the floor at least.
        b_floor: least scale; ``auto`` = half a grey level.

    Raises:
        SettingError: an unknown mode, a b that is not above the floor.
    """

    support = "density"
    SCALES = MODES

    def __init__(
        self,
        image_shape: Sequence[int],
        pixel_range: Sequence[float],
        num_levels: int,
        scale: str = "decoder",
        b: float | str = "auto",
        b_floor: float | str = "auto",
    ) -> None:
        super().__init__()
        self.scale = scale_of(
            "scale", "b",
            mode=scale, value=b, floor=b_floor, pixel_range=pixel_range, num_levels=num_levels,
        )  # fmt: skip
        self.params_per_pixel = self.scale.params_per_pixel
        self.raw_b = self.scale.parameter()

    def forward(self, parameters: Tensor) -> Independent:
        """p(x|z) from parameters ``[..., P * C, H, W]`` (means, then raw scales); event shape ``[C, H, W]``."""
        mean, b = self.scale.split(parameters, self.raw_b)
        return Independent(Laplace(mean, b, validate_args=False), 3, validate_args=False)

    def draw(self, distribution: Independent, uniform: Tensor) -> Tensor:
        """Images from uniform noise of the same shape."""
        u = inside(uniform)
        tail = torch.log(
            2 * torch.minimum(u, 1 - u)
        )  # <= 0; Laplace.icdf has no finite value where u - 1/2 rounds to -1/2
        return distribution.mean - distribution.base_dist.scale * torch.sign(u - 0.5) * tail
