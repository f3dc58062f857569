"""Binarisation, dequantisation, scale."""

from __future__ import annotations

import pytest
import torch

from vaelab.data.protocol import Protocol, protocol
from vaelab.errors import SettingError

GREY = torch.arange(256, dtype=torch.uint8)


def test_grey_pixels_span_the_range() -> None:
    p = Protocol(256)
    assert torch.equal(p.scale(p.levels(GREY)), torch.arange(256) / 255)
    wide = Protocol(256, pixel_range=(-1.0, 1.0))
    x = wide.scale(wide.levels(GREY))
    assert (x.min().item(), x.max().item()) == (-1.0, 1.0)
    torch.testing.assert_close(wide.to_unit(x), torch.arange(256) / 255)


@pytest.mark.parametrize("binarize", ["fixed", "dynamic"])
def test_sampled_pixels_are_one_with_the_probability_of_their_grey_level(binarize: str) -> None:
    p = Protocol(256, binarize=binarize)
    uniform = torch.rand(20_000, 256, generator=torch.Generator().manual_seed(0))
    sampled = p.levels(GREY.expand(20_000, -1), uniform)
    assert set(sampled.unique().tolist()) == {0.0, 1.0}
    probability = torch.arange(256) / 255
    assert (sampled.mean(0) - probability).abs().max() < 5 * 0.5 / 20_000**0.5
    assert sampled[:, 0].max() == 0
    assert sampled[:, 255].min() == 1


@pytest.mark.parametrize("levels, half", [(256, 127.5), (17, 8)])
def test_threshold_cuts_at_half_the_range(levels: int, half: float) -> None:
    stored = torch.arange(levels, dtype=torch.uint8)
    assert torch.equal(Protocol(levels, binarize="threshold").levels(stored), (stored > half).float())


def test_dequantised_levels_fill_the_range_without_overlap() -> None:
    p = Protocol(17, dequantize=True, pixel_range=(-1.0, 1.0))
    stored = torch.arange(17, dtype=torch.uint8)
    low = p.scale(p.levels(stored), torch.zeros(17))
    high = p.scale(p.levels(stored), torch.full((17,), 1 - 2**-24))
    assert low[0] == -1
    assert high[-1] <= 1
    assert (high[:-1] <= low[1:]).all()
    torch.testing.assert_close(high - low, torch.full((17,), 2 / 17))


def test_dequantisation_is_what_a_density_gets_by_itself() -> None:
    assert protocol(256, "density").dequantize
    assert not protocol(256, "density", dequantize=False).dequantize
    assert not protocol(256, "binary").dequantize


@pytest.mark.parametrize(
    "settings, names",
    [
        ({"binarize": "dynamical"}, "data.binarize=dynamical.*did you mean 'dynamic'"),
        ({"dequantize": True}, "data.dequantize=True"),
        ({"dequantize": "yes"}, "data.dequantize=yes"),
        ({"pixel_range": [1.0, 0.0]}, "data.pixel_range"),
        ({"pixel_range": [0.0]}, "data.pixel_range"),
        ({"stored_levels": 2, "binarize": "dynamic"}, "data.binarize=dynamic.*binary already"),
    ],
)
def test_refused(settings: dict[str, object], names: str) -> None:
    with pytest.raises(SettingError, match=names):
        protocol(**{"stored_levels": 256, "support": "binary", **settings})  # pyright: ignore[reportArgumentType]


def test_missing_noise_is_an_error_and_not_a_grey_picture() -> None:
    with pytest.raises(ValueError, match="uniform"):
        Protocol(256, binarize="dynamic").levels(GREY)
    with pytest.raises(ValueError, match="uniform"):
        Protocol(256, dequantize=True).scale(GREY.float())


@pytest.mark.parametrize("dequantize", [False, True])
@pytest.mark.parametrize("pixel_range", [(0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_of_scaled_pixels_are_the_levels(
    levels: int, pixel_range: tuple[float, float], dequantize: bool
) -> None:
    made = Protocol(levels, dequantize=dequantize, pixel_range=pixel_range)
    stored = torch.arange(levels).repeat(50)
    uniform = torch.rand(len(stored), generator=torch.Generator().manual_seed(0))
    pixels = made.scale(stored.to(torch.float32), uniform if dequantize else None)
    assert torch.equal(made.levels_of(pixels).long(), stored)


def test_mutated_levels_are_all_alike() -> None:
    made = Protocol(4)
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    found = made.mutated(torch.full((40_000,), 3.0), uniform, 0.4)
    shares = torch.bincount(found.long(), minlength=4) / 40_000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.1, 0.1, 0.7]), atol=0.01, rtol=0)
    assert (
        made.mutated(torch.zeros(1), torch.tensor([0.39999998]), 0.4).item() == 3.0
    )  # rounding makes no fifth level
