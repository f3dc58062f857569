"""What the rate is made of: information about the image, and what the aggregate posterior q(z) differs from the prior by.

E_x KL(q(z|x) || p(z)) = I_q(x; z) + KL(q(z) || p(z)) (Hoffman & Johnson 2016), and for a prior whose dimensions are independent
KL(q(z) || p(z)) = TC(z) + sum_d KL(q(z_d) || p(z_d)) (Chen et al. 2018, equation 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vaelab.evidence.estimates import exact
from vaelab.evidence.progress import Progress
from vaelab.latents.aggregate_posterior import AT_ONCE, log_aggregate, log_aggregate_marginals, log_normal
from vaelab.latents.average import Average, average

#: nats below log N from which on the mutual information is held to be bounded by the number of images
NEAR = 1.0

TERMS = ("rate", "mutual_information", "aggregate_kl", "total_correlation", "dimension_wise_kl")


@dataclass(frozen=True)
class Information:
    """Averages over M samples z of q(z) = 1/N sum_n q(z|x_n), in nats. They are of one set of samples: the sums hold sample by sample.

    ``se`` is the error of the samples given these N images; taken as if they were independent, it is too large where each image gave one of them.

    Attributes:
        rate: E_q log q(z|x) - log p(z) = mutual_information + aggregate_kl. The closed form, where there is one, is more precise.
        mutual_information: I_q(x; z) = E_q log q(z|x) - log q(z); from 0 to log N. Not more than what the same encoder has for more images (van den Oord et al. 2018, Poole et al. 2019).
        aggregate_kl: KL(q(z) || p(z)) = total_correlation + dimension_wise_kl.
        total_correlation: KL(q(z) || prod_d q(z_d)); not the correlation of the posterior given x, which is zero here.
        dimension_wise_kl: sum_d KL(q(z_d) || p(z_d)).
        dimension_wise_kls: each dimension's ``[D]``, float64.
        num_images: N.
        warning: the sentence that goes with the mutual information where log N bounds it, or None.
        missing: name of each term that is None -> why.
    """

    rate: Average | None
    mutual_information: Average | None
    aggregate_kl: Average | None
    total_correlation: Average | None
    dimension_wise_kl: Average | None
    dimension_wise_kls: Tensor | None
    num_images: int
    warning: str | None
    missing: Mapping[str, str]


def information(
    mean: Tensor,
    stddev: Tensor,
    z: Tensor,
    source: Tensor,
    log_p: Tensor | None = None,
    at_once: int = AT_ONCE,
    progress: Progress | None = None,
    no_log_p: str = "log p(z) was not given",
) -> Information:
    """All terms for posteriors that are diagonal Gaussians.

    Args:
        mean, stddev: of each q(z|x) ``[N, D]``; stddev > 0.
        z: samples ``[M, D]``, each of the q(z|x) of one image; of all images equally often, or of images chosen without looking at them.
        source: that image ``[M]``, int64.
        log_p: log p(z) of the samples ``[M, D]`` for a prior whose dimensions are independent, ``[M, 1]`` for another one.
        at_once: block size; see :func:`vaelab.latents.log_aggregate`.
        progress: is told how far it is.
        no_log_p: why there is no ``log_p``, for :attr:`Information.missing`.

    Raises:
        SettingError, ValueError: see :func:`vaelab.latents.log_aggregate`; ``source`` or ``log_p`` does not go with ``z``.

    >>> import torch
    >>> far_apart = torch.tensor([[-50.0], [50.0]])
    >>> found = information(far_apart, torch.ones(2, 1), far_apart, torch.arange(2))
    >>> round(found.mutual_information.value, 4)  # log 2: z tells which of the two
    0.6931
    """
    if source.shape != z.shape[:1] or ((source < 0) | (source >= len(mean))).any():
        raise ValueError(f"source must say for each of {len(z)} z which of {len(mean)} images it is of")
    log_q = log_aggregate(mean, stddev, z, at_once, progress)
    own = log_normal(mean[source], stddev[source], z).sum(-1)
    log_q_dims = log_aggregate_marginals(mean, stddev, z, at_once, progress)
    return decompose(own, log_q, len(mean), log_p, log_q_dims, no_log_p=no_log_p)


def decompose(
    log_q_own: Tensor,
    log_q: Tensor,
    num_images: int,
    log_p: Tensor | None = None,
    log_q_dims: Tensor | None = None,
    no_log_p: str = "log p(z) was not given",
    no_log_q_dims: str = "needs a posterior whose dimensions are independent given x",
) -> Information:
    """The terms from densities at M samples of q(z), whatever the posterior.

    Args:
        log_q_own: log q(z|x) of the image that each sample comes from ``[M]``.
        log_q: log q(z) ``[M]``.
        num_images: N.
        log_p: log p(z) ``[M, D]``, or ``[M, 1]`` for a prior whose dimensions are not independent.
        log_q_dims: log q(z_d) ``[M, D]``.
        no_log_p, no_log_q_dims: why they are not given.

    Raises:
        ValueError: shapes that do not go together.
    """
    if log_q.shape != log_q_own.shape or any(
        d is not None and len(d) != len(log_q) for d in (log_p, log_q_dims)
    ):
        raise ValueError("all densities must be of the same M samples")
    own, log_q = exact(log_q_own), exact(log_q)
    terms: dict[str, Tensor] = {"mutual_information": own - log_q}
    missing: dict[str, str] = {}
    each = None
    if log_p is None:
        missing |= dict.fromkeys(("rate", "aggregate_kl", "dimension_wise_kl"), no_log_p)
    else:
        log_p = exact(log_p)
        terms["rate"] = own - log_p.sum(-1)
        terms["aggregate_kl"] = log_q - log_p.sum(-1)
    if log_q_dims is None:
        missing |= dict.fromkeys(("total_correlation", "dimension_wise_kl"), no_log_q_dims)
    else:
        log_q_dims = exact(log_q_dims)
        terms["total_correlation"] = log_q - log_q_dims.sum(-1)
        if log_p is not None and log_p.shape == log_q_dims.shape:
            each = log_q_dims - log_p
            terms["dimension_wise_kl"] = each.sum(-1)
        elif log_p is not None:
            missing["dimension_wise_kl"] = "needs a prior whose dimensions are independent"
    found = {name: average(terms[name]) if name in terms else None for name in TERMS}
    return Information(
        **found,
        dimension_wise_kls=None if each is None else each.mean(0),
        num_images=num_images,
        warning=bounded_warning(terms["mutual_information"].mean().item(), num_images),
        missing=missing,
    )


def nothing_known(num_images: int, reason: str) -> Information:
    """All terms missing, for one reason."""
    return Information(None, None, None, None, None, None, num_images, None, dict.fromkeys(TERMS, reason))


def bounded_warning(mutual_information: float, num_images: int) -> str | None:
    """The sentence for a mutual information that says more of the number of images than of the code; None for one at least a nat below log N.

    >>> bounded_warning(9.1, 10_000)
    'I(x; z) = 9.10 nats is within 1 nat of log N = 9.21, the most that N images can show: it is a lower bound, KL(q(z) || p(z)) and its dimension-wise part are upper bounds, and the total correlation may be off to either side'
    """
    bound = math.log(num_images)
    if mutual_information < bound - NEAR:
        return None
    return (
        f"I(x; z) = {mutual_information:.2f} nats is within {NEAR:g} nat of log N = {bound:.2f}, "
        "the most that N images can show: it is a lower bound, KL(q(z) || p(z)) and its dimension-wise part are upper bounds, "
        "and the total correlation may be off to either side"
    )
