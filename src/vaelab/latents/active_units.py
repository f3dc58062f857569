"""Active units: latent dimensions that say something about the image."""

from __future__ import annotations

import torch
from torch import Tensor

from vaelab.evidence.estimates import exact
from vaelab.models.terms import Terms


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


class ActivityAccumulator:
    """Takes the terms of batch after batch and gives the activity of each layer, the one next to the image first."""

    def __init__(self) -> None:
        self._means: list[list[Tensor] | None] = []

    def update(self, terms: Terms) -> None:
        """Add B images."""
        if not self._means:
            self._means = [None if layer.mean is None else [] for layer in terms.layers]
        for means, layer in zip(self._means, terms.layers, strict=True):
            if means is not None and layer.mean is not None:
                means.append(exact(layer.mean))

    def compute(self) -> tuple[Tensor | None, ...]:
        """A_u of each layer ``[D]``, float64; None where E_q(z|x)[z] is not known in closed form: of a flow, or of a layer that is inferred from samples of another one."""
        return tuple(None if means is None else _variance(torch.cat(means)) for means in self._means)


def _variance(means: Tensor) -> Tensor:
    return means.var(0, correction=1) if len(means) > 1 else torch.zeros_like(means[0])
