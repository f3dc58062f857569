"""The posterior that is a flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab.errors import SettingError, choice
from vaelab.networks.layers import widened
from vaelab.posteriors.transforms import (
    Affine,
    LazyTransform,
    NormalizingFlow,
    StandardNormalNoise,
    autoregressive_transform,
    flow_distribution,
    one_after_the_other,
    start_as_identity,
)


@dataclass(frozen=True)
class FlowSample:
    """z = f(eps; features) with its density; see :class:`~vaelab.posteriors.PosteriorSample`.

    Attributes:
        log_density_stopped: log q(z|x) as a function of z, with everything else held fixed.
    """

    z: Tensor
    log_q: Tensor
    distribution: Distribution
    log_density_stopped: Callable[[Tensor], Tensor]
    mean: None = None
    stddev: None = None

    @cached_property
    def log_q_stopped(self) -> Tensor:
        return self.log_density_stopped(self.z)


class _Pushforward(nn.Module):
    """The distribution of mu(context) + sigma(context) * f(eps; context), eps ~ N(0, I)."""

    def __init__(self, transform: LazyTransform, num_features: int, dim: int) -> None:
        super().__init__()
        self.mean = nn.Linear(num_features, dim)
        self.log_variance = nn.Linear(num_features, dim)
        self.transform = transform
        self.base = StandardNormalNoise(dim)

    def distribution(self, context: Tensor) -> NormalizingFlow:
        # zuko's direction is from z to the noise.
        mean, log_variance = widened(self.mean(context)), widened(self.log_variance(context))
        to_z = Affine(mean, torch.exp(0.5 * log_variance), event_dim=1)
        to_noise = one_after_the_other(to_z.inv, self.transform(context).inv)
        return flow_distribution(to_noise, self.base(context.shape[:-1]))

    def forward(self, context: Tensor, z: Tensor) -> Tensor:
        """Its log-density at a given z."""
        return self.distribution(context).log_prob(z)


class FlowPosterior(nn.Module):
    """Conditional flow: q(z|x) is the distribution of z = mu(x) + sigma(x) * f(eps; x), eps ~ N(0, I), log q(z|x) = log N(eps; 0, I) - log |det dz/deps|.

    f starts as the identity, so that q starts as a diagonal Gaussian. A sample and its density cost one evaluation of f. The density at any other z:

    - ``inverse_autoregressive`` (Kingma et al. 2016): z_i = g(eps_i; eps_<i, features), D evaluations, one after the other;
    - ``coupling`` (as RealNVP, Dinh et al. 2017): the second half of z depends on the first half of eps, three evaluations.

    No moments are known in closed form.

    Args:
        num_features: F, length of the encoder's features.
        latent_dim: D.
        kind: one of the above.
        num_transforms: steps of f, the order of the dimensions turned around between them.
        hidden: widths of each step's network.

    Raises:
        SettingError: an unknown kind, a number of steps or a width that is no positive integer.
    """

    fast_density: bool
    KINDS = ("inverse_autoregressive", "coupling")

    def __init__(
        self,
        num_features: int,
        latent_dim: int,
        kind: str = "inverse_autoregressive",
        num_transforms: int = 2,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        self.kind = choice("posterior.kind", kind, self.KINDS)
        self.fast_density = kind == "coupling"
        self.noise_dim = latent_dim
        transform = autoregressive_transform(
            "posterior", latent_dim, num_features, num_transforms, hidden, coupling=kind == "coupling"
        )
        start_as_identity(transform)
        self.flow = _Pushforward(transform, num_features, latent_dim)

    def distribution(self, features: Tensor) -> NormalizingFlow:
        """q(z|x) from features ``[B, F]``."""
        return self.flow.distribution(features)

    def forward(self, features: Tensor, eps: Tensor) -> FlowSample:
        """Samples from features ``[B, F]`` and standard normal noise ``eps [K, B, D]``."""
        q = self.distribution(features)
        to_z: Any = q.transform.inv
        z, log_det = to_z.call_and_ladj(eps)
        log_q = q.base.log_prob(eps) - log_det
        return FlowSample(z, log_q, q, partial(self._log_density_stopped, features))

    def _log_density_stopped(self, features: Tensor, z: Tensor) -> Tensor:
        if not self.fast_density:
            raise SettingError(
                "posterior.kind",
                self.kind,
                "has no fast density at a given z, which is needed here; use coupling",
            )
        fixed = {name: parameter.detach() for name, parameter in self.flow.named_parameters()}
        return torch.func.functional_call(self.flow, fixed, (features.detach(), z))
