"""Real pixels with a normal density."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaelab.likelihoods.pixels import inside
from vaelab.likelihoods.scale import MODES, scale_of


class GaussianLikelihood(nn.Module):
    """p(x|z) = prod_i N(x_i; mu_i(z), sigma^2), sigma as one of three.

    - ``decoder``: sigma_i(z), one a pixel, from the decoder beside the mean;
    - ``learned``: one number for all pixels, trained;
    - ``constant``: one number for all pixels, fixed at ``sigma``.

    sigma = sigma_floor + softplus(s) where it is trained. Without a floor a pixel that never changes would drive sigma to zero and the bound to infinity.

    Args:
        image_shape: ``(C, H, W)``.
        pixel_range: smallest and largest pixel value; sigma is in the same units.
        num_levels: number of grey levels of the data between them.
        variance: ``decoder``, ``learned`` or ``constant``.
        sigma: standard deviation where it is constant, and its first value where it is trained; ``auto`` = a tenth of the range, twice the floor at least.
        sigma_floor: least standard deviation; ``auto`` = half a grey level.

    Raises:
        SettingError: an unknown mode, a sigma that is not above the floor.
    """

    support = "density"
    VARIANCES = MODES

    def __init__(
        self,
        image_shape: Sequence[int],
        pixel_range: Sequence[float],
        num_levels: int,
        variance: str = "decoder",
        sigma: float | str = "auto",
        sigma_floor: float | str = "auto",
    ) -> None:
        super().__init__()
        self.scale = scale_of(
            "variance", "sigma",
            mode=variance, value=sigma, floor=sigma_floor, pixel_range=pixel_range, num_levels=num_levels,
        )  # fmt: skip
        self.params_per_pixel = self.scale.params_per_pixel
        self.raw_sigma = self.scale.parameter()

    def forward(self, parameters: Tensor) -> Independent:
        """p(x|z) from parameters ``[..., P * C, H, W]`` (means, then raw sigmas); event shape ``[C, H, W]``."""
        mean, sigma = self.scale.split(parameters, self.raw_sigma)
        return Independent(Normal(mean, sigma, validate_args=False), 3, validate_args=False)

    def draw(self, distribution: Distribution, uniform: Tensor) -> Tensor:
        """Images from uniform noise of the same shape."""
        return distribution.mean + distribution.stddev * torch.special.ndtri(inside(uniform))
