"""The classifier behind the quality of samples."""

from __future__ import annotations

import pytest
import torch

from vaelab.errors import SettingError
from vaelab.networks.lenet import LeNet


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 20), (3, 32, 32), (2, 9, 11)])
def test_logits_are_linear_in_the_features_for_images_of_any_size(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = LeNet(shape, 7)
    x = torch.rand(5, *shape)
    features = network.features(x)
    assert features.shape == (5, network.num_features)
    assert features.abs().max() < 1
    assert network(x).shape == (5, 7)
    torch.testing.assert_close(network(x), features @ network.head.weight.T + network.head.bias)
    torch.testing.assert_close(network.features(x[2:3]), features[2:3])  # each image for itself


@pytest.mark.parametrize("shape, classes", [((1, 7, 28), 10), ((4, 28, 28), 10), ((1, 28, 28), 1)])
def test_what_it_cannot_take_is_refused_by_name(shape: tuple[int, int, int], classes: int) -> None:
    with pytest.raises(SettingError, match=r"image_shape=\[|num_classes=1"):
        LeNet(shape, classes)
