"""Fully connected encoder and decoder."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaelab.errors import choice, integer
from vaelab.networks.layers import activation_layer, positive, units, with_context


class MLPEncoder(nn.Module):
    """Features of an image, or of a vector, through fully connected layers.

    Maps images ``[B, C, H, W]``, or vectors ``[..., C * H * W]``, to features ``[..., F]``, F = the last of ``hidden``.

    Args:
        image_shape: ``(C, H, W)``; a vector of F_in numbers is ``(1, 1, F_in)``.
        hidden: width of each layer, from the image on.
        activation: name of the nonlinearity after each layer; ``gated`` makes it a network of gated linear units.
        context_dim: length of an optional context vector ``[..., context_dim]``, concatenated to the input.

    >>> import torch
    >>> MLPEncoder((1, 28, 28))(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 256])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden: Sequence[int] = (512, 256),
        activation: str = "relu",
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.context_dim = integer("encoder.context_dim", context_dim, 0)
        self.num_features = positive("encoder.hidden", hidden)[-1]
        self.layers = _layers(
            [math.prod(image_shape) + context_dim, *hidden], activation, "encoder.activation"
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if x.dim() > 3 and x.shape[-3:] == self.image_shape:  # [1, 1, F_in] are vectors
            x = x.flatten(-3)
        return self.layers(with_context(x, context, self.context_dim))


class MLPDecoder(nn.Module):
    """Parameters of the likelihood at each pixel, through fully connected layers.

    Maps ``z [..., D]`` to parameters ``[..., P * C, H, W]``.

    Args:
        latent_dim: D.
        output_shape: ``(P * C, H, W)``, P = number of parameters a pixel.
        hidden: width of each layer, from the latent variable on.
        activation: name of the nonlinearity after each hidden layer; ``gated`` makes it a network of gated linear units.
        context_dim: length of an optional context vector, concatenated to z.
        output_bias: how the last layer's bias starts: ``random``, or at the logits of the pixels' means over the training ``data``, which :meth:`initialise` is given.

    Attributes:
        wants_pixel_means: whether :meth:`initialise` is waited for.
    """

    OUTPUT_BIASES = ("random", "data")

    def __init__(
        self,
        latent_dim: int,
        output_shape: Sequence[int],
        hidden: Sequence[int] = (256, 512),
        activation: str = "relu",
        context_dim: int = 0,
        output_bias: str = "random",
    ) -> None:
        super().__init__()
        self.wants_pixel_means = choice("decoder.output_bias", output_bias, self.OUTPUT_BIASES) == "data"
        self.output_shape = tuple(output_shape)
        self.context_dim = integer("decoder.context_dim", context_dim, 0)
        sizes = [latent_dim + context_dim, *positive("decoder.hidden", hidden)]
        self.layers = _layers(sizes, activation, "decoder.activation")
        self.output = nn.Linear(sizes[-1], math.prod(output_shape))

    @torch.no_grad()
    def initialise(self, means: Tensor) -> None:
        """Let the logits start at those of the means of the pixels ``[C, H, W]``, kept within [0.001, 0.999] (the released code of Burda et al. 2016)."""
        self.output.bias.copy_(torch.logit(means.clamp(0.001, 0.999)).flatten())

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        z = with_context(z, context, self.context_dim)
        rows = z.reshape(-1, z.shape[-1])  # a linear layer is quicker on a matrix than on [K, B, D]
        return self.output(self.layers(rows)).view(*z.shape[:-1], *self.output_shape)


def _layers(sizes: Sequence[int], activation: str, setting: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layer = activation_layer(activation, setting)
        layers += [
            nn.Linear(fan_in, units(activation) * fan_out),
            InPlaceTanh() if isinstance(layer, nn.Tanh) else layer,
        ]
    return nn.Sequential(*layers)


class InPlaceTanh(nn.Tanh):
    """tanh, written over the output of the linear layer before it, which nobody else reads; its gradient needs its own output only."""

    def forward(self, input: Tensor) -> Tensor:
        return input.tanh_()
