"""Reported numbers are computed with all bits of float32, whatever the process has set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from vaelab.training.arithmetic import SETTINGS, full_float32


def settings() -> list[str]:
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
    def older() -> tuple[str, bool, bool]:  # these raise where they contradict the newer ones
        return (
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
        )

    before = settings(), older()
    assert "tf32" in before[0], "torch takes TF32 for convolutions by itself"
    with pytest.raises(ZeroDivisionError), full_float32():
        assert settings() == ["ieee"] * len(SETTINGS)
        assert torch.get_float32_matmul_precision() == "highest"
        with full_float32():
            pass
        assert settings() == ["ieee"] * len(SETTINGS)
        raise ZeroDivisionError
    assert (settings(), older()) == before
