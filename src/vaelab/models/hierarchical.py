"""Several layers of latent variables: inference from the image upwards, or along the way that generates."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from vaelab.batch import Batch
from vaelab.errors import SettingError
from vaelab.models.model import Inference, Model, Recipe, Simulated, chosen_by, parameters_apart, traits_of
from vaelab.models.terms import Layer, LayerTerms, Terms, closed_form_kl
from vaelab.models.traits import Traits
from vaelab.networks import MLPEncoder
from vaelab.posteriors import LogVarianceNormal, NormalPosterior
from vaelab.priors import is_standard_normal


class Conditional(nn.Module):
    """p(z|parent), or q(z|parent), of vectors: a network and the distribution on top of it.

    Args:
        network: parents ``[n, F_in]`` -> features ``[n, F]``.
        head: features -> distribution; samples from noise.
    """

    network: Any
    head: Any

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.head = head

    def forward(self, parent: Tensor) -> Distribution:
        return self.head.distribution(self.network(parent))

    def sample(self, parent: Tensor, eps: Tensor) -> Any:
        """One sample for each parent ``[n, F_in]``, from noise ``eps [n, noise_dim]``."""
        return self.head(self.network(parent), eps.unsqueeze(0))

    def log_prob_stopped(self, parent: Tensor, z: Tensor) -> Tensor:
        """log q(z|parent) ``[n]`` with its own parameters as constants; gradients go on to z and to the parents."""
        constants = {f"conditional.{name}": value.detach() for name, value in self.named_parameters()}
        return torch.func.functional_call(_Density(self), constants, (parent, z))


class _Density(nn.Module):
    """(parents, z) -> log q(z|parent). The density is taken inside the call: the networks of a flow run only then."""

    def __init__(self, conditional: Conditional) -> None:
        super().__init__()
        self.conditional = conditional

    def forward(self, parent: Tensor, z: Tensor) -> Tensor:
        return self.conditional(parent).log_prob(z)


@dataclass(frozen=True)
class FoldedTerms(Layer):
    """The terms of a layer whose distributions depend on K samples of another: K x B of them stand in one row, and are seen as ``[K, B]``.

    Attributes:
        num_samples: K.
        sample: of q, one for each of the ``n = K B`` parents.
        prior: p, batch shape ``[n]`` or ``[]``.
        conditional, parents: what q is made of.
        exact_kl: KL(q || p) given the parents is the layer's part of the rate; not so where p depends on z of a layer that is inferred after this one.
    """

    num_samples: int
    sample: Any
    prior: Distribution
    conditional: Conditional
    parents: Tensor
    exact_kl: bool = True

    def _unfold(self, rows: Tensor) -> Tensor:
        return rows.unflatten(0, (self.num_samples, -1))

    @cached_property
    def z(self) -> Tensor:
        return self._unfold(self.sample.z[0])

    @cached_property
    def log_p(self) -> Tensor:
        return self._unfold(self.prior.log_prob(self.sample.z[0]))

    @cached_property
    def log_q(self) -> Tensor:
        return self._unfold(self.sample.log_q[0])

    @cached_property
    def log_q_stopped(self) -> Tensor:
        # The parents are samples, too, through which the path goes on: only the parameters stand still.
        return self._unfold(self.conditional.log_prob_stopped(self.parents, self.sample.z[0]))

    @cached_property
    def kl(self) -> Tensor | None:
        kl = closed_form_kl(self.sample.distribution, self.prior) if self.exact_kl else None
        return None if kl is None else self._unfold(kl)

    @property
    def mean(self) -> None:
        """Not known: the parents are samples."""

    @property
    def stddev(self) -> None:
        """Not known."""


class Layered(Model):
    """What models of several layers share: p(x, z) = p(z_L) prod_l p(z_l|z_{l+1}) p(x|z_1), with diagonal Gaussians between layers. The code is z_L.

    Attributes:
        prior: p(z_L).
        downwards: p(z_l|z_{l+1}), l = 1 .. L - 1.
        decoder, likelihood: of p(x|z_1).
        dims: D of each layer, from the image on.
    """

    prior: Any
    downwards: Any
    decoder: Any
    likelihood: Any
    dims: tuple[int, ...]

    @abstractmethod
    def infer_layers(self, batch: Batch, eps: Tensor) -> tuple[Layer, ...]:
        """The terms of each layer, from the image on, from noise ``eps [K, B, noise_dim]``."""

    @abstractmethod
    def infer_code(self) -> Any:
        """q(z_L|x) for a prior that needs it (:class:`Inference`), or None."""

    def forward(self, batch: Batch, eps: Tensor) -> Terms:
        layers = self.infer_layers(batch, eps)
        p_x = self.likelihood(self.decoder(layers[0].z))
        return Terms(log_px=p_x.log_prob(batch.x), layers=layers)

    def reconstruct(self, batch: Batch, eps: Tensor) -> Distribution:
        return self.likelihood(self.decoder(self.infer_layers(batch, eps)[0].z))

    def encode(self, batch: Batch) -> Layer:
        return self.infer_layers(batch, batch.x.new_zeros(1, len(batch.x), self.noise_dim))[-1]

    def decode(self, code: Tensor, y: Tensor | None = None) -> Distribution:
        z = code
        for p in reversed(self.downwards):
            z = p(z).mean
        return self.likelihood(self.decoder(z))

    def simulate(self, eps: Tensor, y: Tensor | None = None) -> Simulated:
        *lower, top = eps.split([*self.dims[:-1], self.prior.noise_dim], dim=-1)
        zs = [self.prior.draw(top, infer=self.infer_code())]
        for p, noise in zip(reversed(self.downwards), reversed(lower), strict=True):
            below = p(zs[-1])
            zs.append(below.mean + below.stddev * noise)
        return Simulated(torch.cat(zs[::-1], dim=-1), self.likelihood(self.decoder(zs[-1])))

    def log_joint(self, batch: Batch, z: Tensor) -> Tensor:
        zs = z.split(self.dims, dim=-1)
        total = self.prior(infer=self.infer_code()).log_prob(zs[-1])
        for p, low, high in zip(self.downwards, zs[:-1], zs[1:], strict=True):
            total = total + p(high).log_prob(low)
        return total + self.likelihood(self.decoder(zs[0])).log_prob(batch.x)

    def generative_parameters(self) -> Iterator[nn.Parameter]:
        return chain(
            *(part.parameters() for part in (self.prior, self.downwards, self.decoder, self.likelihood))
        )


class HierarchicalVAE(Layered):
    """p(x, z) = p(z_L) prod_l p(z_l|z_{l+1}) p(x|z_1), inferred from the image upwards: q(z|x) = q(z_1|x) prod_l q(z_{l+1}|z_l) (Burda et al. 2016).

    p(z_l|z_{l+1}) are diagonal Gaussians; q are what the posterior group says. The code is z_L.

    Args:
        encoder, posterior: of q(z_1|x).
        upwards: of q(z_{l+1}|z_l), l = 1 .. L - 1.
        prior: p(z_L).
        downwards: p(z_l|z_{l+1}), l = 1 .. L - 1.
        decoder, likelihood: of p(x|z_1).
        dims: D of each layer, from the image on.
    """

    takes = frozenset({"encoder", "posterior", "prior", "decoder", "likelihood"})
    encoder: Any
    upwards: Any
    posterior: Any

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module,
        upwards: Sequence[Conditional],
        prior: nn.Module,
        downwards: Sequence[Conditional],
        decoder: nn.Module,
        likelihood: nn.Module,
        dims: Sequence[int],
    ) -> None:
        super().__init__()
        self.encoder, self.posterior = encoder, posterior
        self.upwards = nn.ModuleList(upwards)
        self.prior = prior
        self.downwards = nn.ModuleList(downwards)
        self.decoder, self.likelihood = decoder, likelihood
        self.dims = tuple(dims)
        if self.prior.needs_inference:
            raise SettingError(
                "prior",
                "vamp",
                "needs q(z_L|x), which samples the layers between; use model=vae or model=ladder",
            )
        self.noise_dims = [self.posterior.noise_dim, *(q.head.noise_dim for q in upwards)]
        self.noise_dim = sum(self.noise_dims)
        self.prior_noise_dim = sum(self.dims[:-1]) + self.prior.noise_dim
        self.choosing_dim = chosen_by(self.prior)

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        lower_dims: Sequence[int] = (100,),
        hidden: Sequence[int] = (100, 100),
        activation: str = "tanh",
    ) -> Self:
        """Args:
        lower_dims: D of the layers below the top one, from the image on; ``latent_dim`` is that of the top.
        hidden: widths of the networks between layers.
        activation: of the networks between layers.
        """
        dims = layer_dims(lower_dims, recipe.latent_dim)
        likelihood = recipe.likelihood()
        encoder = recipe.encoder()
        posterior = recipe.posterior(encoder.num_features, dims[0])
        upwards = []
        for low, high in pairwise(dims):
            network = MLPEncoder((1, 1, low), hidden, activation)
            upwards.append(Conditional(network, recipe.posterior(network.num_features, high)))
        prior = recipe.prior(upwards[-1].head.noise_dim)
        downwards = [gaussian(high, low, hidden, activation) for low, high in pairwise(dims)]
        return cls(encoder, posterior, upwards, prior, downwards, recipe.decoder(dims[0]), likelihood, dims)

    def infer_layers(self, batch: Batch, eps: Tensor) -> tuple[Layer, ...]:
        first, *others = eps.split(self.noise_dims, dim=-1)
        samples, parents = [self.posterior(self.encoder(batch.x), first)], []
        z = samples[0].z.flatten(0, 1)
        for q, noise in zip(self.upwards, others, strict=True):
            parents.append(z)
            samples.append(q.sample(z, noise.flatten(0, 1)))
            z = samples[-1].z[0]
        zs = [*parents, z]
        priors = [p(above) for p, above in zip(self.downwards, zs[1:], strict=True)]
        bottom = LayerTerms(samples[0], unfolded(priors[0], len(eps)), exact_kl=False)
        above = [
            FoldedTerms(len(eps), sample, prior, q, parent, exact_kl=False)
            for sample, prior, q, parent in zip(
                samples[1:-1], priors[1:], list(self.upwards)[:-1], parents[:-1], strict=True
            )
        ]
        top = FoldedTerms(len(eps), samples[-1], self.prior(), self.upwards[-1], parents[-1])
        return (bottom, *above, top)

    def infer_code(self) -> None:
        """None: q(z_L|x) samples the layers between."""

    @torch.no_grad()
    def traits(self) -> Traits:
        p = self.prior()
        return Traits(
            closed_form_kl=False,
            kl_per_dimension=False,
            moments=False,
            fast_density=self.posterior.fast_density,
            parameters_apart=parameters_apart(self),
            standard_prior=is_standard_normal(p),
            layers=len(self.dims),
        )

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        return chain(self.encoder.parameters(), self.posterior.parameters(), self.upwards.parameters())


class LadderVAE(Layered):
    """p(x, z) = p(z_L) prod_l p(z_l|z_{l+1}) p(x|z_1), inferred along the way that generates: q(z|x) = q(z_L|x) prod_l q(z_l|x, z_{l+1}) (Sonderby et al. 2016).

    The image goes up a path without noise. On the way down, q(z_l|x, z_{l+1}) is the product of p(z_l|z_{l+1}) with a Gaussian from that path: precisions add,
    means are weighted with them. All q are diagonal Gaussians, so the KL of each layer has a closed form given the layer above. q and p share parameters.

    Args:
        encoder: of the image.
        rises: from the features of a layer to those of the next one, L - 1 of them.
        evidence: features of each layer -> Gaussian, L of them.
        prior: p(z_L).
        downwards: p(z_l|z_{l+1}), l = 1 .. L - 1.
        decoder, likelihood: of p(x|z_1).
        dims: D of each layer, from the image on.
    """

    takes = frozenset({"encoder", "prior", "decoder", "likelihood"})
    encoder: Any
    rises: Any
    evidence: Any

    def __init__(
        self,
        encoder: nn.Module,
        rises: Sequence[nn.Module],
        evidence: Sequence[NormalPosterior],
        prior: nn.Module,
        downwards: Sequence[Conditional],
        decoder: nn.Module,
        likelihood: nn.Module,
        dims: Sequence[int],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.rises = nn.ModuleList(rises)
        self.evidence = nn.ModuleList(evidence)
        self.prior = prior
        self.downwards = nn.ModuleList(downwards)
        self.decoder, self.likelihood = decoder, likelihood
        self.dims = tuple(dims)
        self.noise_dim = sum(self.dims)
        self.prior_noise_dim = sum(self.dims[:-1]) + self.prior.noise_dim
        self.choosing_dim = chosen_by(self.prior)

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        lower_dims: Sequence[int] = (100,),
        hidden: Sequence[int] = (100, 100),
        activation: str = "tanh",
    ) -> Self:
        """Args:
        lower_dims: D of the layers below the top one, from the image on; ``latent_dim`` is that of the top.
        hidden: widths of the networks between layers.
        activation: of the networks between layers.
        """
        dims = layer_dims(lower_dims, recipe.latent_dim)
        likelihood = recipe.likelihood()
        encoder = recipe.encoder()
        rises, widths = [], [encoder.num_features]
        for _ in dims[1:]:
            rises.append(MLPEncoder((1, 1, widths[-1]), hidden, activation))
            widths.append(rises[-1].num_features)
        evidence = [NormalPosterior(width, dim) for width, dim in zip(widths, dims, strict=True)]
        prior = recipe.prior(dims[-1])
        downwards = [gaussian(high, low, hidden, activation) for low, high in pairwise(dims)]
        return cls(encoder, rises, evidence, prior, downwards, recipe.decoder(dims[0]), likelihood, dims)

    def _rise(self, x: Tensor) -> list[Independent]:
        """The Gaussian that the image gives for each layer, batch shape ``[B]``."""
        features = [self.encoder(x)]
        for rise in self.rises:
            features.append(rise(features[-1]))
        return [head.distribution(f) for head, f in zip(self.evidence, features, strict=True)]

    def infer_layers(self, batch: Batch, eps: Tensor) -> tuple[Layer, ...]:
        noise = eps.split(self.dims, dim=-1)
        *lower, top = self._rise(batch.x)
        layers: list[Layer] = [
            LayerTerms(
                NormalDraw(top, noise[-1], partial(detached, top)), self.prior(infer=self.infer_code())
            )
        ]
        z = layers[0].z
        for p, own, draw in zip(reversed(self.downwards), reversed(lower), reversed(noise[:-1]), strict=True):
            prior = p(z)
            stopped = partial(_stopped_product, p, z, own)
            layers.append(LayerTerms(NormalDraw(product(prior, own), draw, stopped), prior))
            z = layers[-1].z
        return tuple(reversed(layers))

    def _top_features(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        for rise in self.rises:
            features = rise(features)
        return features

    def infer_code(self) -> Inference:
        return Inference(self._top_features, self.evidence[-1])

    @torch.no_grad()
    def traits(self) -> Traits:
        weight = next(self.parameters())
        top = self.evidence[-1]
        q = top.distribution(weight.new_zeros(2, top.mean.in_features))
        p = self.prior(infer=self.infer_code())
        return traits_of(self, q, p, layers=len(self.dims))

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        return chain(
            *(part.parameters() for part in (self.encoder, self.rises, self.evidence, self.downwards))
        )


@dataclass(frozen=True)
class NormalDraw:
    """z = mu + sigma eps of a diagonal Gaussian whose batch shape is ``[B]`` or ``[K, B]``; see :class:`vaelab.posteriors.PosteriorSample`.

    Attributes:
        distribution: q.
        eps: ``[K, B, D]``.
        stopped: gives q with its parameters as constants.
    """

    distribution: Independent
    eps: Tensor
    stopped: Callable[[], Distribution]

    @cached_property
    def z(self) -> Tensor:
        normal = self.distribution.base_dist
        return normal.mean + normal.stddev * self.eps

    @cached_property
    def log_q(self) -> Tensor:
        # At z = mu + sigma * eps the density needs no difference of z and mu.
        terms = self.eps.square() + _log_variance(self.distribution)
        return -0.5 * (terms.sum(-1) + math.log(2 * math.pi) * self.eps.shape[-1])

    @cached_property
    def log_q_stopped(self) -> Tensor:
        return self.stopped().log_prob(self.z)

    @property
    def mean(self) -> Tensor | None:
        return self.distribution.mean if len(self.distribution.batch_shape) == 1 else None

    @property
    def stddev(self) -> Tensor | None:
        return self.distribution.stddev if len(self.distribution.batch_shape) == 1 else None


def product(p: Distribution, q: Distribution) -> Independent:
    """The Gaussian proportional to the product of two diagonal Gaussians: precisions add, means are weighted with them."""
    a, b = _log_variance(p), _log_variance(q)
    log_variance = -torch.logaddexp(-a, -b)
    mean = p.mean * torch.exp(log_variance - a) + q.mean * torch.exp(log_variance - b)
    return Independent(LogVarianceNormal(mean, log_variance), 1, validate_args=False)


def _log_variance(d: Distribution) -> Tensor:
    """log sigma^2, as it is kept or from sigma."""
    assert isinstance(d, Independent)
    normal = d.base_dist
    return normal.log_variance if isinstance(normal, LogVarianceNormal) else 2 * normal.stddev.log()


def detached(q: Distribution) -> Independent:
    """A diagonal Gaussian with constant parameters."""
    return Independent(LogVarianceNormal(q.mean.detach(), _log_variance(q).detach()), 1, validate_args=False)


def _stopped_product(p: Conditional, parent: Tensor, own: Distribution) -> Independent:
    """q(z_l|x, z_{l+1}) with constant parameters; the path through ``parent``, a sample of z_{l+1}, goes on."""
    constants = {name: value.detach() for name, value in p.named_parameters()}
    below: Distribution = torch.func.functional_call(
        p, constants, (parent,)
    )  # Gaussian: its parameters are there now
    return product(below, detached(own))


def gaussian(parent_dim: int, dim: int, hidden: Sequence[int], activation: str) -> Conditional:
    """p(z_l|z_{l+1}): a diagonal Gaussian from a network."""
    network = MLPEncoder((1, 1, parent_dim), hidden, activation)
    return Conditional(network, NormalPosterior(network.num_features, dim))


def layer_dims(lower_dims: Sequence[int], latent_dim: int) -> tuple[int, ...]:
    """D of each layer, from the image on."""
    dims = tuple(lower_dims) if isinstance(lower_dims, Sequence) and not isinstance(lower_dims, str) else ()
    if not dims or any(isinstance(d, bool) or not isinstance(d, int) or d < 1 for d in dims):
        raise SettingError(
            "model.lower_dims", lower_dims, "must be a list of one or more positive integers, e.g. [100]"
        )
    return (*dims, latent_dim)


def unfolded(rows: Distribution, num_samples: int) -> Independent:
    """A diagonal Gaussian of batch shape ``[K * B]`` as one of ``[K, B]``."""
    mean, log_variance = (t.unflatten(0, (num_samples, -1)) for t in (rows.mean, _log_variance(rows)))
    return Independent(LogVarianceNormal(mean, log_variance), 1, validate_args=False)
