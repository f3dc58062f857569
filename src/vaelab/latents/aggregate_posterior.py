"""The aggregate posterior q(z) = 1/N sum_n q(z|x_n): where the codes of all images lie together (Hoffman & Johnson 2016, "ELBO surgery").

The sum is over all N images and not over a minibatch. Densities are in float64, N x M of them, in blocks whose size is a setting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaelab.errors import integer
from vaelab.evidence.estimates import exact
from vaelab.evidence.progress import Progress, told

#: float64 numbers of a block: small enough for a processor's cache, where larger blocks would be slower
AT_ONCE = 2**17
#: nats that the fast way to a density may lose to rounding
LOST = 1e-6
LOG_2_PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Moments:
    """Of q(z), float64.

    Attributes:
        mean: ``[D]``.
        covariance: ``[D, D]``.
    """

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class AggregateDensities:
    """At M points, each of which was drawn from q(z|x) of one image.

    Attributes:
        log_q_own: log q(z|x) of that image ``[M]``, float64, nats.
        log_q: log q(z) ``[M]``, float64, nats.
    """

    log_q_own: Tensor
    log_q: Tensor


def aggregate_moments(mean: Tensor, stddev: Tensor) -> Moments:
    """The moments of q(z): E_x(mu), and Cov_x(mu) + diag E_x(sigma^2) by the law of total variance. They are 0 and I where q(z) = N(0, I), and perhaps elsewhere.

    Args:
        mean, stddev: of each q(z|x), a diagonal Gaussian ``[N, D]``.

    >>> import torch
    >>> aggregate_moments(torch.tensor([[-1.0], [1.0]]), torch.tensor([[2.0], [2.0]])).covariance
    tensor([[5.]], dtype=torch.float64)
    """
    mu, sigma = _posteriors(mean, stddev)
    centre = mu.mean(0)
    between = (mu - centre).mT @ (mu - centre) / len(mu)
    return Moments(centre, between + sigma.square().mean(0).diag())


def log_normal(mean: Tensor, stddev: Tensor, z: Tensor) -> Tensor:
    """log N(z; mu, sigma^2) of each number, float64; shapes that broadcast."""
    mu, sigma = exact(mean), exact(stddev)
    return -0.5 * (((exact(z) - mu) / sigma).square() + LOG_2_PI) - sigma.log()


def log_aggregate(
    mean: Tensor, stddev: Tensor, z: Tensor, at_once: int = AT_ONCE, progress: Progress | None = None
) -> Tensor:
    """log q(z) = log 1/N sum_n N(z; mu_n, diag sigma_n^2) of ``z [M, D]``: ``[M]``, float64, nats.

    sum_d (z_d - mu_d)^2 / sigma_d^2 = sum_d (z_d^2 - 2 z_d mu_d + mu_d^2) / sigma_d^2 is a product of matrices. It is also a difference of large numbers where some
    sigma is small: where that could cost more than 1e-6 nats, z - mu is taken dimension by dimension, several times slower. Neither way makes anything as large as ``[M, N, D]``.

    Args:
        mean, stddev: of each q(z|x), a diagonal Gaussian ``[N, D]``; stddev > 0.
        z: where.
        at_once: N x M are looked at in blocks of so many.
        progress: is told the blocks.

    Raises:
        SettingError: ``at_once`` is no positive integer.
        ValueError: shapes that do not go together, or a stddev that is not positive.

    >>> import torch
    >>> two = torch.tensor([[-1.0], [1.0]])
    >>> log_aggregate(two, torch.ones(2, 1), torch.zeros(1, 1)).exp().round(decimals=4)  # N(0; 1, 1)
    tensor([0.2420], dtype=torch.float64)
    """
    return _log_mixture(*_checked(mean, stddev, z, at_once), at_once, "log q(z)", progress)


def log_aggregate_marginals(
    mean: Tensor, stddev: Tensor, z: Tensor, at_once: int = AT_ONCE, progress: Progress | None = None
) -> Tensor:
    """log q(z_d) = log 1/N sum_n N(z_d; mu_nd, sigma_nd^2) of each dimension by itself: ``[M, D]``; otherwise as :func:`log_aggregate`.

    Takes N x M x D exponentials, and the time for them.
    """
    mu, sigma, x = _checked(mean, stddev, z, at_once)
    columns = list(zip(mu.split(1, 1), sigma.split(1, 1), x.split(1, 1), strict=True))
    parts = [_log_mixture(*column, at_once, "", None) for column in told("log q(z_d)", columns, progress)]
    return torch.stack(parts, -1) if parts else x


@torch.no_grad()
def log_aggregate_of(
    posteriors: Iterable[Distribution],
    z: Tensor,
    source: Tensor,
    at_once: int = AT_ONCE,
    progress: Progress | None = None,
) -> AggregateDensities:
    """log q(z|x) and log q(z) of posteriors of any kind whose density at a given z is known. The densities have their precision; their sum over images is float64.

    Args:
        posteriors: q(z|x) of all images, in parts of batch shape ``[B]``, event shape ``[D]``; each is asked for once.
        z: where ``[M, D]``.
        source: which image each was drawn from ``[M]``, int64: its place among all.
        at_once: B x M x D are looked at in blocks of about so many.
        progress: is told the parts.

    Raises:
        SettingError: ``at_once`` is no positive integer.
        ValueError: a source that is no image.
    """
    integer("at_once", at_once, 1)
    log_sum = torch.full((len(z),), -torch.inf, dtype=torch.float64)
    own = torch.full((len(z),), torch.nan, dtype=torch.float64)
    seen = 0
    for q in told("log q(z)", posteriors, progress):
        (count,) = q.batch_shape
        rows = max(1, at_once // (count * z.shape[-1]))
        for first in range(0, len(z), rows):
            m = slice(first, first + rows)
            points = z[m].unsqueeze(1).expand(-1, count, -1)
            log_q = exact(q.log_prob(points))
            log_sum[m] = torch.logaddexp(log_sum[m], log_q.logsumexp(1))
            place = source[m] - seen
            here = ((place >= 0) & (place < count)).nonzero().squeeze(-1)
            own[first + here] = log_q[here, place[here]]
        seen += count
    if len(source) != len(z) or ((source < 0) | (source >= seen)).any():
        raise ValueError(f"source must say for each of {len(z)} z which of {seen} images it was drawn from")
    return AggregateDensities(log_q_own=own, log_q=log_sum - math.log(seen))


def _log_mixture(
    mu: Tensor, sigma: Tensor, x: Tensor, at_once: int, what: str, progress: Progress | None
) -> Tensor:
    # Densities depend on differences only, and near the origin the numbers that cancel are smaller.
    centre = mu.mean(0)
    mu, x = mu - centre, x - centre
    furthest = torch.maximum(mu.abs().amax(0), x.abs().amax(0))
    lost = (furthest / sigma).square().sum(-1).amax().item() * torch.finfo(torch.float64).eps
    block = (_products if lost <= LOST else _differences)(mu, sigma, x)
    images = min(len(mu), 2 * math.isqrt(at_once))
    rows = max(1, at_once // images)
    blocks = [
        (slice(m, m + rows), slice(n, n + images))
        for m in range(0, len(x), rows)
        for n in range(0, len(mu), images)
    ]
    log_sum = x.new_full((len(x),), -torch.inf)
    for m, n in told(what, blocks, progress):
        log_q = block(m, n)
        # torch.logsumexp, but in place: an array more costs more than the exponentials
        largest = log_q.amax(1, keepdim=True)
        part = log_q.sub_(largest).exp_().sum(1).log_().add_(largest.squeeze(1))
        log_sum[m] = torch.logaddexp(log_sum[m], part)
    return log_sum - math.log(len(mu))


#: (some z, some images) -> log N(z; mu, diag sigma^2) of each pair
Block = Callable[[slice, slice], Tensor]


def _products(mu: Tensor, sigma: Tensor, x: Tensor) -> Block:
    precision = sigma.square().reciprocal()
    constant = (mu.square() * precision + 2 * sigma.log() + LOG_2_PI).sum(1, keepdim=True)
    points = torch.cat([x.square(), x, torch.ones_like(x[:, :1])], 1)
    forms = torch.cat([-0.5 * precision, mu * precision, -0.5 * constant], 1)
    return lambda m, n: points[m] @ forms[n].mT


def _differences(mu: Tensor, sigma: Tensor, x: Tensor) -> Block:
    """The same, without large numbers that cancel."""
    constant = sigma.log().sum(1) + 0.5 * LOG_2_PI * mu.shape[1]
    centres, widths, points = (t.mT.contiguous() for t in (mu, sigma, x))

    def block(m: slice, n: slice) -> Tensor:
        log_q = (-constant[n]).repeat(len(x[m]), 1)
        for z_d, mu_d, sigma_d in zip(points[:, m], centres[:, n], widths[:, n], strict=True):
            distance = (z_d.unsqueeze(1) - mu_d).div_(sigma_d)
            log_q.addcmul_(distance, distance, value=-0.5)
        return log_q

    return block


def _posteriors(mean: Tensor, stddev: Tensor) -> tuple[Tensor, Tensor]:
    if mean.dim() != 2 or mean.shape != stddev.shape or len(mean) == 0:
        raise ValueError(
            f"mean {list(mean.shape)} and stddev {list(stddev.shape)} must both be [N, D], N >= 1"
        )
    mu, sigma = exact(mean), exact(stddev)
    if not (sigma > 0).all():
        raise ValueError("stddev must be positive everywhere")
    return mu, sigma


def _checked(mean: Tensor, stddev: Tensor, z: Tensor, at_once: int) -> tuple[Tensor, Tensor, Tensor]:
    integer("at_once", at_once, 1)
    mu, sigma = _posteriors(mean, stddev)
    if z.dim() != 2 or z.shape[1] != mu.shape[1] or len(z) == 0:
        raise ValueError(f"z {list(z.shape)} must be [M, {mu.shape[1]}], M >= 1")
    return mu, sigma, exact(z)
