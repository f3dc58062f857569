"""The pictures of a run, as they stand in its page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vaelab.errors import SettingError
from vaelab.runs.files import read_regular

LARGEST = 32 << 20  #: bytes of a file
PIXELS = 50_000_000  #: of a picture: a sheet of thousands of images has a tenth of it
MOST = 64  #: pictures of a page
SMALLER = (2000, 1200, 800)  #: widths that are tried, one after the other, before a picture is left out
COLOURS = 256

#: file name -> what it is called, and what it shows
KNOWN = {
    "samples": ("Samples", "Images sampled from the model: z from the prior, and the mean of p(x|z)"),
    "reconstructions": ("Reconstructions", "Test images, each beside the mean of p(x|z) at its posterior mean"),
    "traversal": ("Traversal", "One latent dimension a row, moved from left to right while the others stay"),
    "interpolation": ("Interpolation", "From the code of one test image to that of another, a pair a row"),
    "arithmetic": ("Latent arithmetic", "Test images, and their codes moved by the difference between the mean codes of two classes, decoded, a pair of classes a row"),
    "analogies": ("Analogies", "Test images, and their codes decoded in each class"),
    "latents": ("Latent space", "Posterior means of test images in two dimensions, coloured by class"),
    "manifold": ("Manifold", "Decoded images on a grid over the two latent dimensions"),
    "learning_curves": ("Learning curves", "ELBO, rate and distortion over the optimizer steps, in training and in validation"),
    "rate_per_dimension": ("Rate of each dimension", "The rate of each latent dimension in nats, the largest first"),
    "neighbours": ("Nearest training images", "Samples, each beside the training images that are nearest to it"),
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A file that is to be shown.

    Attributes:
        path: of the file.
        name: as the page calls the file, relative to its directory.
        group: which part of the page it belongs to.
    """

    path: Path
    name: str
    group: str = ""

    @property
    def title(self) -> str:
        title = KNOWN.get(self.kind, (self.kind.replace("_", " "), ""))[0]
        return title if self._page is None else f"{title}, page {self._page}"

    @property
    def alt(self) -> str:
        return KNOWN.get(self.kind, ("", f"Picture {self.path.stem.replace('_', ' ')} of this run"))[1]

    @property
    def kind(self) -> str:
        """What is shown, whichever page of it: ``traversal`` of ``traversal_2``."""
        return self.path.stem if self._page is None else self.path.stem.rpartition("_")[0]

    @property
    def _page(self) -> str | None:
        kind, _, page = self.path.stem.rpartition("_")
        return page if kind in KNOWN and page.isdecimal() else None


@dataclass(frozen=True)
class Embedded:
    """A picture as the page has it: PNG in base64, with its size, and what was done to it."""

    picture: Picture
    data: str
    width: int
    height: int
    note: str = ""


@dataclass(frozen=True)
class _Read:
    picture: Picture
    content: bytes
    size: tuple[int, int]
    note: str = ""

    @property
    def cost(self) -> int:
        """Bytes in the page."""
        return (len(self.content) + 2) // 3 * 4 + 600


def embedded(found: Sequence[Picture], room: int | None) -> tuple[list[Embedded], list[tuple[str, str]]]:
    """The pictures that fit into ``room`` bytes (None = all), in their order, and of the others name and reason.

    Where there is too little room, the largest are given 256 colours first, then made smaller, then left out.
    """
    left_out: list[tuple[str, str]] = [(one.name, f"more than {MOST} pictures") for one in found[MOST:]]
    kept: list[_Read] = []
    for picture in found[:MOST]:
        try:
            kept.append(_read(picture))
        except SettingError as error:
            left_out.append((picture.name, error.rule))
    if room is not None:
        for width in SMALLER:
            for one in sorted(kept, key=lambda one: -one.cost):
                if sum(other.cost for other in kept) <= room:
                    break
                kept[kept.index(one)] = _smaller(one, width)
        while kept and sum(one.cost for one in kept) > room:
            largest = max(kept, key=lambda one: one.cost)
            kept.remove(largest)
            left_out.append((largest.picture.name, "the page would be too large"))
    return [
        Embedded(one.picture, base64.b64encode(one.content).decode(), *one.size, one.note) for one in kept
    ], left_out


def _read(picture: Picture) -> _Read:
    """Raises SettingError for what is no picture, or too large a one."""
    try:
        content = read_regular(picture.path, LARGEST)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            size = image.size  # known before anything is unpacked
            if size[0] * size[1] > PIXELS:
                raise SettingError("run", picture.path, f"{size[0]} × {size[1]} pixels are too many")
            image.load()
    except SettingError:
        raise
    except (
        Exception
    ) as error:  # Pillow's decoders raise whatever they come upon: OSError, SyntaxError, struct.error, ...
        rule = f"is no picture that can be read ({type(error).__name__})"
        raise SettingError("run", picture.path, rule) from None
    return _Read(picture, content, size)


def _smaller(one: _Read, width: int) -> _Read:
    """With fewer colours and at most so wide; itself, where that would be no smaller."""
    with Image.open(io.BytesIO(one.content), formats=["PNG"]) as image:
        made = image.convert("RGB")
    if made.width > width:
        made = made.resize((width, max(1, round(made.height * width / made.width))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    made.quantize(COLOURS).save(buffer, "PNG", optimize=True)
    content = buffer.getvalue()
    if len(content) >= len(one.content):
        return one
    note = f"in {COLOURS} colours" + (f", {made.width} pixels wide" if made.width < one.size[0] else "")
    return _Read(one.picture, content, made.size, f"shown {note}; the file has it whole")
