"""What every model offers, whatever its layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab.batch import Batch
from vaelab.errors import SettingError
from vaelab.models.terms import Layer, Terms, closed_form_kl
from vaelab.models.traits import Traits
from vaelab.priors import is_standard_normal


class Recipe(Protocol):
    """How the parts of a model are made, as often as it needs them; see :class:`vaelab.build.Recipe`.

    Attributes:
        latent_dim: D.
        image_shape: ``(C, H, W)``.
        num_classes: of the data; 0 without labels.
    """

    latent_dim: int
    image_shape: tuple[int, ...]
    num_classes: int

    def encoder(self, shape: tuple[int, ...] | None = None, context_dim: int = 0) -> Any: ...

    def posterior(self, num_features: int, latent_dim: int | None = None) -> Any: ...

    def prior(self, posterior_noise_dim: int, latent_dim: int | None = None, context_dim: int = 0) -> Any: ...

    def decoder(self, latent_dim: int | None = None, context_dim: int = 0) -> Any: ...

    def likelihood(self) -> Any: ...


@dataclass(frozen=True)
class Simulated:
    """Ancestral samples of p(x, z), short of the pixels, which ``likelihood.draw`` makes of ``p_x``.

    Attributes:
        z: all layers, the one next to the image first ``[n, sum of D]``, as :meth:`Model.log_joint` takes them.
        p_x: p(x|z), batch shape ``[n]``.
    """

    z: Tensor
    p_x: Distribution


class Model(nn.Module, ABC):
    """p(x, z), perhaps given labels y, with the approximate posterior q(z|x). It draws no random numbers: noise is an argument.

    Where there are several stochastic layers, the *code* is the topmost.

    Attributes:
        takes: the configuration groups that the model is made of.
        noise_dim: standard normal numbers that a sample of q takes.
        prior_noise_dim: standard normal numbers that a sample of p(z) takes.
        choosing_dim: how many of the last of these choose, a component of p(z) or a class, and so are no temperature's to scale.
        num_classes: labels that decoding and sampling take; 0 = none.
        infers_labels: they are a variable of the model, with a q(y|x) and a p(y), and training images may be without; otherwise a model that takes labels is conditional on them.
        begins_with: names of other models whose runs it may start from, since their parts mean the same here.
        likelihood: parameters -> p(x|z), of which it draws images.
    """

    takes: ClassVar[frozenset[str]]
    noise_dim: int
    prior_noise_dim: int
    choosing_dim: int
    num_classes: int = 0
    infers_labels: ClassVar[bool] = False
    begins_with: ClassVar[frozenset[str]] = frozenset()
    likelihood: Any

    @classmethod
    @abstractmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        """The model of a configuration; further arguments are the settings of its group."""

    @abstractmethod
    def forward(self, batch: Batch, eps: Tensor) -> Terms:
        """The terms of the bound, from noise ``eps [K, B, noise_dim]``."""

    @abstractmethod
    def encode(self, batch: Batch) -> Layer:
        """The code's terms at zero noise: its ``z [1, B, D]`` is the mean of q where q is Gaussian; layers below it are at zero noise, too."""

    @abstractmethod
    def reconstruct(self, batch: Batch, eps: Tensor) -> Distribution:
        """p(x|z) ``[K, B]`` at samples z of q, from noise ``eps [K, B, noise_dim]``."""

    @abstractmethod
    def decode(self, code: Tensor, y: Tensor | None = None) -> Distribution:
        """p(x|code) of codes ``[..., D]`` and labels ``[...]``; layers between are at their means."""

    @abstractmethod
    def simulate(self, eps: Tensor, y: Tensor | None = None) -> Simulated:
        """Samples z of the prior, every layer given those above it, and p(x|z) there, from noise ``eps [n, prior_noise_dim]``."""

    def sample(self, eps: Tensor, y: Tensor | None = None) -> Distribution:
        """p(x|z) at samples z of the prior, from noise ``eps [n, prior_noise_dim]``; its mean is the picture usually shown."""
        return self.simulate(eps, y).p_x

    @abstractmethod
    def log_joint(self, batch: Batch, z: Tensor) -> Tensor:
        """log p(x, z) ``[K, B]`` at ``z [K, B, sum of D]``, differentiable in z; the layer next to the image comes first."""

    @abstractmethod
    def traits(self) -> Traits:
        """What objectives have to know."""

    @abstractmethod
    def inference_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of q(z|x)."""

    @abstractmethod
    def generative_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of p(x, z); some may be those of q, too."""


@dataclass(frozen=True)
class Inference:
    """q(z|x) as a thing to hand on: images -> distribution. A prior that needs inference (VampPrior) is handed it.

    Attributes:
        encoder, posterior: its parts.
        context: labels of the images, one hot ``[B, num_classes]``, or None.
    """

    encoder: Any
    posterior: Any
    context: Tensor | None = None

    def __call__(self, x: Tensor) -> Distribution:
        """q(z|x) of images ``[B, C, H, W]``."""
        return self.posterior.distribution(self._features(x))

    def sample(self, x: Tensor, eps: Tensor) -> Any:
        """Samples of q(z|x) with their density, from noise ``eps [K, B, noise_dim]``."""
        return self.posterior(self._features(x), eps)

    def _features(self, x: Tensor) -> Tensor:
        return self.encoder(x) if self.context is None else self.encoder(x, context=self.context)

    @property
    def noise_dim(self) -> int:
        return self.posterior.noise_dim


def one_hot(y: Tensor, num_classes: int) -> Tensor:
    """Classes ``[...]`` one hot ``[..., num_classes]``, bool. Torch's own function looks at them first, and waits for a GPU to have them."""
    return y.unsqueeze(-1) == torch.arange(num_classes, device=y.device)


def check_prior(prior: Any, posterior: Any) -> None:
    """Refuse a prior that takes the density of q at any z from a posterior that is slow to say it."""
    if prior.needs_inference and not posterior.fast_density:
        rule = "needs the density of q at a given z, which is slow for this posterior; use posterior.kind=coupling"
        raise SettingError("prior", "vamp", rule)


def chosen_by(prior: Any) -> int:
    """How many of the last numbers in the noise of a sample of ``prior`` choose a component."""
    return getattr(prior, "choosing_dim", 0)


def traits_of(
    model: Model,
    q: Distribution,
    p: Distribution,
    fast_density: bool = True,
    moments: bool = False,
    layers: int = 1,
) -> Traits:
    """The traits of a model, of which ``q`` and ``p`` are the posterior and the prior of the code."""
    kl = closed_form_kl(q, p)
    return Traits(
        closed_form_kl=kl is not None,
        kl_per_dimension=kl is not None and kl.shape[-1] == q.event_shape[-1],
        moments=moments,
        fast_density=fast_density,
        parameters_apart=parameters_apart(model),
        standard_prior=is_standard_normal(p),
        layers=layers,
    )


def parameters_apart(model: Model) -> bool:
    """Whether no trainable parameter belongs both to q and to p."""
    inference = {id(p) for p in model.inference_parameters() if p.requires_grad}
    return inference.isdisjoint(id(p) for p in model.generative_parameters() if p.requires_grad)
