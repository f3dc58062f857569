"""Active units: latent dimensions that say something about the image."""

from __future__ import annotations

from torch import Tensor


def activity(means: Tensor) -> Tensor:
    """A_u = Var_x(E_q(z|x)[z_u]) of each latent dimension ``[D]`` (Burda et al. 2016, section 5.2).

    Args:
        means: E_q(z|x)[z] ``[N, D]`` of N images.
    """
    return means.double().var(0, correction=1)


def active_units(activities: Tensor, threshold: float = 0.01) -> Tensor:
    """Which dimensions count as active: ``A_u > threshold``, bool ``[D]``; 0.01 in Burda et al.

    >>> import torch
    >>> active_units(torch.tensor([0.5, 0.001]))
    tensor([ True, False])
    """
    return activities > threshold
