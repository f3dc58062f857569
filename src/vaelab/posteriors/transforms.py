"""Invertible maps with a triangular Jacobian, for posteriors and priors that are flows. They are zuko's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution, Independent, Normal, Transform

from vaelab.errors import integer
from vaelab.networks.layers import positive, widened


@contextmanager
def _validation_as_it_was() -> Iterator[None]:
    """zuko switches the validation of torch's distributions off for everybody who shares the process."""
    validate = Distribution._validate_args
    yield
    Distribution.set_default_validate_args(validate)


with _validation_as_it_was():
    from zuko.distributions import NormalizingFlow
    from zuko.flows import MAF, NSF
    from zuko.lazy import LazyTransform
    from zuko.nn import MaskedMLP
    from zuko.transforms import ComposedTransform


def autoregressive_transform(
    group: str,
    features: int,
    context: int,
    num_transforms: int,
    hidden: Sequence[int],
    spline: bool = False,
    coupling: bool = False,
) -> LazyTransform:
    """A module: context ``[..., C]`` -> transform y = f(x; context) of vectors ``[..., D]``, made of masked networks (Papamakarios et al. 2017).

    Each of its steps is y_i = g(x_i; x_<i, context), the order of the dimensions turned around from step to step. y and log |det dy/dx| of a given x cost one
    evaluation of each network; x of a given y costs as many as there are dimensions, or two with ``coupling``, where the dimensions come in two halves and the
    second depends on the first only (Dinh et al. 2017).

    Args:
        group: of the configuration, for messages.
        features: D.
        context: C, 0 for none.
        num_transforms: number of steps.
        hidden: widths of each step's network.
        spline: g is a monotonic rational-quadratic spline on [-5, 5] (Durkan et al. 2019) instead of affine.
        coupling: two halves instead of one dimension after the other.

    Raises:
        SettingError: ``num_transforms`` or ``hidden``.
    """
    kind = NSF if spline else MAF
    transform = kind(
        features,
        context,
        transforms=integer(f"{group}.num_transforms", num_transforms, 1),
        hidden_features=positive(f"{group}.hidden", hidden),
        passes=2 if coupling else features,
    ).transform
    for network in transform.modules():
        if isinstance(network, MaskedMLP):
            network.register_forward_hook(_widen)
    return transform


def _widen(network: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
    return widened(outputs)


@torch.no_grad()
def start_as_identity(transform: LazyTransform) -> None:
    """Set the last layer of each affine step's network to 0, which then shifts nothing and scales by 1."""
    for network in transform.modules():
        if isinstance(network, MaskedMLP):
            for parameter in list(network.children())[-1].parameters():
                parameter.zero_()


class Affine(AffineTransform):
    """y = mu + sigma x of vectors; mu and sigma ``[..., D]`` may have batch dimensions, which are none of the event's."""

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return shape

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return shape


def one_after_the_other(*transforms: Transform) -> Transform:
    """The last of ``transforms`` of ... of the first."""
    return ComposedTransform(*transforms)


def flow_distribution(transform: Transform, base: Distribution) -> NormalizingFlow:
    """The distribution of z where transform(z) is distributed as ``base``."""
    return NormalizingFlow(transform, base)


class StandardNormalNoise(nn.Module):
    """N(0, I), what a flow starts from.

    Args:
        dim: D.
    """

    zeros: Tensor
    ones: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(dim), persistent=False)
        self.register_buffer("ones", torch.ones(dim), persistent=False)

    def forward(self, batch_shape: Sequence[int]) -> Independent:
        """Event shape ``[D]``."""
        normal = Normal(self.zeros, self.ones, validate_args=False)
        return Independent(normal, 1, validate_args=False).expand(torch.Size(batch_shape))
