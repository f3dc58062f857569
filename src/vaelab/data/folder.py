"""``data=folder``: a person's own image files, decoded once into squares of one size."""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vaelab.errors import SettingError

SUFFIXES = frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".pgm",
        ".ppm",
        ".pbm",
        ".tga",
    )
)
DECODER_VERSION = 1  # part of the cache key: raise it when the decoded arrays change
LARGE = 2_000  # files from which on progress is shown
SHOWN = 5  # names in a note
BUCKETS = 10  # one is the test split, one validation, the others are trained on


@dataclass(frozen=True)
class ImageFile:
    """An image file: its name below the folder (with slashes), size in bytes and time of its last change in nanoseconds."""

    name: str
    path: Path
    size: int
    mtime: int


@dataclass(frozen=True)
class Decoded:
    """A folder as the cache holds data sets: ``<split>_x`` uint8 [N, C, S, S], ``<split>_y`` int64 [N].

    Attributes:
        sha256: of the names and contents of the files that were used.
        notes: what was done, for the screen and the record.
    """

    arrays: dict[str, np.ndarray]
    sha256: str
    notes: tuple[str, ...]


def listing(folder: Path) -> list[ImageFile]:
    """All image files in ``folder`` and below, by name; hidden ones are left alone.

    Raises:
        SettingError: there is none.
    """
    found: list[ImageFile] = []
    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = (
            [] if real in visited else sorted(f for f in folders if not f.startswith("."))
        )  # a link may lead back
        for name in names if real not in visited else ():
            path = Path(parent, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and path.is_file():
                status = path.stat()
                found.append(
                    ImageFile(path.relative_to(folder).as_posix(), path, status.st_size, status.st_mtime_ns)
                )
        visited.add(real)
    if not found:
        raise SettingError("data.path", folder, f"holds no images, none of {', '.join(sorted(SUFFIXES))}")
    return sorted(found, key=lambda file: file.name)


def key(folder: Path, files: list[ImageFile], size: int, channels: int) -> str:
    """Names the decoded arrays: a digest of the place, of names, sizes and times of the files, and of what they are made into."""
    lines = [str(folder.resolve()), f"{size} {channels} {DECODER_VERSION}"]
    lines += [f"{file.size} {file.mtime} {file.name}" for file in files]
    return hashlib.sha256(_encoded("\n".join(lines))).hexdigest()[:12]


def split_of(name: str) -> str:
    """The split of a file, by the SHA-256 of its name below the folder: 80 % train, 10 % val, 10 % test.

    It depends on nothing else, so that images stay on their side when others are added.
    """
    return {0: "test", 1: "val"}.get(int.from_bytes(_digest(name)[:8], "big") % BUCKETS, "train")


def decode(
    folder: Path, files: list[ImageFile], size: int, channels: int, *, progress: bool = True
) -> Decoded:
    """Every file as a square of ``size`` pixels: cut from the centre, resampled with Lanczos' filter (which averages where it shrinks).

    Transparent pixels are laid on white; of a moving picture the first one is taken; a photograph is turned as its camera says. Where every file lies in
    a subfolder, the first subfolder is its class, numbered by name; otherwise all are unlabelled. Within a split the order is by the SHA-256 of the names.

    Raises:
        SettingError: no file can be decoded, or a split would be empty.
    """
    files = sorted(files, key=lambda file: _digest(file.name))
    pixels = np.empty((len(files), channels, size, size), np.uint8)
    outcomes = decode_all(files, pixels, progress)
    used = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, bytes)]
    notes = []
    if len(used) < len(files):
        broken = sorted(
            file.name for file, outcome in zip(files, outcomes, strict=True) if isinstance(outcome, str)
        )
        names = ", ".join(broken[:SHOWN]) + (", ..." if len(broken) > SHOWN else "")
        if not used:
            reason = next(outcome for outcome in outcomes if isinstance(outcome, str))
            raise SettingError(
                "data.path", folder, f"none of the {len(files)} images can be decoded: {names} ({reason})"
            )
        notes.append(f"{len(broken)} of {len(files)} files cannot be decoded and are left out: {names}")
    splits = np.array([split_of(files[i].name) for i in used])
    counts = {split: int((splits == split).sum()) for split in ("train", "val", "test")}
    by_split = ", ".join(f"{count} {split}" for split, count in counts.items())
    if 0 in counts.values():
        raise SettingError(
            "data.path",
            folder,
            f"holds too few images: split by the SHA-256 of their names they are {by_split}",
        )
    notes.append(f"split by the SHA-256 of the file names: {by_split}")
    labels, note = _labels([file.name for file in files])
    if note:
        notes.append(note)
    arrays = {}
    for split in counts:
        rows = np.array(used)[splits == split]
        arrays[f"{split}_x"], arrays[f"{split}_y"] = pixels[rows], labels[rows]
    content = hashlib.sha256()
    for i in sorted(used, key=lambda i: files[i].name):
        content.update(_encoded(files[i].name) + b"\0" + outcomes[i])  # pyright: ignore[reportOperatorIssue]
    return Decoded(arrays, content.hexdigest(), tuple(notes))


