"""The rate KL(q(z|x) || p(z)), averaged over images: of each stochastic layer and, where it is known, of each dimension."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vaelab.errors import SettingError
from vaelab.evidence.estimates import Estimate, estimate, exact
from vaelab.models.terms import Layer, Terms, closed_form_kl


@dataclass(frozen=True)
class LayerRate:
    """The rate of one stochastic layer, nats per image.

    Attributes:
        total: its mean over images. ``se_mc`` is None where nothing was sampled, or one sample cannot tell.
        per_dimension: ``[D]``, float64, each at least 0, adding up to ``total``; None without a closed form for each dimension.
        closed_form: in closed form, perhaps given samples of other layers; otherwise the average of log q(z|x) - log p(z) over samples.
    """

    total: Estimate
    per_dimension: Tensor | None
    closed_form: bool


def rate_per_dimension(mean: Tensor, stddev: Tensor, prior: Distribution | None = None) -> Tensor:
    """1/N sum_n KL(q(z_d|x_n) || p(z_d)) ``[D]``, float64, nats, of posteriors that are diagonal Gaussians.

    Args:
        mean, stddev: of each q(z|x) ``[N, D]``.
        prior: a diagonal Gaussian; N(0, I) if not given.

    Raises:
        SettingError: another prior, for which there is no closed form.

    >>> import torch
    >>> rate_per_dimension(torch.tensor([[0.0, 2.0], [0.0, -2.0]]), torch.ones(2, 2))
    tensor([0., 2.], dtype=torch.float64)
    """
    q = Independent(Normal(exact(mean), exact(stddev)), 1)
    p = _standard_normal(mean.shape[-1]) if prior is None else prior
    kl = closed_form_kl(q, p)
    if kl is None:
        raise SettingError(
            "prior", type(p).__name__, "has no KL in closed form; it takes a diagonal Gaussian"
        )
    return kl.mean(0)


def _standard_normal(dim: int) -> Independent:
    return Independent(Normal(torch.zeros(dim, dtype=torch.float64), torch.ones(dim, dtype=torch.float64)), 1)


class RateAccumulator:
    """Takes the terms of batch after batch and gives the rate of each layer, the one next to the image first."""

    def __init__(self) -> None:
        self._layers: list[_LayerParts] = []

    def update(self, terms: Terms) -> None:
        """Add K samples of B images."""
        if not self._layers:
            self._layers = [_LayerParts() for _ in terms.layers]
        for parts, layer in zip(self._layers, terms.layers, strict=True):
            parts.update(layer)

    def compute(self) -> tuple[LayerRate, ...]:
        """The rate of all images given so far.

        Raises:
            ValueError: there were none.
        """
        if not self._layers:
            raise ValueError("no terms were given")
        return tuple(parts.compute() for parts in self._layers)


class _LayerParts:
    def __init__(self) -> None:
        self.rates: list[Tensor] = []
        self.variances: list[Tensor] = []
        self.dimensions: list[Tensor] = []
        self.closed_form = False

    def update(self, layer: Layer) -> None:
        kl = layer.kl
        self.closed_form = kl is not None
        if kl is None:
            samples = exact(layer.log_q) - exact(layer.log_p)  # [K, B]
        else:
            kl = exact(kl)
            kl = kl if kl.dim() == 3 else kl.unsqueeze(0)  # [K, B, D], or [1, B, D] where nothing was sampled
            samples = kl.sum(-1)
            if kl.shape[-1] == layer.z.shape[-1]:
                self.dimensions.append(kl.mean(0))
        self.rates.append(samples.mean(0))
        if len(samples) > 1:
            self.variances.append(samples.var(0, correction=1) / len(samples))

    def compute(self) -> LayerRate:
        return LayerRate(
            total=estimate(torch.cat(self.rates), torch.cat(self.variances) if self.variances else None),
            per_dimension=torch.cat(self.dimensions).mean(0) if self.dimensions else None,
            closed_form=self.closed_form,
        )
