"""A model without some of its latent dimensions: what the inactive ones are worth (Burda et al. 2016, section 5.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from vaelab.batch import Batch
from vaelab.errors import SettingError
from vaelab.evidence.estimates import Estimate, estimate
from vaelab.evidence.importance import importance, log_weights
from vaelab.evidence.progress import Progress, told
from vaelab.evidence.streaming import RowLimit
from vaelab.latents.codes import NoiseOf
from vaelab.models import VAE, Inference
from vaelab.models.terms import LayerTerms, Terms
from vaelab.posteriors import LogVarianceNormal
from vaelab.posteriors.normal import NormalSample
from vaelab.priors import StandardNormal


class CutModel(nn.Module):
    """A VAE whose dimensions ``inactive`` are the mean of the prior: neither q nor p samples them, and they are in neither density.

    This is a model with fewer dimensions, whose bounds are bounds. Noise has the length that it has for the whole model, so that both can be given the same.

    Attributes:
        model: the whole one.
        inactive: bool ``[D]``.
        noise_dim: of the whole one.
    """

    model: Any
    inactive: Tensor

    def __init__(self, model: VAE, inactive: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("inactive", inactive.clone(), persistent=False)
        self.noise_dim = model.noise_dim

    def forward(self, batch: Batch, eps: Tensor) -> Terms:
        """The terms of the bound, from noise ``eps [K, B, D]``; z of their one layer has the dimensions that are left."""
        model, left = self.model, ~self.inactive
        context = model.context(batch.y)
        infer = Inference(model.encoder, model.posterior, context)
        q = infer.sample(batch.x, eps).distribution.base_dist
        p = model.prior(infer=infer, context=context).base_dist
        kept_q = LogVarianceNormal(q.loc[..., left], q.log_variance[..., left])
        sample = NormalSample(Independent(kept_q, 1, validate_args=False), eps[..., left])
        z = p.mean.expand_as(eps).index_copy(-1, left.nonzero().squeeze(-1), sample.z)
        p_x = model.likelihood(model.decoder(z) if context is None else model.decoder(z, context=context))
        layer = LayerTerms(sample, Independent(_part(p, left), 1, validate_args=False))
        return Terms(log_px=p_x.log_prob(batch.x), layers=(layer,))


def _part(p: Normal, left: Tensor) -> Normal:
    """The dimensions of a prior that are left, of its own kind: the closed forms of the KL go by that."""
    if isinstance(p, LogVarianceNormal):
        return LogVarianceNormal(p.loc[..., left], p.log_variance[..., left])
    kind = StandardNormal if isinstance(p, StandardNormal) else Normal
    return kind(p.loc[..., left], p.scale[..., left], validate_args=False)


def cut(model: nn.Module, inactive: Tensor) -> CutModel:
    """``model`` without the dimensions ``inactive``: (batch, eps) -> :class:`vaelab.models.Terms`, as :func:`vaelab.evidence.importance` takes it.

    Args:
        model: one layer, q(z|x) a diagonal Gaussian, p(z) one too.
        inactive: bool ``[D]``, True for a dimension to be left out; see :func:`vaelab.latents.active_units`.

    Raises:
        SettingError: another model, posterior or prior.
        ValueError: ``inactive`` is not bool ``[D]``.
    """
    if not isinstance(model, VAE):
        raise SettingError("model", type(model).__name__, "cannot be cut; it takes one layer, as model=vae")
    traits = model.traits()
    if not traits.moments:
        rule = "cannot be cut: its dimensions are not independent given x; it takes posterior=normal"
        raise SettingError("posterior", type(model.posterior).__name__, rule)
    if not traits.kl_per_dimension:
        rule = (
            "cannot be cut: it takes dimensions that are independent, prior=standard_normal or prior=normal"
        )
        raise SettingError("prior", type(model.prior).__name__, rule)
    if inactive.dtype != torch.bool or inactive.shape != (model.noise_dim,):
        raise ValueError(
            f"inactive must be bool [{model.noise_dim}], not {inactive.dtype} {list(inactive.shape)}"
        )
    parameter = next(model.parameters())
    return CutModel(model, inactive.to(parameter.device)).train(model.training)


@dataclass(frozen=True)
class CutChange:
    """What leaving dimensions out does to the importance-weighted estimate, image by image from the same noise; nats per image.

    Attributes:
        nll: of the whole model.
        nll_cut: of what is left.
        change: nll_cut - nll; its ``se_images`` is of the paired differences.
        num_samples: K of both.
        num_cut: dimensions left out.
        ess: the smaller of the two effective sample sizes of each image ``[N]``.
    """

    nll: Estimate
    nll_cut: Estimate
    change: Estimate
    num_samples: int
    num_cut: int
    ess: Tensor = field(compare=False)


def change_by_cutting(
    model: nn.Module,
    inactive: Tensor,
    batches: Iterable[Batch],
    noise: NoiseOf,
    max_rows: int | None = 10_000,
    progress: Progress | None = None,
) -> CutChange:
    """The NLL of ``model`` with and without the dimensions ``inactive``.

    Args:
        model, inactive: see :func:`cut`; in evaluation mode.
        batches: on the model's device.
        noise: gives ``[K, B, D]``.
        max_rows: samples that the decoder sees at once; see :class:`vaelab.evidence.RowLimit`.
        progress: is told the batches.

    Raises:
        SettingError, ValueError: see :func:`cut`; no batches.
    """
    smaller = cut(model, inactive)
    limit = RowLimit(max_rows)
    whole, left, samples = [], [], 0
    for batch in told("nll without the inactive dimensions", batches, progress):
        eps = noise(batch.index).to(batch.x)
        for parts, measured in ((whole, model), (left, smaller)):
            parts.append(importance(log_weights(measured, batch, eps, limit), curve=()))
        samples = len(eps)
    if not whole:
        raise ValueError("there are no batches")
    nll, nll_cut = (-torch.cat([part.log_px for part in parts]) for parts in (whole, left))
    variance, variance_cut = (torch.cat([part.variance for part in parts]) for parts in (whole, left))
    return CutChange(
        nll=estimate(nll, variance),
        nll_cut=estimate(nll_cut, variance_cut),
        change=estimate(nll_cut - nll),
        num_samples=samples,
        num_cut=int(inactive.sum()),
        ess=torch.cat([torch.minimum(a.ess, b.ess) for a, b in zip(whole, left, strict=True)]),
    )
