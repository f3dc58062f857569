"""Data sets as uint8 tensors, with the splits they are published with."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import logging
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vaelab.data import cache, sources
from vaelab.data.sources import Availability, DataFile, Source
from vaelab.errors import SettingError

DOWNLOAD_TIMEOUT = 20.0  # seconds without a byte: torchvision itself would wait for ever
DIGITS_TEST = 360  # images, 20 %

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Images ``x`` uint8 ``[N, C, H, W]`` and labels ``y`` int64 ``[N]`` (-1 = unlabelled)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class ImageData:
    """A data set with its official splits.

    Args:
        num_levels: pixels are integers 0 .. num_levels - 1.
        val: an official validation split, or None: then it is cut from ``train``.
        digests: source file name -> sha256 (for the digits: array name -> sha256 of its uint8 values).
    """

    name: str
    num_levels: int
    train: Split
    test: Split
    val: Split | None
    digests: dict[str, str]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width


def load(name: str, data_dir: str | Path, *, download: bool = True, progress: bool = True) -> ImageData:
    """Data set ``name``, from the decoded cache, the source files or a mirror, in this order.

    ``digits`` has no official split: its last 360 images (20 %) are the test split. The file seems to be in
    blocks by writer (over half of the nearest neighbours lie within 100 positions), so a random
    split would put every writer on both sides and flatter the test number (a nearest neighbour errs on 1 to
    2 % of a random test split, on 4.4 % of the tail).

    Args:
        progress: show torchvision's progress bar on a terminal while downloading.

    Raises:
        SettingError: as :func:`vaelab.data.sources.require`; ``DataUnavailable`` also where a download fails
            or stalls; also where the data cannot be unpacked anywhere.
    """
    found = sources.require(name, data_dir, download=download)
    source = sources.SOURCES[name]
    for folder in cache.folders(name, source.key, found.data_dir):
        try:
            arrays, digests = cache.read(folder)
        except cache.Damaged as error:
            logger.warning("the decoded cache is damaged and will be rebuilt: %s", error)
            continue
        return _image_data(source, arrays, digests)
    if found.found == "cache":
        found = sources.require_source(name, data_dir, download=download)
    try:
        arrays, digests = (
            _decode_digits(source) if source.embedded else _decode_files(source, found, progress)
        )
    except OSError as error:
        raise SettingError("paths.data_dir", data_dir, f"the data cannot be decoded: {error}") from error
    cache.write(name, source.key, arrays, digests, found.data_dir)
    return _image_data(source, arrays, digests)


def _image_data(source: Source, arrays: dict[str, np.ndarray], digests: dict[str, str]) -> ImageData:
    splits = {
        split: Split(torch.from_numpy(arrays[f"{split}_x"]), torch.from_numpy(arrays[f"{split}_y"]))
        for split in ("train", "test", "val")
        if f"{split}_x" in arrays
    }
    return ImageData(
        source.name, source.num_levels, splits["train"], splits["test"], splits.get("val"), dict(digests)
    )


def _decode_digits(source: Source) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from sklearn.datasets import load_digits  # seconds to import, and only the first use needs it

    data, target = load_digits(return_X_y=True)
    images = np.asarray(data).astype(np.uint8).reshape(-1, 8, 8)
    labels = np.asarray(target).astype(np.uint8)
    digests = {}
    for file, array in zip(source.files, (images, labels), strict=True):
        digests[file.name] = hashlib.sha256(array.tobytes()).hexdigest()
        if digests[file.name] != file.sha256:
            where = f"sklearn.datasets.load_digits().{file.name}"
            raise sources.DamagedFile(
                source.name, where, f"sha256 {file.sha256}", f"sha256 {digests[file.name]}"
            )
    x, y = images[:, None], labels.astype(np.int64)
    arrays = {
        "train_x": x[:-DIGITS_TEST].copy(),
        "train_y": y[:-DIGITS_TEST].copy(),
        "test_x": x[-DIGITS_TEST:].copy(),
        "test_y": y[-DIGITS_TEST:].copy(),
    }
    return arrays, digests


def _decode_files(
    source: Source, found: Availability, progress: bool
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Decode in a temporary folder of links, because torchvision leaves extracted files where it reads."""
    with cache.staging(found.data_dir) as folder:
        raw = folder / source.folder
        raw.mkdir(parents=True)
        for path in found.files:
            (raw / path.name).symlink_to(path.resolve())
        if found.found == "network":
            _download(source, found, raw, progress)
        files = [file for file in source.files + source.or_files if (raw / file.name).is_file()]
        for file in files:
            sources.verify(source, file, raw / file.name)
        arrays = _decode_idx(source, folder) if source.format == "idx" else _decode_bits(source, raw)
    return arrays, {file.name: file.sha256 for file in files}


