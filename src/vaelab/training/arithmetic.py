"""In which arithmetic a number that is reported is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import backends

#: settings of torch by which float32 numbers are multiplied with fewer bits: on GPUs (TF32; for convolutions that is torch's default) and on CPUs (TF32, bfloat16)
SETTINGS = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, products of float32 numbers have all their bits, whatever the process has set; outside, that is as it was."""
    before = [setting.fp32_precision for setting in SETTINGS]
    # torch's older setting for matrices is consulted beside the new ones, and the two must not contradict each other
    matmul = torch.get_float32_matmul_precision()
    try:
        if matmul != "highest":
            torch.set_float32_matmul_precision("highest")
        for setting in SETTINGS:
            setting.fp32_precision = "ieee"
        yield
    finally:
        if matmul != "highest":
            torch.set_float32_matmul_precision(matmul)
        for setting, precision in zip(SETTINGS, before, strict=True):
            setting.fp32_precision = precision
