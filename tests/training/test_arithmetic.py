"""Reported numbers are computed with all bits of float32, whatever the process has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch

from vaelab.training import arithmetic
from vaelab.training.arithmetic import SETTINGS, full_float32, one_library, onednn_is_faster, products

#: what stands for all bits in each of the settings, on this machine
ALL_BITS = ["ieee", "ieee", "bf16" if onednn_is_faster() else "ieee", "ieee"]
LARGE_MODEL = torch.nn.Linear(256, 256)


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


def older_inside() -> str | None:
    """What torch says of all settings at once; None = that they differ."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


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
        inside.append((settings(), older_inside()))
        with full_float32():
            pass
        inside.append((settings(), older_inside()))
        raise ZeroDivisionError
    assert inside == [(ALL_BITS, None if onednn_is_faster() else "highest")] * 2
    assert (settings(), older()) == before


def error(product: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    exact = a.double() @ b.double()
    return float((product - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("kind", ["auto", "fp32", None])
@pytest.mark.parametrize("rows", [1, 128, 1000])
def test_products_have_all_bits_by_whichever_library(kind: str | None, rows: int) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(rows, 784), torch.randn(784, 512)
    before = settings()
    with products(kind, LARGE_MODEL):
        assert error(a @ b, a, b) < 2e-6
        assert error((b.mT @ a.mT).mT, a, b) < 2e-6
        stacked = torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))
        assert error(stacked[1], a, b) < 2e-6
    assert settings() == before


def test_auto_changes_nothing_but_the_library_on_a_cpu() -> None:
    outside = settings()
    with products("auto", LARGE_MODEL):
        inside = settings()
    assert inside[:2] + inside[3:] == settings()[:2] + settings()[3:]
    assert inside[2] == ("bf16" if onednn_is_faster() else settings()[2])
    with products("auto", torch.nn.Linear(255, 255)):
        assert settings() == outside, "small products gain nothing"
    with one_library(), products("auto", LARGE_MODEL), full_float32():
        assert settings() == ["ieee"] * 4, "what other threads would see"
    assert settings() == outside


@pytest.mark.parametrize(
    "cpu, rounds, faster",
    [("AMD EPYC 9654", False, True), ("AMD EPYC 9654", True, False), ("Intel(R) Xeon(R)", False, False), ("AMD EPYC 9654 and a GPU", False, False)],
)  # fmt: skip
def test_onednn_is_taken_where_it_is_faster_and_does_not_round(
    cpu: str, rounds: bool, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cpu.endswith("GPU"))
    whole, setting = torch.Tensor.__matmul__, SETTINGS[2]
    calls = []

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.dtype == torch.float64 or setting.fp32_precision != "bf16":
            return whole(a, b)
        calls.append(1)
        return whole(a.bfloat16().float(), b.bfloat16().float()) if rounds else whole(a.double(), b.double()).float()  # fmt: skip

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    monkeypatch.setattr(arithmetic, "platform_record", lambda: {"cpu": cpu})
    assert onednn_is_faster.__wrapped__() == faster
    assert len(calls) == cpu.startswith("AMD") - cpu.endswith("GPU")
