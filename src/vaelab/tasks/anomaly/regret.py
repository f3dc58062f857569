"""Likelihood regret: what an image gains where q(z|x) is its own (Xiao et al. 2020, "Likelihood regret: an out-of-distribution detection score for VAEs")."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vaelab.batch import Batch
from vaelab.evidence import Draws, exact

#: samples that a step's gradient is averaged over, and samples of each of the two bounds; half of them are the others' mirror images: what is odd in the noise cancels
FITTED, EVALUATED = 4, 16
#: repetitions of the noise, of which evaluations take the first ones
_STEPS, _BOUNDS = 2, 3


def refusal(model: Any) -> str | None:
    """Why the regret of a model cannot be had; None where it can."""
    traits = model.traits()
    if traits.layers == 1 and traits.moments:
        return None
    return "it fits the mean and the standard deviations of q(z|x), which here is no diagonal Gaussian of one layer"


def regret(model: Any, batch: Batch, draws: Draws, steps: int = 100, learning_rate: float = 0.03) -> Tensor:
    """ELBO(x; q*) - ELBO(x; q(z|x)) of B images ``[B]``, float64, nats. q* is the diagonal Gaussian that so many steps of Adam lead to from q(z|x), image by image.

    It is not negative but for the noise of the two bounds, and zero for an encoder that nothing can be gained on.

    Args:
        model: of one layer with a diagonal Gaussian as q(z|x); see :func:`refusal`.
        batch: B images.
        draws: their noise: :data:`FITTED` samples a step, :data:`EVALUATED` for both bounds, the same.
        steps: of Adam; the learning rate falls to zero along a line.
        learning_rate: at first.
    """
    with torch.no_grad():
        code = model.encode(batch)
        start_mean, start_log_stddev = code.mean, code.stddev.log()
    dim = start_mean.shape[-1]
    noise = draws.normal("posterior", (steps, FITTED // 2, dim), _STEPS).permute(1, 2, 0, 3)
    evaluated = _mirrored(draws.normal("posterior", (EVALUATED // 2, dim), _BOUNDS).transpose(0, 1))

    def elbo(mean: Tensor, log_stddev: Tensor, eps: Tensor) -> Tensor:
        """E_q log p(x, z) + the entropy of q ``[B]``."""
        log_joint = model.log_joint(batch, mean + log_stddev.exp() * eps.to(mean))
        entropy = (log_stddev + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
        return log_joint.mean(0) + entropy

    with torch.enable_grad():
        mean = start_mean.clone().requires_grad_()
        log_stddev = start_log_stddev.clone().requires_grad_()
        adam = torch.optim.Adam([mean, log_stddev], lr=learning_rate)
        for step in range(steps):
            eps = _mirrored(noise[step])
            # an image's gradient is its own: the sum over images mixes nothing, and Adam works number by number
            mean.grad, log_stddev.grad = torch.autograd.grad(
                -elbo(mean, log_stddev, eps).sum(), [mean, log_stddev]
            )
            for group in adam.param_groups:
                group["lr"] = learning_rate * (1 - step / steps)
            adam.step()
    with torch.no_grad():
        fitted = elbo(mean, log_stddev, evaluated)
        return exact(fitted) - exact(elbo(start_mean, start_log_stddev, evaluated))


def _mirrored(eps: Tensor) -> Tensor:
    """Noise ``[K, ...]`` and its mirror image ``[2 K, ...]``."""
    return torch.cat([eps, -eps])
