"""A small classifier of images, whose features say how alike two sets of images are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vaelab.errors import SettingError, integer

LEAST_SIZE = 8  # pixels: two halvings leave 2 x 2
MOST_CHANNELS = 3


class LeNet(nn.Module):
    """Logits of classes by two convolutions, each halved in size, and three fully connected layers.

    Maps images ``[N, C, H, W]`` in [0, 1] to logits ``[N, num_classes]``. After LeCun et al. 1998, "Gradient-based learning applied to document recognition", with
    ReLU and maxima where it has sigmoids and means. The penultimate layer keeps the hyperbolic tangent: its units are bounded and none is dead, so that the features
    have covariances of full rank and a kernel of them has a scale.

    Args:
        image_shape: ``(C, H, W)``, C at most 3, H and W at least 8.
        num_classes: at least 2.

    Attributes:
        num_features: length of :meth:`features`.

    Raises:
        SettingError: images that are too small or have too many channels; fewer than two classes.
    """

    num_features = 84

    def __init__(self, image_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        if channels > MOST_CHANNELS or min(height, width) < LEAST_SIZE:
            raise SettingError(
                "image_shape",
                list(image_shape),
                f"LeNet takes images [C, H, W] of at most {MOST_CHANNELS} channels and at least {LEAST_SIZE} x {LEAST_SIZE} pixels",
            )
        integer("num_classes", num_classes, 2)
        self.body = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 16, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(16 * (height // 4) * (width // 4), 120),
            nn.ReLU(inplace=True),
            nn.Linear(120, self.num_features),
            nn.Tanh(),
        )
        self.head = nn.Linear(self.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The penultimate layer ``[N, num_features]``, in (-1, 1)."""
        return self.body(x)
