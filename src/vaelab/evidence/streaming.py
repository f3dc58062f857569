"""A model evaluated on more samples than its memory holds at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vaelab.batch import Batch
from vaelab.errors import integer
from vaelab.models.terms import Terms

#: samples at once by kind of device, where no limit is given: on a CPU what its cache holds, elsewhere what keeps it busy
ROWS = {"cpu": 2_048}
OTHERWISE = 65_536
#: samples whose noise is made in one call
NOISE_AT_ONCE = 100_000


class RowLimit:
    """How many samples, images times samples an image, the decoder sees at once. It is halved when memory runs out, and stays so.

    Args:
        rows: the limit at first; None = by the kind of device.

    Raises:
        SettingError: it is neither null nor a positive integer.
    """

    def __init__(self, rows: int | None) -> None:
        self._rows = None if rows is None else integer("estimator.max_rows", rows, 1, " or null")

    def on(self, device: torch.device) -> int:
        """The limit on a device."""
        return ROWS.get(device.type, OTHERWISE) if self._rows is None else self._rows

    def halve(self, device: torch.device) -> None:
        self._rows = self.on(device) // 2
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what the failed attempt left in the allocator's cache
        print(f"out of memory: going on with {self._rows} samples at once", flush=True)


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
    rows, device = limit.on(batch.x.device), batch.x.device
    try:
        blocks = [
            _block(model, batch[images], eps[:, images], rows, read)
            for images in _slices(eps.shape[1], max(1, rows // eps.shape[0]))
        ]
    except RuntimeError as error:
        if not _out_of_memory(error) or rows == 1:
            raise
    else:
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-1)
    # outside of the handler: the exception keeps its frames, and with them their tensors, alive
    limit.halve(device)
    return streamed(model, batch, eps, limit, read)


def _block(model: Any, batch: Batch, eps: Tensor, rows: int, read: Callable[[Terms], Tensor]) -> Tensor:
    """So few images that one of their samples fits, in parts along K."""
    parts = [
        read(model(batch, eps[part].to(batch.x))) for part in _slices(eps.shape[0], rows // eps.shape[1])
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _out_of_memory(error: RuntimeError) -> bool:
    """Only CUDA's allocator has an exception of its own."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "DefaultCPUAllocator" in text
    )


class ImageLimit:
    """How many images are measured at once. It is halved when memory runs out, and stays so.

    Args:
        images: the limit at first.
    """

    def __init__(self, images: int) -> None:
        self.images = images

    def halve(self, tried: int) -> None:
        """After ``tried`` images were too many."""
        self.images = -(-tried // 2)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # what the failed attempt left in the allocator's cache
        print(f"out of memory: going on with {self.images} images at once", flush=True)


def in_halves(
    measure: Callable[[slice], dict[str, Tensor]], num_images: int, limit: ImageLimit
) -> dict[str, Tensor]:
    """``measure`` of all images, in parts of at most ``limit.images``, fewer where memory does not hold them together: columns ``[B]``.

    Raises:
        torch.OutOfMemoryError: one image is too much.
    """
    parts: list[dict[str, Tensor]] = []
    start = 0
    while start < num_images:
        images = slice(start, min(start + limit.images, num_images))
        size = images.stop - images.start
        try:
            parts.append(measure(images))
        except RuntimeError as error:
            if not _out_of_memory(error) or size == 1:
                raise
        else:
            start = images.stop
            continue
        limit.halve(
            size
        )  # outside of the handler: the exception keeps its frames, and with them their tensors, alive
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
