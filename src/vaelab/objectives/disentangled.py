"""Objectives that look at the aggregate posterior q(z), the mean of q(z|x) over the training images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vaelab.errors import SettingError, choice, number
from vaelab.models.terms import Terms
from vaelab.models.traits import USUAL, Traits
from vaelab.objectives.objective import Objective, ObjectiveValue, Weights, closed_form, needs

MOMENTS = "needs a posterior whose dimensions are independent given x, in one layer; use posterior=normal and model=vae"


class BetaTC(Objective):
    """E_q log p(x|z) - alpha I(x; z) - beta TC(z) - gamma sum_j KL(q(z_j) || p(z_j)): the KL taken apart (Chen et al. 2018). alpha = beta = gamma = 1 is the ELBO.

    The densities of q(z) are estimated from the minibatch: ``stratified`` sampling is unbiased for q(z), ``weighted`` sampling is a lower bound on average.

    Args:
        beta: weight of the total correlation.
        mutual_information: alpha.
        dimension_wise: gamma.
        sampling: ``stratified`` or ``weighted``.
        schedule: step -> a factor of beta.
        traits: what is known of the model.
    """

    SAMPLING = ("stratified", "weighted")

    def __init__(
        self,
        beta: float = 6.0,
        mutual_information: float = 1.0,
        dimension_wise: float = 1.0,
        sampling: str = "stratified",
        schedule: Callable[[int], float] | None = None,
        traits: Traits = USUAL,
    ) -> None:
        super().__init__(beta, 1, schedule, traits)
        self.mutual_information = _weight("objective.mutual_information", mutual_information)
        self.dimension_wise = _weight("objective.dimension_wise", dimension_wise)
        self.sampling = choice("objective.sampling", sampling, self.SAMPLING)
        needs("beta_tc", traits.moments, MOMENTS)
        needs(
            "beta_tc", traits.standard_prior, "needs prior=standard_normal, whose dimensions are independent"
        )

    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        (layer,) = terms.layers
        mean, stddev = _moments(terms)
        z = layer.z[0]
        log_q = _log_normal(z.unsqueeze(1), mean, stddev)  # [i, j, D]: log q(z_i|x_j) in each dimension
        log_weights = self._log_weights(len(z), num_images).to(z)
        log_qz = torch.logsumexp(log_q.sum(-1) + log_weights, 1)
        log_qz_product = torch.logsumexp(log_q + log_weights.unsqueeze(-1), 1).sum(-1)
        own, log_pz = layer.log_q[0], layer.log_p[0]
        value = (
            terms.log_px[0]
            - self.mutual_information * (own - log_qz)
            - weights.kl * (log_qz - log_qz_product)
            - self.dimension_wise * (log_qz_product - log_pz)
        )
        return ObjectiveValue(value=value, surrogate=value)

    def _log_weights(self, batch_size: int, num_images: int) -> Tensor:
        return (stratified_weights if self.sampling == "stratified" else minibatch_weights)(
            batch_size, num_images
        ).log()


def minibatch_weights(batch_size: int, num_images: int) -> Tensor:
    """Weights ``[i, j]`` of q(z_i|x_j) in the estimate of q(z_i) by minibatch-weighted sampling: 1 / (N B)."""
    return torch.full((batch_size, batch_size), 1 / (num_images * batch_size), dtype=torch.float64)


def stratified_weights(batch_size: int, num_images: int) -> Tensor:
    """Weights ``[i, j]`` of q(z_i|x_j) in the estimate of q(z_i) by minibatch-stratified sampling (Chen et al. 2018, appendix C.2).

    1/N for the image that z comes from, 1/M for the M = B - 1 others, but (N - M)/(N M) for one of them: their expectation over minibatches is 1/N each.
    """
    others = batch_size - 1
    if others == 0:
        return torch.full((1, 1), 1 / num_images, dtype=torch.float64)
    weights = torch.full((batch_size, batch_size), 1 / others, dtype=torch.float64)
    weights.fill_diagonal_(1 / num_images)
    rows = torch.arange(batch_size)
    weights[rows, (rows + 1) % batch_size] = (num_images - others) / (num_images * others)
    return weights


class DIP(Objective):
    """The ELBO plus a penalty that pulls the covariance of the aggregate posterior to the identity (Kumar et al. 2018).

    Penalty: ``off_diagonal`` sum_{i != j} C_ij^2 + ``diagonal`` sum_i (C_ii - 1)^2, C the covariance over the minibatch of the means of q (``kind=i``), or of z itself
    (``kind=ii``).

    Args:
        kind: ``i`` or ``ii``.
        off_diagonal, diagonal: weights of the penalty.
        beta, kl, schedule, traits: see :class:`vaelab.objectives.ELBO`.
    """

    KINDS = ("i", "ii")

    def __init__(
        self,
        kind: str = "ii",
        off_diagonal: float = 10.0,
        diagonal: float = 10.0,
        beta: float = 1.0,
        kl: str = "auto",
        schedule: Callable[[int], float] | None = None,
        traits: Traits = USUAL,
    ) -> None:
        super().__init__(beta, 1, schedule, traits)
        self.kind = choice("objective.kind", kind, self.KINDS)
        self.off_diagonal = _weight("objective.off_diagonal", off_diagonal)
        self.diagonal = _weight("objective.diagonal", diagonal)
        self.closed_form = closed_form(kl, traits)
        needs("dip", traits.moments, MOMENTS)

    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        mean, stddev = _moments(terms)
        elbo = terms.log_px[0] - weights.kl * terms.rate(self.closed_form)
        if len(mean) < 2:  # a last batch of one image has no covariance
            return ObjectiveValue(value=elbo, surrogate=elbo)
        centred = mean - mean.mean(0)  # over images, not over latent dimensions
        covariance = centred.T @ centred / len(mean)
        if self.kind == "ii":
            covariance = covariance + stddev.square().mean(0).diag()
        diagonal = covariance.diagonal()
        off_diagonal = covariance.square().sum() - diagonal.square().sum()
        penalty = self.off_diagonal * off_diagonal + self.diagonal * (diagonal - 1).square().sum()
        return ObjectiveValue(value=elbo, surrogate=elbo, penalty=penalty)


class MMD(Objective):
    """E_q log p(x|z) - (1 - alpha) KL(q(z|x) || p(z)) - (alpha + lambda - 1) MMD^2(q(z), p(z)): the InfoVAE (Zhao et al. 2019).

    alpha = 0, lambda = 1 is the ELBO. MMD^2 has a Gaussian kernel; q(z) is the minibatch (a U-statistic, which may be negative), the expectations over
    p(z) = N(0, I) are taken exactly.

    Args:
        alpha: at most 1.
        scale: lambda.
        bandwidth: s^2 of the kernel exp(-|z - z'|^2 / (2 s^2)); ``auto`` = D.
        kl, schedule, traits: see :class:`vaelab.objectives.ELBO`.
    """

    def __init__(
        self,
        alpha: float = 0.0,
        scale: float = 1000.0,
        bandwidth: float | str = "auto",
        kl: str = "auto",
        schedule: Callable[[int], float] | None = None,
        traits: Traits = USUAL,
    ) -> None:
        self.alpha = number("objective.alpha", alpha, "must be a number of at most 1", lambda a: a <= 1)
        super().__init__(1 - alpha, 1, schedule, traits)
        self.scale = _weight("objective.scale", scale)
        if self.alpha + self.scale < 1:
            raise SettingError(
                "objective.scale", scale, f"must be at least 1 - objective.alpha = {1 - alpha:g}"
            )
        self.bandwidth = bandwidth
        if bandwidth != "auto":
            number(
                "objective.bandwidth",
                bandwidth,
                "must be auto (the latent dimension) or a number > 0",
                lambda s: s > 0,
            )
        self.closed_form = closed_form(kl, traits)
        needs(
            "mmd", traits.layers == 1, "compares one layer of latent variables with the prior; use model=vae"
        )
        needs(
            "mmd", traits.standard_prior, "needs prior=standard_normal, for which the expectations are exact"
        )

    def bound(self, terms: Terms, weights: Weights, num_images: int) -> ObjectiveValue:
        z = terms.layers[0].z[0]
        spread = z.shape[1] if self.bandwidth == "auto" else float(self.bandwidth)
        value = terms.log_px[0] - weights.kl * terms.rate(self.closed_form)
        if len(z) < 2:  # a last batch of one image says nothing of a distance between distributions
            return ObjectiveValue(value=value, surrogate=value)
        penalty = (self.alpha + self.scale - 1) * mmd_to_standard_normal(z, spread)
        return ObjectiveValue(value=value, surrogate=value, penalty=penalty)


def mmd_to_standard_normal(z: Tensor, spread: float) -> Tensor:
    """MMD^2 of the distribution that ``z [B, D]`` was drawn from to N(0, I), kernel exp(-|z - z'|^2 / (2 spread)), an unbiased estimate, for B >= 2.

    E k(z, z') over N(0, I) is (s / (s + 1))^(D/2) exp(-|z|^2 / (2 (s + 1))) for one of them, (s / (s + 2))^(D/2) for both.
    """
    count, dim = z.shape
    square = z.square().sum(1)
    distances = (square.unsqueeze(1) + square - 2 * z @ z.T).clamp(min=0)
    kernel = torch.exp(-distances / (2 * spread))
    within = (kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))
    across = (spread / (spread + 1)) ** (dim / 2) * torch.exp(-square / (2 * (spread + 1))).mean()
    return within - 2 * across + (spread / (spread + 2)) ** (dim / 2)


def _moments(terms: Terms) -> tuple[Tensor, Tensor]:
    (layer,) = terms.layers
    mean, stddev = layer.mean, layer.stddev
    assert mean is not None
    assert stddev is not None
    return mean, stddev


def _log_normal(z: Tensor, mean: Tensor, stddev: Tensor) -> Tensor:
    return -0.5 * ((z - mean) / stddev).square() - stddev.log() - 0.5 * math.log(2 * math.pi)


def _weight(setting: str, value: float) -> float:
    return number(setting, value, "must be a number >= 0", lambda weight: weight >= 0)
