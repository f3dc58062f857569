"""What the networks share: nonlinearities by name, checks of widths, sizes of images, the optional context."""

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


GATED = "gated"


def elementwise(name: str, setting: str) -> nn.Module:
    """The nonlinearity called ``name``, one of those that act on each number alone."""
    kind = ACTIVATIONS[choice(setting, name, ACTIVATIONS)]
    return nn.ReLU(inplace=True) if kind is nn.ReLU else kind()  # ReLU's gradient needs its output only


def activation_layer(name: str, setting: str, dim: int = -1) -> nn.Module:
    """The nonlinearity called ``name``; ``gated`` is h * sigmoid(g), h and g the halves of its input along ``dim``.

    The layer before it has ``units(name)`` outputs for each that is to come out. Gated linear units: Dauphin et al. 2017, in a VAE Tomczak & Welling 2018.
    """
    return (
        nn.GLU(dim) if choice(setting, name, (*ACTIVATIONS, GATED)) == GATED else elementwise(name, setting)
    )


def units(activation: str) -> int:
    """How many numbers the nonlinearity takes for one that it gives: h and g where it is gated."""
    return 2 if activation == GATED else 1


def positive(setting: str, widths: Sequence[int]) -> tuple[int, ...]:
    """``widths`` as a tuple, refused unless they are one or more positive integers."""
    values = tuple(widths) if isinstance(widths, Sequence) and not isinstance(widths, str) else ()
    if not values or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in values):
        raise SettingError(
            setting, widths, "must be a list of one or more positive integers, e.g. [512, 256]"
        )
    return values


def widened(parameters: Tensor) -> Tensor:
    """A network's outputs in float32 at least: under mixed precision they have 16 bits, too few for a logarithm, a density or a sum over pixels."""
    return parameters.to(torch.promote_types(parameters.dtype, torch.float32))


def halvings(shape: Sequence[int], times: int) -> list[tuple[int, int]]:
    """``(H, W)`` and its halves, rounded up, ``times`` times.

    >>> halvings((1, 28, 17), 2)
    [(28, 17), (14, 9), (7, 5)]
    """
    sizes = [(shape[-2], shape[-1])]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


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
