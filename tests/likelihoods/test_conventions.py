"""log p(x|z) is that of an image: a sum over pixels, whatever its height, its width and its channels."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vaelab.build import build

CONFIGS = Path(__file__).parents[2] / "configs" / "likelihood"


def make(entry: str, image_shape: tuple[int, ...]) -> Any:
    node = yaml.safe_load((CONFIGS / f"{entry}.yaml").read_text())
    data = {"image_shape": image_shape, "pixel_range": (0.0, 1.0), "num_levels": 2}
    return build(node, "likelihood", **data).double()


@pytest.mark.parametrize("entry", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_the_log_likelihood_of_an_image_is_the_sum_over_its_pixels(entry: str) -> None:
    C, H, W = 2, 3, 4
    image, pixel = make(entry, (C, H, W)), make(entry, (1, 1, 1))
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(5, image.params_per_pixel * C, H, W, dtype=torch.float64, generator=generator)
    x = torch.randint(0, 2, (5, C, H, W), generator=generator).double()
    if image.support == "density":
        x = 0.1 + 0.7 * x
    single = [
        pixel(parameters[:, c::C, h : h + 1, w : w + 1]).log_prob(x[:, c : c + 1, h : h + 1, w : w + 1])
        for c, h, w in itertools.product(range(C), range(H), range(W))
    ]
    torch.testing.assert_close(image(parameters).log_prob(x), torch.stack(single).sum(0))
