"""The parameters of a prior: numbers that are learned, or an affine function of a context."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaelab.errors import integer


class ContextParameters(nn.Module):
    """theta = b, or theta(c) = A c + b with a context c; A starts at 0, so that theta does not depend on c at first.

    Args:
        initial: first value of b, any shape.
        context_dim: length of the context; 0 for none.
    """

    def __init__(self, initial: Tensor, context_dim: int = 0) -> None:
        super().__init__()
        self.context_dim = integer("prior.context_dim", context_dim, 0)
        self.bias = nn.Parameter(initial)
        self.weight = nn.Parameter(torch.zeros(initial.numel(), context_dim)) if context_dim else None

    def forward(self, context: Tensor | None) -> Tensor:
        """theta, of the shape of ``initial`` behind that of the context ``[..., context_dim]`` without its last dimension."""
        context = used_context(context, self.context_dim)
        if context is None or self.weight is None:
            return self.bias
        return F.linear(context, self.weight, self.bias.flatten()).unflatten(-1, self.bias.shape)


def used_context(context: Tensor | None, context_dim: int) -> Tensor | None:
    """``context`` for a prior that depends on one, None for one that does not (``context_dim=0``), whatever the decoder depends on.

    Raises:
        ValueError: the prior depends on a context and is given none, or one of another length.
    """
    if context_dim == 0:
        return None
    if context is None or context.shape[-1] != context_dim:
        given = "missing" if context is None else f"of shape {list(context.shape)}"
        raise ValueError(f"the prior was built for context_dim={context_dim}, context is {given}")
    return context
