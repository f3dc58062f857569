"""The convolutional parts of a deep top-down model (Child 2021, "Very deep VAEs generalize autoregressive models and can outperform them on images")."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vaelab.networks.layers import elementwise, halvings


class Bottleneck(nn.Module):
    """A narrow stack of convolutions, 1x1, 3x3, 3x3, 1x1, a nonlinearity before each; on a 1x1 image all are 1x1.

    Maps ``[N, C, H, W]`` to ``[N, C', H, W]``. No normalisation: what keeps a deep sum of them finite is how small the last convolution starts.

    Args:
        fan_in, fan_out: C and C'.
        size: height and width.
        activation: name of the nonlinearity.
        gain: what the last convolution's parameters are multiplied with at first.
    """

    def __init__(
        self, fan_in: int, fan_out: int, size: tuple[int, int], activation: str, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.enter = nn.Sequential(nonlinearity(activation), nn.Conv2d(fan_in, narrow(fan_in), 1))
        self.rest = rest_of_bottleneck(narrow(fan_in), fan_out, size, activation, gain)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.rest(self.enter(hidden))


class MergingBottleneck(nn.Module):
    """A :class:`Bottleneck` of two images side by side, ``hidden [K * B, C, H, W]`` and ``evidence [B, C, H, W]``, of which the second is the same for all K.

    The first convolution is the sum of one for each, so that the second's is done B and not K B times.

    Args:
        fan_in, fan_out: C and C'.
        size: height and width.
        activation: name of the nonlinearity.
    """

    def __init__(self, fan_in: int, fan_out: int, size: tuple[int, int], activation: str) -> None:
        super().__init__()
        self.nonlinearity = nonlinearity(activation)
        self.of_hidden = nn.Conv2d(fan_in, narrow(2 * fan_in), 1)
        self.of_evidence = nn.Conv2d(fan_in, narrow(2 * fan_in), 1, bias=False)
        self.rest = rest_of_bottleneck(narrow(2 * fan_in), fan_out, size, activation)

    def forward(self, hidden: Tensor, evidence: Tensor) -> Tensor:
        own = self.of_hidden(self.nonlinearity(hidden)).unflatten(0, (-1, len(evidence)))
        return self.rest((own + self.of_evidence(self.nonlinearity(evidence))).flatten(0, 1))


class Rise(nn.Module):
    """Features of an image at each scale, from half its height and width to 1x1: ``[B, C, H, W]`` -> one ``[B, C_s, H_s, W_s]`` a scale.

    Args:
        image_shape: ``(C, H, W)``.
        channels: C_s; the last is that of the 1x1 scale.
        blocks: residual bottlenecks at each scale but the last.
        activation: name of the nonlinearity.
    """

    def __init__(
        self, image_shape: Sequence[int], channels: Sequence[int], blocks: int, activation: str
    ) -> None:
        super().__init__()
        scales = sizes(image_shape, channels)
        widths = [image_shape[0], *channels]
        total = max(1, blocks * (len(channels) - 1))
        self.steps = nn.ModuleList()
        for fan_in, fan_out, size in zip(widths, widths[1:], scales[:-1], strict=False):
            shrink = nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1)
            residual = [Residual(fan_out, size, activation, total**-0.5) for _ in range(blocks)]
            self.steps.append(nn.Sequential(shrink, *residual))
        last = scales[-2] if len(scales) > 1 else (image_shape[1], image_shape[2])
        self.steps.append(nn.Conv2d(widths[-2], widths[-1], last))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for step in self.steps:
            x = step(x)
            features.append(x)
        return features


class Residual(nn.Module):
    """h + f(h), f a :class:`Bottleneck`; maps ``[N, C, H, W]`` to the same shape."""

    def __init__(self, channels: int, size: tuple[int, int], activation: str, gain: float) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(channels, channels, size, activation, gain)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.bottleneck(hidden)


class Unfold(nn.Module):
    """From one vector to an image: ``[N, C, 1, 1]`` -> ``[N, C', H, W]``, a linear map whose bias says where a pixel is."""

    def __init__(self, fan_in: int, fan_out: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.shape = (fan_out, *size)
        self.linear = nn.Linear(fan_in, fan_out * size[0] * size[1])

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden.flatten(1)).unflatten(1, self.shape)


def sizes(image_shape: Sequence[int], channels: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width at each scale: half the image's, a quarter, ..., and at last 1x1.

    >>> sizes((1, 28, 28), (32, 32, 64))
    [(14, 14), (7, 7), (1, 1)]
    """
    return [*halvings(image_shape, len(channels) - 1)[1:], (1, 1)]


def narrow(channels: int) -> int:
    """Channels inside a bottleneck: a quarter, as in the paper."""
    return max(1, channels // 4)


def nonlinearity(name: str) -> nn.Module:
    return elementwise(name, "model.activation") if name != "relu" else nn.ReLU()


def rest_of_bottleneck(
    inside: int, fan_out: int, size: tuple[int, int], activation: str, gain: float = 1.0
) -> nn.Sequential:
    """What follows the first convolution of a bottleneck."""
    kernel = 1 if size == (1, 1) else 3
    last = nn.Conv2d(inside, fan_out, 1)
    for parameter in last.parameters():
        parameter.data.mul_(gain)
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nonlinearity(activation), nn.Conv2d(inside, inside, kernel, padding=kernel // 2)]
    return nn.Sequential(*layers, nonlinearity(activation), last)
