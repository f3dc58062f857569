"""The variational autoencoder with one latent layer (Kingma & Welling 2014; Rezende et al. 2014), perhaps given labels (Sohn et al. 2015)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaelab.batch import Batch
from vaelab.errors import SettingError
from vaelab.models.model import (
    Inference,
    Model,
    Recipe,
    Simulated,
    check_prior,
    chosen_by,
    one_hot,
    traits_of,
)
from vaelab.models.terms import LayerTerms, Terms
from vaelab.models.traits import Traits


class VAE(Model):
    """p(x, z) = p(z) p(x|z), with the approximate posterior q(z|x); or p(x, z|y) = p(z|y) p(x|z, y) with q(z|x, y), for labels y.

    Args:
        encoder: images ``[B, C, H, W]`` -> features ``[B, F]``.
        posterior: features, noise -> samples of q(z|x) with their density.
        prior: p(z).
        decoder: ``z [..., D]`` -> parameters ``[..., P * C, H, W]``.
        likelihood: parameters -> p(x|z).
        num_classes: length of the one-hot label that encoder, prior and decoder take as context; 0 = no labels.
    """

    takes = frozenset({"encoder", "posterior", "prior", "decoder", "likelihood"})
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
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.posterior = posterior
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.num_classes = num_classes
        check_prior(prior, posterior)
        self.noise_dim = self.posterior.noise_dim
        self.prior_noise_dim = self.prior.noise_dim
        self.choosing_dim = chosen_by(self.prior)

    @classmethod
    def from_recipe(cls, recipe: Recipe, conditional: bool = False) -> Self:
        """Args:
        conditional: p(x|y) in place of p(x).
        """
        if conditional and recipe.num_classes == 0:
            raise SettingError(
                "model", "conditional", "needs labels, and these data have none (or not for every image)"
            )
        num_classes = recipe.num_classes if conditional else 0
        # The order decides which initial weights a seed gives.
        likelihood = recipe.likelihood()
        encoder = recipe.encoder(context_dim=num_classes)
        posterior = recipe.posterior(encoder.num_features)
        prior = recipe.prior(posterior.noise_dim, context_dim=num_classes)
        return cls(
            encoder, posterior, prior, recipe.decoder(context_dim=num_classes), likelihood, num_classes
        )

    def forward(self, batch: Batch, eps: Tensor) -> Terms:
        context = self.context(batch.y)
        infer = Inference(self.encoder, self.posterior, context)
        sample = infer.sample(batch.x, eps)
        p_x = self.likelihood(self._decode(sample.z, context))
        return Terms(
            log_px=p_x.log_prob(batch.x),
            layers=(LayerTerms(sample, self.prior(infer=infer, context=context)),),
        )

    def infer(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """q(z|x) of images ``[B, C, H, W]``, given labels ``[B]`` where the model is conditional."""
        return Inference(self.encoder, self.posterior, self.context(y))(x)

    def context(self, y: Tensor | None) -> Tensor | None:
        """Labels ``[...]`` one hot ``[..., num_classes]``; None for a model without labels."""
        if self.num_classes == 0:
            return None
        if y is None:
            raise ValueError(f"this model is conditional: labels from 0 to {self.num_classes - 1} are needed")
        return one_hot(y, self.num_classes).to(next(self.parameters()).dtype)

    def _decode(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.decoder(z) if context is None else self.decoder(z, context=context)

    def encode(self, batch: Batch) -> LayerTerms:
        context = self.context(batch.y)
        infer = Inference(self.encoder, self.posterior, context)
        sample = infer.sample(batch.x, batch.x.new_zeros(1, len(batch.x), self.noise_dim))
        return LayerTerms(sample, self.prior(infer=infer, context=context))

    def reconstruct(self, batch: Batch, eps: Tensor) -> Distribution:
        context = self.context(batch.y)
        sample = Inference(self.encoder, self.posterior, context).sample(batch.x, eps)
        return self.likelihood(self._decode(sample.z, context))

    def decode(self, code: Tensor, y: Tensor | None = None) -> Distribution:
        return self.likelihood(self._decode(code, self.context(y)))

    def simulate(self, eps: Tensor, y: Tensor | None = None) -> Simulated:
        context = self.context(y)
        infer = Inference(self.encoder, self.posterior, context)
        z = self.prior.draw(eps, infer=infer, context=context)
        return Simulated(z, self.likelihood(self._decode(z, context)))

    def log_joint(self, batch: Batch, z: Tensor) -> Tensor:
        context = self.context(batch.y)
        prior = self.prior(infer=Inference(self.encoder, self.posterior, context), context=context)
        return prior.log_prob(z) + self.likelihood(self._decode(z, context)).log_prob(batch.x)

    @torch.no_grad()
    def traits(self) -> Traits:
        # two images' worth of nothing tell what kinds of distribution meet
        weight = next(self.parameters())
        context = None if self.num_classes == 0 else weight.new_zeros(2, self.num_classes)
        q = self.posterior.distribution(weight.new_zeros(2, self.encoder.num_features))
        p = self.prior(infer=Inference(self.encoder, self.posterior, context), context=context)
        return traits_of(
            self,
            q,
            p,
            self.posterior.fast_density,
            moments=isinstance(q, Independent) and isinstance(q.base_dist, Normal),
        )

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        return chain(self.encoder.parameters(), self.posterior.parameters())

    def generative_parameters(self) -> Iterator[nn.Parameter]:
        own = chain(self.prior.parameters(), self.decoder.parameters(), self.likelihood.parameters())
        return chain(own, self.inference_parameters()) if self.prior.needs_inference else own
