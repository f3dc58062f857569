"""The variational autoencoder with one latent layer (Kingma & Welling 2014; Rezende et al. 2014)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab.batch import Batch
from vaelab.models.terms import LayerTerms, Terms, closed_form_kl


class VAE(nn.Module):
    """p(x, z) = p(z) p(x|z), with the approximate posterior q(z|x).

    Args:
        encoder: images ``[B, C, H, W]`` -> features ``[B, F]``.
        posterior: features, noise -> samples of q(z|x) with their density.
        prior: p(z).
        decoder: ``z [..., D]`` -> parameters ``[..., P * C, H, W]``.
        likelihood: parameters -> p(x|z).

    The model draws no random numbers: noise is an argument.
    """

    encoder: Any
    posterior: Any
    prior: Any
    decoder: Any
    likelihood: Any

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module,
        prior: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.posterior = posterior
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood

    @property
    def noise_dim(self) -> int:
        """Number of standard normal numbers that one sample of z takes."""
        return self.posterior.noise_dim

    def forward(self, batch: Batch, eps: Tensor) -> Terms:
        """The terms of the bound, from noise ``eps [K, B, noise_dim]``."""
        sample = self.posterior(self.encoder(batch.x), eps)
        p_x = self.likelihood(self.decoder(sample.z))
        return Terms(log_px=p_x.log_prob(batch.x), layers=(LayerTerms(sample, self.prior(infer=self.infer)),))

    def infer(self, x: Tensor) -> Distribution:
        """q(z|x) of images ``[B, C, H, W]``."""
        return self.posterior.distribution(self.encoder(x))

    def decode(self, z: Tensor) -> Distribution:
        """p(x|z) of ``z [..., D]``; event shape ``[C, H, W]``."""
        return self.likelihood(self.decoder(z))

    def sample(self, eps: Tensor, context: Tensor | None = None) -> Distribution:
        """p(x|z) at samples z of the prior, from noise ``eps [n, prior.noise_dim]``; its mean is the picture usually shown."""
        return self.decode(self.prior.draw(eps, infer=self.infer, context=context))

    def log_joint(self, batch: Batch, z: Tensor) -> Tensor:
        """log p(x, z) ``[K, B]`` at ``z [K, B, D]``, differentiable in z."""
        return self.prior(infer=self.infer).log_prob(z) + self.decode(z).log_prob(batch.x)

    @torch.no_grad()
    def has_closed_form_kl(self) -> bool:
        """Whether KL(q(z|x) || p(z)) is had without sampling."""
        features = torch.zeros(1, self.encoder.num_features)
        return closed_form_kl(self.posterior.distribution(features), self.prior(infer=self.infer)) is not None

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of q(z|x)."""
        return chain(self.encoder.parameters(), self.posterior.parameters())

    def generative_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of p(x, z)."""
        return chain(self.prior.parameters(), self.decoder.parameters(), self.likelihood.parameters())
