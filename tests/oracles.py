"""Models whose evidence is known exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from vaelab.batch import Batch
from vaelab.likelihoods import GaussianLikelihood
from vaelab.models import VAE, Model, TopDownVAE
from vaelab.models.hierarchical import Conditional, HierarchicalVAE, LadderVAE
from vaelab.models.top_down import TopDownBlock, TopDownPath
from vaelab.networks.top_down import Rise
from vaelab.noise import Noise, Split, Stream
from vaelab.posteriors import NormalPosterior
from vaelab.priors import StandardNormalPrior

D, PIXELS = 2, 3
SIGMA = 0.4


class Flat(nn.Module):
    """A linear network over the pixels of a 1 x 1 x PIXELS image."""

    num_features = PIXELS

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(-3)


class LinearDecoder(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.weight.T + self.bias).unflatten(-1, (1, 1, PIXELS))


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
