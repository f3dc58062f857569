"""What the networks share: nonlinearities by name, checks of widths, the optional context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaelab.errors import SettingError, choice

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def activation_layer(name: str, setting: str) -> nn.Module:
    """The nonlinearity called ``name``."""
    kind = ACTIVATIONS[choice(setting, name, ACTIVATIONS)]
    return nn.ReLU(inplace=True) if kind is nn.ReLU else kind()  # ReLU's gradient needs its output only


def positive(setting: str, widths: Sequence[int]) -> tuple[int, ...]:
    """``widths`` as a tuple, refused unless they are one or more positive integers."""
    values = tuple(widths) if isinstance(widths, Sequence) and not isinstance(widths, str) else ()
    if not values or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in values):
        raise SettingError(
            setting, widths, "must be a list of one or more positive integers, e.g. [512, 256]"
        )
    return values


def with_context(x: Tensor, context: Tensor | None, context_dim: int) -> Tensor:
    """``x [..., F]`` with ``context [..., context_dim]`` behind it.

    Raises:
        ValueError: a network built without a context is given one, or the reverse.
    """
    if (context is None) != (context_dim == 0):
        raise ValueError(
            f"the network was built for context_dim={context_dim}, context is {_describe(context)}"
        )
    if context is None:
        return x
    return torch.cat([x, context.expand(*x.shape[:-1], context_dim)], dim=-1)


def _describe(context: Tensor | None) -> str:
    return "missing" if context is None else f"of shape {list(context.shape)}"