def _decode_idx(source: Source, root: Path) -> dict[str, np.ndarray]:
    from torchvision import datasets  # seconds to import, and only the first use needs it

    parent = getattr(datasets, source.folder.split("/")[0])
    resources = [(file.name, file.md5) for file in source.files]
    # The class name makes the folder. The empty mirror is never opened: all files are there.
    family = type(parent.__name__, (parent,), {"resources": resources, "mirrors": [""]})
    arrays = {}
    for split in ("train", "test"):
        dataset = family(root, train=split == "train", download=True)
        arrays[f"{split}_x"] = dataset.data[:, None].contiguous().numpy().copy()
        arrays[f"{split}_y"] = dataset.targets.numpy().copy()
    return arrays


def _decode_bits(source: Source, raw: Path) -> dict[str, np.ndarray]:
    """Larochelle's rows of 784 binary pixels, from the packed form (8 pixels a byte) or the text."""
    packed = next((raw / file.name for file in source.or_files if (raw / file.name).is_file()), None)
    if packed is not None:
        with np.load(packed, allow_pickle=False) as archive:
            rows = {key: np.unpackbits(archive[key], axis=1) for key in ("train", "valid", "test")}
    else:
        rows = {}
        for key, file in zip(("train", "valid", "test"), source.files, strict=True):
            text = np.fromfile(raw / file.name, dtype=np.uint8).reshape(-1, 2 * 784)
            rows[key] = text[:, ::2] - ord("0")
    arrays = {}
    for split, key in (("train", "train"), ("val", "valid"), ("test", "test")):
        arrays[f"{split}_x"] = np.ascontiguousarray(rows[key]).reshape(-1, 1, 28, 28)
        arrays[f"{split}_y"] = np.full(len(rows[key]), -1, dtype=np.int64)
    return arrays


def _download(source: Source, found: Availability, raw: Path, progress: bool) -> None:
    """Fetch what is missing into ``raw``, then keep it where torchvision and other tools look for it."""
    for file in source.files:
        if (raw / file.name).exists():
            continue
        failures = []
        for mirror in found.mirrors:
            failure = _fetch(f"{mirror}{file.name}", file, raw, progress)
            if failure is None:
                break
            failures.append(f"{sources.host(mirror)}: {failure}")
        else:
            missing = [other for other in source.files if not (raw / other.name).exists()]
            raise sources.unavailable(source, found.data_dir, missing, failures)
        sources.verify(source, file, raw / file.name)
        for place in cache.places(found.data_dir):
            try:
                cache.publish(raw / file.name, place.files / source.folder)
                break
            except OSError:  # read-only, full, ...: the next place
                continue


def _fetch(url: str, file: DataFile, raw: Path, progress: bool) -> str | None:
    """None, or why ``url`` did not come; then nothing of it is left."""
    from torchvision.datasets.utils import download_url

    bar = progress and sys.stderr.isatty()
    if progress:
        print(f"downloading {file.name} ({file.size / 1e6:.1f} MB) from {sources.host(url)}", file=sys.stderr)
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT), contextlib.nullcontext() if bar else _quiet():
            download_url(url, raw, filename=file.name, md5=file.md5)
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        (raw / file.name).unlink(missing_ok=True)
        return sources.reason(error, DOWNLOAD_TIMEOUT)
    return None


def _quiet() -> contextlib.redirect_stderr[io.StringIO]:
    return contextlib.redirect_stderr(io.StringIO())


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
