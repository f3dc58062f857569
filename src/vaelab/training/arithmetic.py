"""In which arithmetic products of float32 numbers are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import backends

#: settings of torch by which float32 numbers are multiplied with fewer bits: on GPUs (TF32; for convolutions that is torch's default) and on CPUs (TF32, bfloat16)
SETTINGS = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)  # pyright: ignore[reportAttributeAccessIssue]
#: of these, those of the kind of device that multiplies so
ON = {"tf32": SETTINGS[:2], "bf16": SETTINGS[2:]}


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, products of float32 numbers have all their bits, whatever the process has set; outside, that is as it was."""
    with _set(dict.fromkeys(SETTINGS, "ieee")):
        yield


@contextmanager
def products(kind: str | None) -> Iterator[None]:
    """Inside, float32 numbers are multiplied as ``fp32``, ``tf32`` (on a GPU) or ``bf16`` (on a CPU): rounded to so many bits first, the products added up in float32. None = as the process has it."""
    if kind is None:
        yield
        return
    with full_float32(), _set(dict.fromkeys(ON.get(kind, ()), kind)):
        yield


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
