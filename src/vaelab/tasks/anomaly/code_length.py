"""The length of a lossless code of an image: how complex it is, whatever any model says."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray


def code_length(levels: NDArray[np.uint8], num_levels: int) -> NDArray[np.float64]:
    """Nats of a PNG file of each image ``[N]``.

    The file's frame is in it, a constant for images of one size. Other versions of the compressor may make slightly shorter or longer files.

    Args:
        levels: images ``[N, C, H, W]``, C of 1 or 3.
        num_levels: of the pixels; images of two levels are stored with one bit a pixel.
    """
    from PIL import Image

    lengths = np.empty(len(levels))
    for i, image in enumerate(levels):
        pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
        picture = Image.fromarray(pixels * np.uint8(255) if num_levels == 2 else pixels)
        if num_levels == 2 and len(image) == 1:
            picture = picture.convert("1")
        file = io.BytesIO()
        picture.save(file, format="png", optimize=True)
        lengths[i] = file.tell()
    return lengths * 8 * math.log(2)
