"""Data sets as uint8 tensors, with the splits they are published with."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import io
import logging
import os
import socket
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaelab.data import arrays as own_arrays
from vaelab.data import cache, own, sources
from vaelab.data import folder as own_folder
from vaelab.data.sources import Availability, DataFile, Source
from vaelab.errors import SettingError

DOWNLOAD_TIMEOUT = 20.0  # seconds without a byte: torchvision itself would wait for ever
DIGITS_TEST = 360  # images, 20 %
FREY_TEST = 200  # images, the last of the film
EMNIST_SPLIT = "balanced"  # 47 classes of 2,400 + 400 images; its authors' choice for comparisons

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
        notes: what was done to the data that a person should know.
        identity: what numbers on these data are compared by: the name, and a digest where the name does not say which data.
    """

    name: str
    num_levels: int
    train: Split
    test: Split
    val: Split | None
    digests: dict[str, str]
    notes: tuple[str, ...] = ()
    identity: str = ""

    def __post_init__(self) -> None:
        if not self.identity:
            object.__setattr__(self, "identity", self.name)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width


def load(
    name: str, data_dir: str | Path, *, download: bool = True, progress: bool = True, **own_settings: Any
) -> ImageData:
    """Data set ``name``, from the decoded cache, the source files or a mirror, in this order.

    ``digits`` has no official split: its last 360 images (20 %) are the test split. The file seems to be in
    blocks by writer (over half of the nearest neighbours lie within 100 positions), so a random
    split would put every writer on both sides and flatter the test number (a nearest neighbour errs on 1 to
    2 % of a random test split, on 4.4 % of the tail).

    ``frey_faces`` neither: the last 200 of its 1,965 images, for the same reason (they are a film). ``emnist`` is the split
    ``balanced``, upright. ``caltech_silhouettes`` are upright and 1 where the object is (the file has 1 for the background).

    Args:
        progress: show torchvision's progress bar on a terminal while downloading, and say what was done to a person's own data.
        own_settings: of a person's own data, see :data:`vaelab.data.own.OWN`: ``path``, ``size``, ``channels``.

    Raises:
        SettingError: as :func:`vaelab.data.sources.require`; ``DataUnavailable`` also where a download fails
            or stalls; also where the data cannot be unpacked anywhere.
    """
    if _kept is None:
        return _load(name, data_dir, download=download, progress=progress, **own_settings)
    key = (name, str(data_dir), *sorted(own_settings.items()))
    if key not in _kept:
        _kept[key] = _load(name, data_dir, download=download, progress=progress, **own_settings)
    return _kept[key]


@contextmanager
def kept() -> Iterator[None]:
    """Within, what is loaded is kept for the next one who asks for it: runs of one process have one copy."""
    global _kept
    before, _kept = _kept, {} if _kept is None else _kept
    try:
        yield
    finally:
        _kept = before


_kept: dict[tuple[Any, ...], ImageData] | None = None


def _load(
    name: str, data_dir: str | Path, *, download: bool, progress: bool, **own_settings: Any
) -> ImageData:
    own.refuse_unread(name, **own_settings)
    if name in own.OWN:
        return _load_own(name, Path(data_dir), progress, **own_settings)
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
    if source.is_checked:
        cache.write(name, source.key, arrays, digests, found.data_dir)
    return _image_data(source, arrays, digests)


def _load_own(name: str, data_dir: Path, progress: bool, **settings: Any) -> ImageData:
    """A person's own data. A folder is decoded once; arrays are read each time."""
    path = own.require(name, **settings)
    if name == "arrays":
        read = own_arrays.read(path)
        arrays, digests, notes, num_levels = (
            read.arrays,
            {path.name: read.sha256},
            read.notes,
            read.num_levels,
        )
        identity = read.sha256
    else:
        size, channels = settings["size"], settings["channels"]
        arrays, digests, notes = _folder(path, size, channels, data_dir.expanduser().absolute(), progress)
        num_levels, identity = 256, hashlib.sha256(f"{digests} {size} {channels}".encode()).hexdigest()
    if progress and os.environ.get("LOCAL_RANK", "0") == "0":  # the ranks of one run read the same
        for note in notes:
            print(f"data.path={path}: {note}", file=sys.stderr)
    splits = _splits(arrays)
    return ImageData(
        name,
        num_levels,
        splits["train"],
        splits["test"],
        splits.get("val"),
        digests,
        notes,
        f"{name}:{identity[:12]}",
    )


def _folder(
    path: Path, size: int, channels: int, data_dir: Path, progress: bool
) -> tuple[dict[str, np.ndarray], dict[str, str], tuple[str, ...]]:
    files = own_folder.listing(path)
    key = own_folder.key(path, files, size, channels)
    for kept in cache.folders("folder", key, data_dir):
        try:
            return *cache.read(kept), cache.notes(kept)
        except cache.Damaged as error:
            logger.warning("the decoded cache is damaged and will be rebuilt: %s", error)
    decoded = own_folder.decode(path, files, size, channels, progress=progress)
    digests = {"images": decoded.sha256}
    cache.write("folder", key, decoded.arrays, digests, data_dir, decoded.notes)
    return decoded.arrays, digests, decoded.notes


def _splits(arrays: dict[str, np.ndarray]) -> dict[str, Split]:
    return {
        split: Split(torch.from_numpy(arrays[f"{split}_x"]), torch.from_numpy(arrays[f"{split}_y"]))
        for split in ("train", "test", "val")
        if f"{split}_x" in arrays
    }