def decode_all(files: list[ImageFile], pixels: np.ndarray, progress: bool) -> list[bytes | str]:
    """Decode into ``pixels [N, C, H, W]``, cut from the centre; for each file the SHA-256 of its content, or why it cannot be decoded."""
    outcomes: list[bytes | str] = []
    show = progress and len(files) >= LARGE
    terminal = show and sys.stderr.isatty()
    if show:
        print(
            f"decoding {len(files):,} images, once",
            end="\r" if terminal else "\n",
            file=sys.stderr,
            flush=True,
        )
    last = time.monotonic()
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))  # Pillow decodes outside the interpreter's lock
    try:
        for i, (outcome, image) in enumerate(pool.map(lambda file: _decode(file, pixels.shape[1:]), files)):
            outcomes.append(outcome)
            if image is not None:
                pixels[i] = image
            if terminal and time.monotonic() - last > 0.5:
                last = time.monotonic()
                print(
                    f"decoding {len(files):,} images, once: {i + 1:,}", end="\r", file=sys.stderr, flush=True
                )
    finally:
        pool.shutdown(cancel_futures=True)
    if terminal:
        print(file=sys.stderr)
    return outcomes


def _decode(file: ImageFile, shape: tuple[int, ...]) -> tuple[bytes | str, np.ndarray | None]:
    from PIL import Image, ImageOps

    channels, height, width = shape
    try:
        content = file.path.read_bytes()
        with Image.open(io.BytesIO(content)) as stored:
            stored.load()
            image = _flat(ImageOps.exif_transpose(stored), "L" if channels == 1 else "RGB")
        fitted = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        text = re.sub(r" <_io\.BytesIO object at \w+>", "", str(error))  # the file is known by its name
        return f"{type(error).__name__}: {' '.join(text.split())}", None
    array = np.asarray(fitted)
    return hashlib.sha256(content).digest(), array[None] if channels == 1 else array.transpose(2, 0, 1)


def _flat(image, mode: str):  # type: ignore[no-untyped-def]  # PIL is imported late
    """A picture in ``mode`` L or RGB."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("float pixels have no agreed range")
    if image.mode.startswith("I"):  # 16 bits; Pillow itself would clip them to 8
        grey = np.asarray(image).astype(np.float64) / 65535 * 255
        image = Image.fromarray(np.rint(grey.clip(0, 255)).astype(np.uint8))
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour).convert("RGB")
    return image.convert(mode)


def _labels(names: list[str]) -> tuple[np.ndarray, str | None]:
    """Class numbers [N], or -1 throughout, and what they mean."""
    if not all("/" in name for name in names):
        return np.full(len(names), -1, np.int64), None
    owners = [name.partition("/")[0] for name in names]
    classes = sorted(set(owners))
    number = {name: i for i, name in enumerate(classes)}
    shown = ", ".join(classes[:SHOWN]) + (", ..." if len(classes) > SHOWN else "")
    return np.array(
        [number[owner] for owner in owners], np.int64
    ), f"labels 0 to {len(classes) - 1} are the subfolders {shown}"


def _digest(name: str) -> bytes:
    return hashlib.sha256(
        _encoded(unicodedata.normalize("NFC", name))
    ).digest()  # file systems differ in how they write ü


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
