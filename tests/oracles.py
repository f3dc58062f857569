"""Models whose evidence is known exactly."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from vaelab.batch import Batch
from vaelab.likelihoods import GaussianLikelihood
from vaelab.models import VAE, Model, TopDownVAE
from vaelab.models.hierarchical import Conditional, HierarchicalVAE, LadderVAE
from vaelab.models.top_down import TopDownBlock, TopDownPath
from vaelab.networks.top_down import Rise
from vaelab.noise import Noise, Split, Stream
from vaelab.posteriors import FullNormalPosterior, NormalPosterior
from vaelab.priors import StandardNormalPrior

D, PIXELS = 2, 3
SIGMA = 0.4
#: of W of the larger linear models: correlations that leave mean-field behind, and not so much that chains of a test's length are lost
GAIN = 0.4


class Flat(nn.Module):
    """The pixels of a 1 x 1 x P image as features."""

    def __init__(self, num_pixels: int = PIXELS) -> None:
        super().__init__()
        self.num_features = num_pixels

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(-3)


class LinearDecoder(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, z: Tensor) -> Tensor:
        rows = F.linear(z.reshape(-1, z.shape[-1]), self.weight, self.bias)
        return rows.view(*z.shape[:-1], 1, 1, -1)


class Oracle:
    """p(z) = N(0, I), p(x|z) = N(Wz + b, SIGMA^2 I): log p(x) is that of N(b, W W^T + SIGMA^2 I).

    W has orthogonal columns, so that the exact posterior is a diagonal Gaussian, which ``exact=True`` plugs in.
    """

    def __init__(self, exact: bool) -> None:
        torch.manual_seed(0)
        W = torch.linalg.qr(torch.randn(PIXELS, D, dtype=torch.float64)).Q * torch.tensor(
            [1.0, 0.7], dtype=torch.float64
        )
        b = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
        posterior = NormalPosterior(PIXELS, D).double()
        precision = 1 + (W.T @ W).diagonal() / SIGMA**2
        gain = W.T / SIGMA**2 / precision[:, None]
        with torch.no_grad():
            posterior.mean.weight.copy_(gain)
            posterior.mean.bias.copy_(-gain @ b)
            posterior.log_variance.weight.zero_()
            posterior.log_variance.bias.copy_(-precision.log() + (0.0 if exact else math.log(1.3)))
            if not exact:
                posterior.mean.bias.add_(0.2)
        likelihood = GaussianLikelihood(
            (1, 1, PIXELS), (0.0, 1.0), 256, variance="constant", sigma=SIGMA, sigma_floor=0.0
        ).double()
        self.model = VAE(Flat(), posterior, StandardNormalPrior(D).double(), LinearDecoder(W, b), likelihood)
        self.x = torch.randn(7, PIXELS, dtype=torch.float64) @ torch.diag(
            torch.tensor([1.0, 0.8, 0.5], dtype=torch.float64)
        )
        covariance = W @ W.T + SIGMA**2 * torch.eye(PIXELS, dtype=torch.float64)
        self.log_px = MultivariateNormal(b, covariance).log_prob(self.x)
        index = torch.arange(len(self.x))
        self.batch = Batch(self.x.view(-1, 1, 1, PIXELS), torch.full_like(index, -1), index)

    def eps(self, num_samples: int, repetition: int = 0) -> Tensor:
        index = torch.arange(len(self.x))
        draws = Noise(0).image_normal(
            Stream.posterior, Split.test, index, (num_samples, D), repetition, torch.float64
        )
        return draws.transpose(0, 1)


class LinearGaussian:
    """p(z) = N(0, I), p(x|z) = N(Wz + b, SIGMA^2 I) with any numbers of latent dimensions D and pixels P, in float64: log p(x) is that of N(b, W W^T + SIGMA^2 I).

    The posterior N(m(x), S) has correlations. q is a Gaussian with full covariance: ``exact``, the posterior; ``scaled``, with covariance ``scale`` S; or
    ``mean_field``, the one nearest to the posterior, as KL(q || p) goes, of those with independent dimensions: 1 / diag(S^-1). ``gain`` scales W, and with it
    the correlations of the posterior.

    Attributes:
        model: the model.
        batch, x: images drawn from it; ``x [B, P]``.
        log_px: log p(x) of these ``[B]``.
        covariance: S.
    """

    def __init__(
        self,
        latent_dim: int,
        num_pixels: int,
        q: str = "exact",
        scale: float = 1.2,
        num_images: int = 10,
        gain: float = GAIN,
    ) -> None:
        draw = torch.Generator().manual_seed(latent_dim)
        self.weight = torch.randn(num_pixels, latent_dim, generator=draw, dtype=torch.float64)
        self.weight *= gain / latent_dim**0.5
        self.bias = 0.3 * torch.randn(num_pixels, generator=draw, dtype=torch.float64)
        eye = torch.eye(latent_dim, dtype=torch.float64)
        precision = eye + self.weight.T @ self.weight / SIGMA**2
        self.covariance = torch.linalg.inv(precision)
        of_q = {
            "exact": self.covariance,
            "scaled": scale * self.covariance,
            "mean_field": torch.diag(1 / precision.diagonal()),
        }[q]
        likelihood = GaussianLikelihood(
            (1, 1, num_pixels), (0.0, 1.0), 256, variance="constant", sigma=SIGMA, sigma_floor=0.0
        ).double()
        self.model = VAE(
            Flat(num_pixels),
            self._posterior(of_q),
            StandardNormalPrior(latent_dim).double(),
            LinearDecoder(self.weight, self.bias),
            likelihood,
        )
        z = torch.randn(num_images, latent_dim, generator=draw, dtype=torch.float64)
        eps = torch.randn(num_images, num_pixels, generator=draw, dtype=torch.float64)
        self.x = z @ self.weight.T + self.bias + SIGMA * eps
        index = torch.arange(num_images)
        self.batch = Batch(self.x.view(-1, 1, 1, num_pixels), torch.full_like(index, -1), index)
        self.log_px = self.evidence(self.x)

    def _posterior(self, covariance: Tensor) -> FullNormalPosterior:
        D, P = len(covariance), len(self.bias)
        posterior = FullNormalPosterior(P, D).double()
        scale_tril = torch.linalg.cholesky(covariance)
        diagonal = scale_tril.diagonal()
        below = torch.tril_indices(D, D, offset=-1)
        gain = self.covariance @ self.weight.T / SIGMA**2
        with torch.no_grad():
            posterior.mean.weight.copy_(gain)
            posterior.mean.bias.copy_(-gain @ self.bias)
            posterior.factor.weight.zero_()
            posterior.factor.bias[:D] = 2 * diagonal.log()
            posterior.factor.bias[D:] = D * (scale_tril / diagonal[:, None])[below[0], below[1]]
        return posterior

    def evidence(self, x: Tensor) -> Tensor:
        """log p(x) ``[n]`` of images ``[n, P]`` or ``[n, 1, 1, P]``."""
        eye = torch.eye(len(self.bias), dtype=torch.float64)
        covariance = self.weight @ self.weight.T + SIGMA**2 * eye
        return MultivariateNormal(self.bias, covariance).log_prob(x.flatten(1))


def repeated(batch: Batch, times: int) -> Batch:
    """Every image so many times, the whole set after the whole set."""
    return Batch(
        batch.x.repeat(times, 1, 1, 1), batch.y.repeat(times), torch.arange(times * len(batch.index))
    )


class Pixel(nn.Module):
    """A pixel as a vector: the encoder, and the decoder backwards, of a 1 x 1 x 1 image."""

    num_features = 1

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(-3)


class PixelDecoder(nn.Module):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return (self.weight * z).unflatten(-1, (1, 1, 1))


def pixel_model(kind: str) -> Model:
    """Models of one pixel with one latent dimension (``vae``), or two (``top_down``: three) above each other, no q of which is exact; all but ``top_down`` are linear and Gaussian."""
    likelihood = GaussianLikelihood(
        (1, 1, 1), (0.0, 1.0), 256, variance="constant", sigma=0.7, sigma_floor=0.0
    )
    prior, decoder = StandardNormalPrior(1), PixelDecoder(0.9)
    if kind == "vae":
        return VAE(Pixel(), linear_normal(0.5, 0.1, -0.4), prior, decoder, likelihood).double()
    if kind == "top_down":
        return top_down_pixel(likelihood)
    if kind == "ladder":
        evidence = [linear_normal(0.5, 0.1, -0.4), linear_normal(0.4, -0.2, -0.3)]
        downwards = [Conditional(nn.Identity(), linear_normal(0.8, 0.1, -0.5))]
        return LadderVAE(
            Pixel(), [nn.Identity()], evidence, prior, downwards, decoder, likelihood, (1, 1)
        ).double()
    upwards = [Conditional(nn.Identity(), linear_normal(0.4, -0.2, -0.3))]
    downwards = [Conditional(nn.Identity(), linear_normal(0.8, 0.1, -0.5))]
    model = HierarchicalVAE(
        Pixel(), linear_normal(0.5, 0.1, -0.4), upwards, prior, downwards, decoder, likelihood, (1, 1)
    )
    return model.double()


def top_down_pixel(likelihood: GaussianLikelihood) -> TopDownVAE:
    """A code and two layers below it, with all networks."""
    torch.manual_seed(0)
    blocks = [TopDownBlock(4, 1, (1, 1), "tanh", gain=1.0) for _ in range(2)]
    path = TopDownPath(1, [(4, (1, 1))], [blocks], (1, 1, 1))
    rise = Rise((1, 1, 1), [4], 0, "tanh")
    model = TopDownVAE(rise, NormalPosterior(4, 1), StandardNormalPrior(1), path, likelihood).double()
    with torch.no_grad():  # some start as zero, and would hide what lies behind them
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def linear_normal(gain: float, offset: float, log_variance: float) -> NormalPosterior:
    """N(gain x + offset, exp(log_variance + 0.1 x)) of one number."""
    head = NormalPosterior(1, 1).double()
    with torch.no_grad():
        for layer, weight, bias in ((head.mean, gain, offset), (head.log_variance, 0.1, log_variance)):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    return head


@dataclass
class BlockDraws:
    """A :class:`vaelab.evidence.Draws` for very many images, quick because a call is one call of torch; remembers what was asked for.

    Attributes:
        seed, num_images: of the whole; ``images`` are those that are drawn for.
        asked: kind, purpose and repetition of each call.
    """

    seed: int
    num_images: int
    dtype: torch.dtype = torch.float64
    images: slice = field(default_factory=lambda: slice(None))
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    def _generator(self, *call: Any) -> torch.Generator:
        self.asked.append(call)
        return torch.Generator().manual_seed(zlib.crc32(repr((self.seed, *call)).encode()))

    def normal(self, purpose: str, shape: Sequence[int], repetition: int = 0) -> Tensor:
        generator = self._generator("normal", purpose, repetition)
        drawn = torch.randn(self.num_images, *shape, generator=generator, dtype=self.dtype)
        return drawn[self.images]

    def uniform(self, purpose: str, shape: Sequence[int], repetition: int = 0) -> Tensor:
        generator = self._generator("uniform", purpose, repetition)
        return torch.rand(self.num_images, *shape, generator=generator, dtype=self.dtype)[self.images]

    def __getitem__(self, images: slice) -> BlockDraws:
        return replace(self, images=images)
