"""In which arithmetic products of float32 numbers are computed, and on a CPU by which library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import backends, nn

from vaelab.runs.environment import platform_record

#: settings of torch by which float32 numbers are multiplied with fewer bits: on GPUs (TF32; for convolutions that is torch's default) and on CPUs (TF32, bfloat16)
SETTINGS = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)  # pyright: ignore[reportAttributeAccessIssue]
#: of these, those of the kind of device that multiplies so
ON = {"tf32": SETTINGS[:2], "bf16": SETTINGS[2:]}

#: numbers in the largest weight of a model from which on oneDNN gains: it takes longer to begin
LARGE = 2**16


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, products of float32 numbers have all their bits, whatever the process has set; outside, that is as it was."""
    with _set(dict.fromkeys(SETTINGS, "ieee") | _all_bits_by_onednn()):
        yield


@contextmanager
def products(kind: str | None, model: nn.Module) -> Iterator[None]:
    """Inside, float32 numbers are multiplied in this arithmetic.

    Args:
        kind: ``auto`` = as the process has it, but on a CPU by the library that is faster there with all bits; ``fp32`` = with all bits, by the library that torch takes;
            ``tf32`` (on a GPU) and ``bf16`` (on a CPU) = rounded to so many bits first, the products added up in float32; None = as the process has it.
        model: that is trained.
    """
    if kind is None:
        yield
        return
    chosen: dict[object, str] = dict.fromkeys(SETTINGS, "ieee")
    chosen |= dict.fromkeys(ON.get(kind, ()), kind)
    if kind == "auto":
        large = max((parameter.numel() for parameter in model.parameters()), default=0) >= LARGE
        chosen = _all_bits_by_onednn() if large else {}
    with _set(chosen):
        yield


@contextmanager
def one_library() -> Iterator[None]:
    """Inside, no thread of the process multiplies by another library than torch takes: the settings are those of the process, and threads that change them in turn would change each other's last bits."""
    global _one_library
    before, _one_library = _one_library, True
    try:
        yield
    finally:
        _one_library = before


_one_library = False


def _all_bits_by_onednn() -> dict[object, str]:
    return {backends.mkldnn.matmul: "bf16"} if not _one_library and onednn_is_faster() else {}  # pyright: ignore[reportAttributeAccessIssue]


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies float32 numbers of this CPU faster than MKL, which torch takes by itself, and with all their bits.

    MKL is made for Intel's CPUs; on those of AMD with AVX-512 oneDNN takes less than half the time. Torch comes to it by a setting that lets it round to bfloat16 first (``bf16``), which it
    does only where a CPU has units for matrices of such numbers: that it does not do so here is tried out. Where there is a GPU, nothing is computed on the CPU that would gain, and Lightning asks torch for
    one precision of all devices, which there is not with this setting.
    """
    named = str(platform_record()["cpu"])
    if "AMD" not in named or not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if torch.cuda.is_available():
        return False
    a, b = torch.linspace(-1, 1, 2 * 256 * 256).sin().view(2, 256, 256).unbind()
    products = []
    for kind in ("ieee", "bf16"):
        with _set({backends.mkldnn.matmul: kind}):  # pyright: ignore[reportAttributeAccessIssue]
            products.append(a @ b)
    exact = a.double() @ b.double()
    ieee, bf16 = ((product - exact).abs().max() / exact.abs().max() for product in products)
    # with other last bits it is another library's product; rounded to bfloat16 it would be off by 1e-3
    return not torch.equal(*products) and bool(bf16 < 8 * ieee)


@contextmanager
def _set(precisions: dict[object, str]) -> Iterator[None]:
    before = [setting.fp32_precision for setting in precisions]  # pyright: ignore[reportAttributeAccessIssue]
    older = _older()
    try:
        if older is not None:  # the two must not contradict each other
            torch.set_float32_matmul_precision("highest")
        for setting, precision in precisions.items():
            setting.fp32_precision = precision  # pyright: ignore[reportAttributeAccessIssue]
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older)
        for setting, precision in zip(precisions, before, strict=True):
            setting.fp32_precision = precision  # pyright: ignore[reportAttributeAccessIssue]


def _older() -> str | None:
    """torch's older setting for matrices, which is consulted beside the new ones, where it asks for fewer bits; None where it does not, or the new ones say what it could not."""
    try:
        found = torch.get_float32_matmul_precision()
    except RuntimeError:  # what torch says to the latter
        return None
    return None if found == "highest" else found
