"""The mixture of Gaussians as prior, and mixtures of any components."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily
from torch.utils.checkpoint import checkpoint

from vaelab.errors import integer
from vaelab.posteriors import LogVarianceNormal
from vaelab.priors.context import ContextParameters
from vaelab.priors.inference import Inference

AT_ONCE = 2**22  # numbers of z against every component


class Mixture(MixtureSameFamily):
    """p(z) = sum_m w_m p_m(z).

    Args:
        logits: log w_m up to a constant, ``[M]``.
        components: p_m, batch shape ``[..., M]``, event shape ``[D]``.
    """

    def __init__(self, logits: Tensor, components: Distribution) -> None:
        weights = Categorical(logits=logits, validate_args=False)
        super().__init__(weights, components, validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(z) ``[...]`` of ``z [..., D]``."""
        return torch.logsumexp(self.log_joint(x), -1)

    def log_joint(self, z: Tensor) -> Tensor:
        """log w_m + log p_m(z) ``[..., M]`` of ``z [..., D]``."""
        weights, components = self.mixture_distribution, self.component_distribution
        normal = components.base_dist if isinstance(components, Independent) else None
        # float64, which the fast way needs, is not on every kind of device
        if isinstance(normal, LogVarianceNormal) and normal.loc.dim() == 2 and z.device.type != "mps":
            log_p = _log_normals(z, normal)
        else:
            log_p = _in_pieces(z, components)
        return weights.logits + log_p


def _in_pieces(z: Tensor, components: Distribution) -> Tensor:
    """log p_m(z) ``[..., M]``, at the memory of :data:`AT_ONCE` numbers where every z meets the same M components: in the backward pass a piece is computed anew."""
    if len(components.batch_shape) != 1:
        return components.log_prob(z.unsqueeze(-2))
    rows = z.reshape(-1, 1, z.shape[-1])
    pieces = rows.split(max(1, AT_ONCE // (components.batch_shape[0] * z.shape[-1])))
    if len(pieces) == 1:
        log_p = components.log_prob(rows)
    else:
        log_p = torch.cat([checkpoint(components.log_prob, piece, use_reentrant=False) for piece in pieces])
    return log_p.unflatten(0, z.shape[:-1])


def _log_normals(z: Tensor, normal: LogVarianceNormal) -> Tensor:
    """log N(z; mu_m, diag sigma_m^2) ``[..., M]`` of ``z [..., D]``, through products of matrices: nothing as large as ``[..., M, D]`` is made.

    sum_j (z_j - mu_j)^2 / sigma_j^2 = sum_j (z_j^2 - 2 z_j mu_j + mu_j^2) / sigma_j^2, a difference of large numbers where sigma is small: in float64.
    """
    x, mean, log_variance = z.double(), normal.loc.double(), normal.log_variance.double()
    precision = torch.exp(-log_variance)
    constant = (mean.square() * precision + log_variance + math.log(2 * math.pi)).sum(-1)
    distance = x.square() @ precision.mT - 2 * x @ (mean * precision).mT
    return (-0.5 * (distance + constant)).to(z.dtype)


def choose(logits: Tensor, eps: Tensor) -> Tensor:
    """The component m ``[...]``, of probability softmax(logits)_m, that each standard normal number ``eps [...]`` stands for: Phi(eps) is uniform on [0, 1].

    >>> choose(torch.tensor([0.0, 0.0]), torch.tensor([-0.1, 0.1]))
    tensor([0, 1])
    """
    steps = logits.softmax(-1).cumsum(-1)
    chosen = torch.searchsorted(steps, torch.special.ndtr(eps).contiguous(), right=True)
    return chosen.clamp(max=len(logits) - 1)  # the last step may be rounded to less than 1


class MixturePrior(nn.Module):
    """p(z) = sum_m w_m N(z; m_m, diag s_m^2), M Gaussians, everything learned.

    It starts close to N(0, I): variances at 1, means at samples of N(0, 0.1^2 I), because equal components would stay equal. With means as far apart as samples of
    N(0, I) each code would at first be far from all of them.

    Args:
        latent_dim: D.
        num_components: M.
        context_dim: length of a context that means and log-variances depend on, each through a linear layer; 0 for none.

    Raises:
        SettingError: M is no positive integer.
    """

    needs_inference = False
    choosing_dim = 1  # of the numbers in the noise of a sample, the last one says which component

    def __init__(self, latent_dim: int, num_components: int = 10, context_dim: int = 0) -> None:
        super().__init__()
        integer("prior.num_components", num_components, 1)
        self.noise_dim = latent_dim + 1  # the last number chooses the component
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.mean = ContextParameters(0.1 * torch.randn(num_components, latent_dim), context_dim)
        self.log_variance = ContextParameters(torch.zeros(num_components, latent_dim), context_dim)

    def forward(self, infer: Inference | None = None, context: Tensor | None = None) -> Mixture:
        """p(z), event shape ``[D]``; given a ``context [B, context_dim]``, p(z|context) of batch shape ``[B]``."""
        normal = LogVarianceNormal(self.mean(context), self.log_variance(context))
        return Mixture(self.logits, Independent(normal, 1, validate_args=False))

    def draw(self, eps: Tensor, infer: Inference | None = None, context: Tensor | None = None) -> Tensor:
        """Samples ``z [..., D]`` from standard normal noise ``eps [..., D + 1]``."""
        normal = self(context=context).component_distribution.base_dist
        component = choose(self.logits, eps[..., -1])
        shape = (*component.shape, *normal.loc.shape[-2:])
        place = component[..., None, None]
        loc, scale = (
            torch.take_along_dim(values.expand(shape), place, dim=-2).squeeze(-2)
            for values in (normal.loc, normal.scale)
        )
        return torch.addcmul(loc, scale, eps[..., :-1])
