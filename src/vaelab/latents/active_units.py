"""Active units: latent dimensions that say something about the image."""

from __future__ import annotations

from torch import Tensor


def activity(sums: Tensor, sums_of_squares: Tensor, num_images: float) -> Tensor:
    """A_u = Var_x(E_q(z|x)[z_u]) of each latent dimension ``[D]`` (Burda et al. 2016, section 5.2).

    Args:
        sums: of E_q(z|x)[z] over the images ``[D]``, float64.
        sums_of_squares: of its squares ``[D]``, float64.
        num_images: N.
    """
    return (sums_of_squares - sums.square() / num_images) / max(num_images - 1, 1)


def active_units(activities: Tensor, threshold: float = 0.01) -> Tensor:
    """Which dimensions count as active: ``A_u > threshold``, bool ``[D]``; 0.01 in Burda et al.

    >>> import torch
    >>> active_units(torch.tensor([0.5, 0.001]))
    tensor([ True, False])
    """
    return activities > threshold
