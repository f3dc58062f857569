"""p(x|z): likelihoods of an image, from the parameters that a decoder gives for each pixel.

Each states its *support*: ``binary`` (pixels 0 or 1), ``levels`` (grey levels as classes) or ``density`` (real pixels). A density on 8-bit levels is unbounded
without dequantisation: the data module dequantises for it, and ``sigma_floor`` keeps its scale at half a level at least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaelab.errors import SettingError, choice

__all__ = ["BernoulliLikelihood", "GaussianLikelihood"]


class BernoulliLikelihood(nn.Module):
    """p(x|z) = prod_i Bernoulli(x_i; sigmoid(l_i(z))), one logit a pixel.

    On grey pixels in [0, 1] its logarithm is minus the binary cross-entropy: an objective many people use, **not** a log-likelihood of the data,
    and labelled ``grey-bce`` wherever it is reported.

    Args:
        image_shape: ``(C, H, W)``.
        pixel_range: smallest and largest pixel value of the data; has to be [0, 1].
        num_levels: number of grey levels of the data; not used.

    Raises:
        SettingError: pixels can lie outside [0, 1].
    """

    support = "binary"
    params_per_pixel = 1

    def __init__(self, image_shape: Sequence[int], pixel_range: Sequence[float], num_levels: int) -> None:
        super().__init__()
        if tuple(pixel_range) != (0.0, 1.0):
            raise SettingError(
                "data.pixel_range",
                list(pixel_range),
                "likelihood=bernoulli takes pixels in [0, 1]; use [0, 1], or likelihood=gaussian",
            )

    def forward(self, parameters: Tensor) -> BernoulliImage:
        """p(x|z) from logits ``[..., C, H, W]``; event shape ``[C, H, W]``."""
        return BernoulliImage(parameters)

    def draw(self, distribution: Distribution, uniform: Tensor) -> Tensor:
        """Images from uniform noise of the same shape."""
        return (uniform < distribution.mean).to(uniform.dtype)


class BernoulliImage(Distribution):
    """Independent Bernoulli pixels, as lean as every optimizer step wants it.

    Args:
        logits: ``[..., C, H, W]``.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the binary cross-entropy, summed over pixels (the sum comes before the sign, which saves a pass over them)."""
        logits, x = self.logits, value
        if x.shape != logits.shape[-x.dim() :]:
            logits, x = torch.broadcast_tensors(logits, x)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        return -cross_entropy.flatten(-3).sum(-1)


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
    VARIANCES = ("decoder", "learned", "constant")

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
        self.variance = choice("likelihood.variance", variance, self.VARIANCES)
        self.params_per_pixel = 2 if variance == "decoder" else 1
        level = (pixel_range[1] - pixel_range[0]) / num_levels
        if sigma_floor == "auto":
            self.sigma_floor = level / 2
        elif isinstance(sigma_floor, int | float) and sigma_floor >= 0:
            self.sigma_floor = float(sigma_floor)
        else:
            raise SettingError(
                "likelihood.sigma_floor", sigma_floor, "must be auto (half a grey level) or a number >= 0"
            )
        if sigma == "auto":
            sigma = max(0.1 * (pixel_range[1] - pixel_range[0]), 2 * self.sigma_floor)
        if not isinstance(sigma, int | float) or not sigma > self.sigma_floor:
            raise SettingError(
                "likelihood.sigma", sigma, f"must be above likelihood.sigma_floor, here {self.sigma_floor:g}"
            )
        self.sigma = float(sigma)
        above_floor = self.sigma - self.sigma_floor
        self.start = above_floor + math.log(-math.expm1(-above_floor))  # the inverse of softplus
        if variance == "learned":
            self.raw_sigma = nn.Parameter(torch.tensor(self.start))

    def forward(self, parameters: Tensor) -> Independent:
        """p(x|z) from parameters ``[..., P * C, H, W]`` (means, then raw sigmas); event shape ``[C, H, W]``."""
        mean = parameters
        if self.variance == "decoder":
            mean, offset = parameters.chunk(2, dim=-3)
            sigma = self.sigma_floor + F.softplus(
                self.start + offset
            )  # near ``sigma`` at first, as in the other modes
        elif self.variance == "learned":
            sigma = (self.sigma_floor + F.softplus(self.raw_sigma)).expand_as(mean)
        else:
            sigma = torch.full_like(mean, self.sigma)
        return Independent(Normal(mean, sigma, validate_args=False), 3, validate_args=False)

    def draw(self, distribution: Distribution, uniform: Tensor) -> Tensor:
        """Images from uniform noise of the same shape."""
        inside = uniform.clamp(torch.finfo(uniform.dtype).tiny, 1 - torch.finfo(uniform.dtype).eps)
        return distribution.mean + distribution.stddev * torch.special.ndtri(inside)
