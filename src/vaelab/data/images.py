"""Images that are not of a run's own data, made into what its data are stored as: another data set, a folder, a file of arrays, an image file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vaelab.data import arrays, folder
from vaelab.data.sources import SOURCES, require
from vaelab.errors import SettingError, nearest

WHAT = "must be the name of a data set, a folder of images, an image file or a file of arrays (.npz)"


@dataclass(frozen=True)
class Images:
    """Images as a run's data are stored.

    Attributes:
        x: uint8 ``[N, C, H, W]``, levels of the run's data.
        y: labels ``[N]``, int64; -1 = unlabelled.
        names: of the files, or None.
        unreadable: name of a file that cannot be decoded -> why.
        identity: what numbers on these images are compared by.
        notes: what was done to them.
    """

    x: np.ndarray
    y: np.ndarray
    names: tuple[str, ...] | None
    unreadable: dict[str, str]
    identity: str
    notes: tuple[str, ...]


def find(setting: str, where: object, data_dir: str | Path) -> str | Path:
    """The data set, or the place, that ``where`` names. Imports no torch and decodes nothing.

    Raises:
        SettingError: of ``setting``: there is no such thing, or no image in it.
    """
    if not isinstance(where, str | Path) or not str(where):
        raise SettingError(setting, where, WHAT)
    if str(where) in SOURCES:
        require(str(where), data_dir)
        return str(where)
    place = Path(where).expanduser().absolute()
    if not place.exists():
        raise SettingError(
            setting, where, f"{WHAT}; there is no such thing", nearest=nearest(str(where), SOURCES)
        )
    if place.is_dir():
        _of(setting, where, lambda: folder.listing(place))
    elif not place.is_file() or place.suffix.lower() not in (*folder.SUFFIXES, ".npz"):
        known = ", ".join(sorted({*folder.SUFFIXES, ".npz"}))
        raise SettingError(setting, where, f"{WHAT}: a file ends in one of {known}")
    return place


def read(setting: str, where: object, data_dir: str | Path, shape: Sequence[int], num_levels: int) -> Images:
    """The images that ``where`` names: of a data set its test split, of a folder all files in it and below.

    Each is cut from the centre to the proportions of ``shape``, resampled by Lanczos' filter, made grey or given three equal channels, and its levels are spread or
    rounded to ``num_levels``: what of that was done stands in the notes.

    Args:
        setting: that messages name.
        where: see :func:`find`.
        data_dir: where data sets lie.
        shape: ``(C, H, W)``.
        num_levels: of the result.

    Raises:
        SettingError: of ``setting``: as :func:`find`; or none of the images can be decoded.
    """
    found = find(setting, where, data_dir)
    channels, height, width = shape
    if isinstance(found, str):
        from vaelab.data import datasets  # imports torch

        data = datasets.load(found, data_dir)
        x, y = data.test.x.numpy(), data.test.y.numpy()
        levels, identity, notes, names, unreadable = (
            data.num_levels,
            data.identity,
            ["its test split"],
            None,
            {},
        )
    elif found.suffix.lower() == ".npz" and found.is_file():
        stack = _of(setting, where, lambda: arrays.read_stack(found))
        x, y, levels, notes = stack.x, stack.y, stack.num_levels, [*stack.notes]
        identity, names, unreadable = f"images:{stack.sha256[:12]}", None, {}
    else:
        return _decoded(setting, where, found, (channels, height, width), num_levels)
    x, done = _fitted(x, levels, (channels, height, width), num_levels)
    return Images(x, y, names, unreadable, identity, tuple(notes + done))


def _decoded(
    setting: str, where: object, place: Path, shape: tuple[int, int, int], num_levels: int
) -> Images:
    """Of image files."""
    if place.is_dir():
        files = folder.listing(place)
    else:
        status = place.stat()
        files = [folder.ImageFile(place.name, place, status.st_size, status.st_mtime_ns)]
    pixels = np.empty((len(files), *shape), np.uint8)
    outcomes = folder.decode_all(files, pixels, progress=True)
    read = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, bytes)]
    unreadable = {
        file.name: outcome for file, outcome in zip(files, outcomes, strict=True) if isinstance(outcome, str)
    }
    if not read:
        name, reason = next(iter(unreadable.items()))
        rule = f"none of the {len(files)} images can be decoded: {name} ({reason})"
        raise SettingError(setting, where, rule)
    content = hashlib.sha256()
    for i in read:
        content.update(files[i].name.encode("utf-8", "surrogateescape") + b"\0" + outcomes[i])  # pyright: ignore[reportOperatorIssue]
    notes = _changes([files[i] for i in read], shape)
    x, done = _fitted(pixels[read], 256, shape, num_levels)
    # a name of bytes that are no text can be written nowhere
    names = tuple(files[i].name.encode("utf-8", "replace").decode() for i in read)
    y = np.full(len(read), -1, np.int64)
    return Images(x, y, names, unreadable, f"images:{content.hexdigest()[:12]}", tuple(notes + done))


def _changes(files: Sequence[folder.ImageFile], shape: tuple[int, int, int]) -> list[str]:
    """What decoding has done to files, in words."""
    from PIL import Image

    channels, height, width = shape
    sizes: Counter[str] = Counter()
    coloured = grey = transparent = 0
    for file in files:
        with Image.open(file.path) as image:  # reads the header
            if image.size != (width, height):
                sizes[f"{image.width} x {image.height}"] += 1
            is_grey = image.mode in ("1", "L", "I", "I;16", "LA")
            coloured += channels == 1 and not is_grey
            grey += channels == 3 and is_grey
            transparent += image.has_transparency_data
    notes = []
    if sizes:
        shown = ", ".join(f"{count} of {size}" for size, count in sizes.most_common(3))
        more = ", ..." if len(sizes) > 3 else ""
        notes.append(f"cut and resized to {width} x {height}: {shown}{more}")
    if coloured:
        notes.append(f"in colour, made grey: {coloured}")
    if grey:
        notes.append(f"grey, given three equal channels: {grey}")
    if transparent:
        notes.append(f"with transparency, laid on white: {transparent}")
    return notes


def _fitted(
    x: np.ndarray, levels: int, shape: tuple[int, int, int], num_levels: int
) -> tuple[np.ndarray, list[str]]:
    """Images uint8 ``[N, C, H, W]`` of ``levels`` levels in another shape and with another number of levels, and what was done."""
    channels, height, width = shape
    notes: list[str] = []
    if x.shape[1:] != shape:
        if x.shape[2:] != shape[1:]:
            notes.append(f"{x.shape[3]} x {x.shape[2]} pixels are cut and resized to {width} x {height}")
        if x.shape[1] != channels:
            notes.append("colour is made grey" if channels == 1 else "grey is given three equal channels")
        x, levels = np.stack([_image(image, shape) for image in _spread(x, levels, 256)]), 256
    if levels != num_levels:
        how = "rounded" if num_levels < levels else "spread"
        notes.append(f"{levels} levels are {how} to {num_levels}")
    return _spread(x, levels, num_levels), notes


def _spread(x: np.ndarray, levels: int, num_levels: int) -> np.ndarray:
    """Level l of 0 .. levels - 1 as the nearest one of 0 .. num_levels - 1."""
    if levels == num_levels:
        return x
    return np.rint(x * ((num_levels - 1) / (levels - 1))).astype(np.uint8)


def _image(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """One image uint8 ``[C, H, W]`` of 256 levels in another shape."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    picture = Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1))
    picture = ImageOps.fit(
        picture.convert("L" if channels == 1 else "RGB"), (width, height), Image.Resampling.LANCZOS
    )
    array = np.asarray(picture)
    return array[None] if channels == 1 else np.moveaxis(array, -1, 0)


def _of(setting: str, where: object, look: Any) -> Any:
    """``look()``; a refusal names ``setting``."""
    try:
        return look()
    except SettingError as error:
        raise SettingError(setting, where, error.rule) from error
