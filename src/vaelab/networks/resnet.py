"""Residual encoder and decoder, for any image size (He et al. 2016, "Identity mappings in deep residual networks")."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaelab.errors import integer
from vaelab.networks.layers import elementwise, halvings, positive, with_context


class ResNetEncoder(nn.Module):
    """Features of an image through strided convolutions, residual blocks after each, and one fully connected layer.

    Maps images ``[B, C, H, W]`` to features ``[B, F]``. Each strided convolution halves height and width, rounded up, so that any size works.

    Args:
        image_shape: ``(C, H, W)``.
        channels: channels of each strided convolution and of the blocks after it.
        blocks: number of residual blocks after each strided convolution.
        num_features: F.
        activation: name of the nonlinearity.
        context_dim: length of an optional context vector, concatenated before the last layer.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        blocks: int = 1,
        num_features: int = 256,
        activation: str = "silu",
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        self.context_dim = integer("encoder.context_dim", context_dim, 0)
        self.num_features = integer("encoder.num_features", num_features, 1)
        integer("encoder.blocks", blocks, 1)
        widths = [image_shape[0], *positive("encoder.channels", channels)]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers.append(nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1))
            layers += [ResidualBlock(fan_out, activation, "encoder.activation") for _ in range(blocks)]
        layers += [group_norm(widths[-1]), elementwise(activation, "encoder.activation")]
        self.convolutions = nn.Sequential(*layers)
        height, width = halvings(image_shape, len(channels))[-1]
        self.features = nn.Sequential(
            nn.Linear(widths[-1] * height * width + context_dim, num_features),
            elementwise(activation, "encoder.activation"),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        hidden = self.convolutions(x).flatten(1)
        return self.features(with_context(hidden, context, self.context_dim))


class ResNetDecoder(nn.Module):
    """Parameters of the likelihood at each pixel, through residual blocks, a doubling after each: :class:`ResNetEncoder` run backwards.

    Maps ``z [..., D]`` to parameters ``[..., P * C, H, W]``.

    Args:
        latent_dim: D.
        output_shape: ``(P * C, H, W)``, P = number of parameters a pixel.
        channels: channels of the blocks before each doubling of height and width, from the latent variable on.
        blocks: number of residual blocks before each doubling.
        activation: name of the nonlinearity.
        context_dim: length of an optional context vector, concatenated to z.
    """

    def __init__(
        self,
        latent_dim: int,
        output_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        blocks: int = 1,
        activation: str = "silu",
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        self.context_dim = integer("decoder.context_dim", context_dim, 0)
        self.output_shape = tuple(output_shape)
        integer("decoder.blocks", blocks, 1)
        widths = positive("decoder.channels", channels)
        sizes = halvings(output_shape, len(channels))[::-1]  # from the smallest image to the whole one
        self.features = nn.Linear(latent_dim + context_dim, widths[0] * math.prod(sizes[0]))
        layers: list[nn.Module] = [nn.Unflatten(-1, (widths[0], *sizes[0]))]
        for fan_in, fan_out, size in zip(widths, [*widths[1:], output_shape[0]], sizes[1:], strict=True):
            layers += [ResidualBlock(fan_in, activation, "decoder.activation") for _ in range(blocks)]
            layers.append(Doubling(fan_in, fan_out, size))
        layers[-1:] = [group_norm(widths[-1]), elementwise(activation, "decoder.activation"), layers[-1]]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        z = with_context(z, context, self.context_dim)
        rows = z.reshape(-1, z.shape[-1])
        return self.convolutions(self.features(rows)).view(*z.shape[:-1], *self.output_shape)


class ResidualBlock(nn.Module):
    """h + f(h), f = twice (group norm, nonlinearity, 3x3 convolution), the last convolution zero at first: a block starts as the identity.

    Maps ``[N, C, H, W]`` to the same shape. Group and not batch normalisation, in which the images of a batch would change each other's bound.

    Args:
        channels: C.
        activation: name of the nonlinearity.
        setting: its name for messages.
    """

    def __init__(self, channels: int, activation: str, setting: str) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.Sequential(
            group_norm(channels),
            elementwise(activation, setting),
            nn.Conv2d(channels, channels, 3, padding=1),
            group_norm(channels),
            elementwise(activation, setting),
            last,
        )

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.layers(hidden)


class Doubling(nn.Module):
    """Twice the height and width: a 3x3 convolution gives each pixel four vectors, which become 2x2 pixels (Shi et al. 2016), and an odd size is cut.

    Maps ``[N, C, H, W]`` to ``[N, C', 2H, 2W]``, or one row or column less. At first the four are equal, which is nearest-neighbour upsampling and
    shows no checkerboard. The convolution works on the small image: on the large one the last doubling would take as long as all the rest.

    Args:
        fan_in: C.
        fan_out: C'.
        size: height and width of the result.
    """

    def __init__(self, fan_in: int, fan_out: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.convolution = nn.Conv2d(fan_in, 4 * fan_out, 3, padding=1)
        with torch.no_grad():
            for parameter in self.convolution.parameters():
                parameter.copy_(parameter[::4].repeat_interleave(4, dim=0))

    def forward(self, hidden: Tensor) -> Tensor:
        height, width = self.size
        return F.pixel_shuffle(self.convolution(hidden), 2)[..., :height, :width]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation (Wu & He 2018) with up to eight groups, of four channels at least: less would forget what a 1x1 image says.

    >>> [group_norm(channels).num_groups for channels in (3, 8, 30, 64)]
    [1, 2, 6, 8]
    """
    return nn.GroupNorm(
        max(g for g in range(1, 9) if channels % g == 0 and (g == 1 or channels >= 4 * g)), channels
    )
