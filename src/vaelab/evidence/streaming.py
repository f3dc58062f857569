"""A model evaluated on more samples than its memory holds at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vaelab.batch import Batch
from vaelab.errors import integer
from vaelab.models.terms import Terms


class RowLimit:
    """How many samples, images times samples an image, the decoder sees at once. It is halved when memory runs out, and stays so.

    Args:
        rows: the limit at first.

    Raises:
        SettingError: it is not a positive integer.
    """

    def __init__(self, rows: int) -> None:
        self.rows = integer("estimator.max_rows", rows, 1)

    def halve(self) -> None:
        self.rows //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what the failed attempt left in the allocator's cache
        print(f"out of memory: going on with {self.rows} samples at once", flush=True)


@torch.no_grad()
def streamed(
    model: Any, batch: Batch, eps: Tensor, limit: RowLimit, read: Callable[[Terms], Tensor]
) -> Tensor:
    """What ``read`` takes from the terms of K samples of B images, computed in parts of at most ``limit.rows`` samples.

    Args:
        model: (batch, eps) -> :class:`vaelab.models.Terms`.
        batch: B images.
        eps: all the noise ``[K, B, noise_dim]``, on any device.
        limit: of a part.
        read: terms -> ``[..., K, B]``.

    Raises:
        torch.OutOfMemoryError: one sample of one image is too much.
    """
    num_samples, num_images, _ = eps.shape
    if num_images > limit.rows:
        parts = [
            streamed(model, _images(batch, part), eps[:, part], limit, read)
            for part in _slices(num_images, limit.rows)
        ]
        return torch.cat(parts, dim=-1)
    try:
        parts = [
            read(model(batch, eps[part].to(batch.x)))
            for part in _slices(num_samples, limit.rows // num_images)
        ]
    except RuntimeError as error:
        if not _out_of_memory(error) or limit.rows == 1:
            raise
    else:
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)
    # outside of the handler: the exception keeps its frames, and with them their tensors, alive
    limit.halve()
    return streamed(model, batch, eps, limit, read)


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _images(batch: Batch, part: slice) -> Batch:
    return Batch(batch.x[part], batch.y[part], batch.index[part])


def _out_of_memory(error: RuntimeError) -> bool:
    """Only CUDA's allocator has an exception of its own."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "DefaultCPUAllocator" in text
    )
