"""Convolutional encoder and decoder, for any image size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from vaelab.errors import integer
from vaelab.networks.layers import activation_layer, halvings, positive, units, with_context


class ConvEncoder(nn.Module):
    """Features of an image through 3x3 convolutions of stride 2 and one fully connected layer.

    Maps images ``[B, C, H, W]`` to features ``[B, F]``. Each convolution halves height and width, rounded up, so that any size works.

    Args:
        image_shape: ``(C, H, W)``.
        channels: channels of each convolution.
        num_features: F.
        activation: name of the nonlinearity after each layer; ``gated`` gives each unit or channel a gate.
        context_dim: length of an optional context vector, concatenated before the last layer.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        num_features: int = 256,
        activation: str = "relu",
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        self.context_dim = integer("encoder.context_dim", context_dim, 0)
        self.num_features = integer("encoder.num_features", num_features, 1)
        widths = [image_shape[0], *positive("encoder.channels", channels)]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(fan_in, units(activation) * fan_out, 3, stride=2, padding=1),
                activation_layer(activation, "encoder.activation", dim=-3),
            ]
        self.convolutions = nn.Sequential(*layers)
        height, width = halvings(image_shape, len(channels))[-1]
        self.features = nn.Sequential(
            nn.Linear(widths[-1] * height * width + context_dim, units(activation) * num_features),
            activation_layer(activation, "encoder.activation"),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        hidden = self.convolutions(x).flatten(1)
        return self.features(with_context(hidden, context, self.context_dim))


class ConvDecoder(nn.Module):
    """Parameters of the likelihood at each pixel, through transposed 3x3 convolutions: :class:`ConvEncoder` run backwards.

    Maps ``z [..., D]`` to parameters ``[..., P * C, H, W]``.

    Args:
        latent_dim: D.
        output_shape: ``(P * C, H, W)``, P = number of parameters a pixel.
        channels: channels of each layer, from the latent variable on.
        num_features: width of the fully connected layer before them.
        activation: name of the nonlinearity after each hidden layer; ``gated`` gives each unit or channel a gate.
        context_dim: length of an optional context vector, concatenated to z.
    """

    def __init__(
        self,
        latent_dim: int,
        output_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        num_features: int = 256,
        activation: str = "relu",
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        self.context_dim = integer("decoder.context_dim", context_dim, 0)
        self.output_shape = tuple(output_shape)
        integer("decoder.num_features", num_features, 1)
        fan_ins = positive("decoder.channels", channels)
        fan_outs = [*(units(activation) * width for width in fan_ins[1:]), output_shape[0]]
        sizes = halvings(output_shape, len(channels))[::-1]  # from the smallest image to the whole one
        self.features = nn.Sequential(
            nn.Linear(latent_dim + context_dim, units(activation) * num_features),
            activation_layer(activation, "decoder.activation"),
            nn.Linear(num_features, units(activation) * fan_ins[0] * math.prod(sizes[0])),
            activation_layer(activation, "decoder.activation"),
            nn.Unflatten(-1, (fan_ins[0], *sizes[0])),
        )
        layers: list[nn.Module] = []
        for fan_in, fan_out, small, large in zip(fan_ins, fan_outs, sizes[:-1], sizes[1:], strict=True):
            # A transposed convolution of n pixels gives 2n - 1; the padding adds the one that an even size needs.
            padding = (large[0] - (2 * small[0] - 1), large[1] - (2 * small[1] - 1))
            if layers:
                layers.append(activation_layer(activation, "decoder.activation", dim=-3))
            layers.append(nn.ConvTranspose2d(fan_in, fan_out, 3, stride=2, padding=1, output_padding=padding))
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        z = with_context(z, context, self.context_dim)
        rows = z.reshape(-1, z.shape[-1])
        return self.convolutions(self.features(rows)).view(*z.shape[:-1], *self.output_shape)
