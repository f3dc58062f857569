"""Pictures that move: a GIF of samples over a training."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from vaelab.figures.style import INK, PAD, font

WIDE = 448  # picture pixels that the images take across, about
SECONDS, LAST_SECONDS = 0.2, 2.0  # that a frame stands
FONT_SIZE = 18


def animation(frames: ArrayLike, labels: Sequence[str]) -> bytes:
    """A GIF of ``frames [n, H, W, 3]``, uint8, each under its label; it begins again after its end.

    Every pixel of a frame is a whole number of picture pixels. Equal frames make equal bytes.
    """
    shown = np.asarray(frames)
    if shown.ndim != 4 or shown.shape[-1] != 3 or shown.dtype != np.uint8 or len(shown) != len(labels):
        raise ValueError(
            f"frames {shown.shape} of {shown.dtype} must be [n, H, W, 3], uint8, for {len(labels)} labels"
        )
    if len(shown) == 0:
        raise ValueError("an animation has at least one frame")
    letters = font(FONT_SIZE)
    height, width = shown.shape[1:3]
    scale = max(1, WIDE // max(height, width))
    longest = max(int(np.ceil(letters.getlength(label))) for label in labels)
    across, head = max(width * scale, longest) + 2 * PAD, 2 * PAD + FONT_SIZE
    # 64 greys are as good to the eye, and take half the bytes of 256
    is_grey, pages = bool((shown == shown[..., :1]).all()), []
    for frame, label in zip(shown, labels, strict=True):
        page = Image.new("RGB", (across, head + height * scale + PAD), "white")
        ImageDraw.Draw(page).text((PAD, PAD), label, fill=INK, font=letters)
        large = Image.fromarray(frame).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        page.paste(large, (PAD, head))
        if is_grey:
            pages.append(page.convert("L").point([round(round(v / 255 * 63) / 63 * 255) for v in range(256)]))
        else:
            pages.append(page.quantize(256, dither=Image.Dither.NONE))
    durations = [round(1000 * SECONDS)] * (len(pages) - 1) + [round(1000 * LAST_SECONDS)]
    content = io.BytesIO()
    pages[0].save(
        content, "GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0, disposal=1
    )
    return content.getvalue()
