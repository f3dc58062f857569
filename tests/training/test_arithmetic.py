"""Reported numbers are computed with all bits of float32, whatever the process has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch

from vaelab.training.arithmetic import SETTINGS, full_float32


def settings() -> list[Any]:
    return [setting.fp32_precision for setting in SETTINGS]


@pytest.fixture(params=["highest", "high", "medium"])
def _matmul(request: pytest.FixtureRequest) -> Iterator[None]:
    before = settings()
    torch.set_float32_matmul_precision(request.param)
    yield
    torch.set_float32_matmul_precision("highest")
    for setting, precision in zip(SETTINGS, before, strict=True):
        setting.fp32_precision = precision


@pytest.mark.usefixtures("_matmul")
def test_all_bits_inside_and_what_was_set_outside() -> None:
    def older() -> tuple[Any, ...]:  # these raise where they contradict the newer ones
        return (
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
        )

    before = settings(), older()
    assert "tf32" in before[0], "torch takes TF32 for convolutions by itself"
    inside = []
    with suppress(ZeroDivisionError), full_float32():
        inside.append((settings(), torch.get_float32_matmul_precision()))
        with full_float32():
            pass
        inside.append((settings(), torch.get_float32_matmul_precision()))
        raise ZeroDivisionError
    assert inside == [(["ieee"] * len(SETTINGS), "highest")] * 2
    assert (settings(), older()) == before