def _image_data(source: Source, arrays: dict[str, np.ndarray], digests: dict[str, str]) -> ImageData:
    splits = _splits(arrays)
    identity = source.name
    if not source.is_checked:
        identity += f":{hashlib.sha256(str(sorted(digests.items())).encode()).hexdigest()[:12]}"
    return ImageData(
        source.name,
        source.num_levels,
        splits["train"],
        splits["test"],
        splits.get("val"),
        dict(digests),
        identity=identity,
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
        digests = {file.name: sources.verify(source, file, raw / file.name) for file in files}
        arrays = (
            _decode_idx(source, folder) if source.format == "idx" else _DECODERS[source.format](source, raw)
        )
    return arrays, digests


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


def _decode_emnist(source: Source, raw: Path) -> dict[str, np.ndarray]:
    """The split :data:`EMNIST_SPLIT` of the archive, turned upright: the images are stored column by column."""
    arrays = {}
    with zipfile.ZipFile(raw / source.files[0].name) as archive:
        for split in ("train", "test"):
            member = f"gzip/emnist-{EMNIST_SPLIT}-{split}-{{}}-ubyte.gz"
            images = _idx(gzip.decompress(archive.read(member.format("images-idx3"))))
            arrays[f"{split}_x"] = np.ascontiguousarray(images.transpose(0, 2, 1))[:, None]
            arrays[f"{split}_y"] = _idx(gzip.decompress(archive.read(member.format("labels-idx1")))).astype(
                np.int64
            )
    return arrays


def _idx(content: bytes) -> np.ndarray:
    """An idx file of unsigned bytes: 0 0 8 and the number of axes, their lengths as big-endian 32-bit numbers, the values."""
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(tuple(int(n) for n in shape))


def _decode_usps(source: Source, raw: Path) -> dict[str, np.ndarray]:
    """torchvision's pixels: its class maps [-1, 1] to 0 .. 255, rounding down."""
    from torchvision.datasets import USPS

    arrays = {}
    for split in ("train", "test"):
        dataset = USPS(str(raw), train=split == "train")
        arrays[f"{split}_x"] = np.ascontiguousarray(dataset.data)[:, None]
        arrays[f"{split}_y"] = np.asarray(dataset.targets, dtype=np.int64)
    return arrays


def _decode_frey(source: Source, raw: Path) -> dict[str, np.ndarray]:
    """28 x 20 pixels an image: the columns of the MATLAB matrix ``ff`` [560, N], or ``images`` [N, 28, 20] of the other form."""
    packed = raw / source.or_files[0].name
    if packed.is_file():
        with np.load(packed, allow_pickle=False) as archive:
            images = archive["images"]
    else:
        columns = _matlab(source, raw, {"ff": (560, None)})["ff"]
        images = columns.T.reshape(-1, 28, 20)
    x = np.ascontiguousarray(images)[:, None]
    y = np.full(len(x), -1, np.int64)
    return {
        "train_x": x[:-FREY_TEST],
        "train_y": y[:-FREY_TEST],
        "test_x": x[-FREY_TEST:],
        "test_y": y[-FREY_TEST:],
    }


def _decode_silhouettes(source: Source, raw: Path) -> dict[str, np.ndarray]:
    """28 x 28 pixels, stored column by column, 1 for the background: turned upright, and 1 for the object. Labels 0 to 100."""
    shapes = {
        f"{split}_{kind}": (None, width)
        for split in ("train", "val", "test")
        for kind, width in (("data", 784), ("labels", 1))
    }
    stored = _matlab(source, raw, shapes)
    arrays = {}
    for split in ("train", "val", "test"):
        images = stored[f"{split}_data"].reshape(-1, 28, 28).transpose(0, 2, 1)
        arrays[f"{split}_x"] = np.ascontiguousarray(1 - images)[:, None]
        arrays[f"{split}_y"] = stored[f"{split}_labels"].reshape(-1).astype(np.int64) - 1
    return arrays


def _matlab(source: Source, raw: Path, shapes: Mapping[str, Sequence[int | None]]) -> dict[str, np.ndarray]:
    """Matrices of bytes of a MATLAB file, of these names and shapes (None = any length). No digest says that it is the right file, so it is looked at."""
    from scipy.io import loadmat

    path = raw / source.files[0].name
    try:
        found = loadmat(path, variable_names=list(shapes))
    except Exception as error:  # whatever a file raises that is none
        raise SettingError(
            "data", source.name, f"{path.resolve()} cannot be read as a MATLAB file: {error}"
        ) from error
    for key, shape in shapes.items():
        matrix = np.asarray(found.get(key))  # of objects, where there is none
        is_matrix = matrix.dtype == np.uint8 and matrix.ndim == 2 and matrix.size > 0
        if not is_matrix or any(n not in (None, m) for n, m in zip(shape, matrix.shape, strict=True)):
            wanted = " x ".join("N" if n is None else str(n) for n in shape)
            raise SettingError(
                "data", source.name, f"{path.resolve()} holds no matrix {key} of {wanted} bytes"
            )
        if source.num_levels == 2 and key.endswith("_data") and matrix.max() > 1:
            raise SettingError("data", source.name, f"{path.resolve()}: {key} must hold 0 and 1 only")
    return found


_DECODERS: dict[str, Callable[[Source, Path], dict[str, np.ndarray]]] = {
    "bits": _decode_bits,
    "emnist": _decode_emnist,
    "usps": _decode_usps,
    "frey": _decode_frey,
    "silhouettes": _decode_silhouettes,
}


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
        size = "" if file.size is None else f" ({file.size / 1e6:.1f} MB)"
        print(f"downloading {file.name}{size} from {sources.host(url)}", file=sys.stderr)
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
