"""``data=arrays``: images of a person's own in one ``.npz`` file."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vaelab.errors import SettingError

SPLITS = ("train", "val", "test")
KEYS = (*SPLITS, *(f"{split}_labels" for split in SPLITS))
CHANNELS = (1, 3)
LAYOUT = (
    "images are [N, H, W], [N, H, W, C] or [N, C, H, W] with C of 1 or 3: of four axes, exactly one of the second and the last "
    "must be 1 or 3, and that one is C"
)
CHUNK = 4096  # images; bounds the memory of temporary copies


@dataclass(frozen=True)
class Arrays:
    """What a file holds, as the cache holds data sets: ``<split>_x`` uint8 [N, C, H, W], ``<split>_y`` int64 [N].

    Attributes:
        num_levels: 256, or 2 where there is nothing but 0 and 1.
        sha256: of the file.
        notes: what was done to the data, for the screen and the record.
    """

    arrays: dict[str, np.ndarray]
    num_levels: int
    sha256: str
    notes: tuple[str, ...]


def read(path: Path) -> Arrays:
    """Images and labels of ``path``, a file of :func:`numpy.savez`.

    Keys: ``train``, optionally ``val``, ``test`` and ``train_labels``, ``val_labels``, ``test_labels`` (integers [N], -1 = unlabelled).
    Images are uint8 (0 to 255), bool, or float in [0, 1], which is rounded to 256 levels. Where all of them are 0 or 1, the data are
    binary: 2 levels. For the order of axes see :data:`LAYOUT`.

    A file without ``test`` or ``val`` has its training images put in a fixed order that is none of the file's (by the SHA-256 of their
    number), because files are often sorted by class; without ``test`` the last tenth of them is the test split, and what validation takes is
    cut from the end of the rest by :class:`~vaelab.data.datamodule.ImageDataModule`. Images that resemble their neighbours, such as
    the frames of a film, need a split of the person's own: any other puts near-duplicates on both sides.

    Raises:
        SettingError: ``data.path``, with the key and the rule that it breaks.
    """

    def refused(rule: str) -> SettingError:
        return SettingError("data.path", path, rule)

    stored, sha256 = _stored(path)
    if "train" not in stored:
        raise refused(
            f"has no key train; it has {', '.join(stored) or 'none'}, and may have {', '.join(KEYS)}"
        )
    notes = []
    if unused := [key for key in stored if key not in KEYS]:
        notes.append(f"keys that nobody reads: {', '.join(unused)} (may have {', '.join(KEYS)})")
    for split in SPLITS:
        if f"{split}_labels" in stored and split not in stored:
            raise refused(f"has {split}_labels without {split}")
    present = [split for split in SPLITS if split in stored]
    for split in present:
        if rule := _unusable(stored[split]):
            raise refused(f"key {split}: {rule}")
    kinds = {split: stored[split].dtype.kind for split in present}
    if len(set(kinds.values())) > 1:
        types = ", ".join(f"{split} {stored[split].dtype}" for split in present)
        raise refused(f"the keys must be of one kind: all uint8, all bool or all float; they are {types}")
    images = {split: _channels_first(stored[split]) for split in present}
    shapes = {split: x.shape[1:] for split, x in images.items()}
    if len(set(shapes.values())) > 1:
        sizes = ", ".join(f"{split} {list(shape)}" for split, shape in shapes.items())
        raise refused(f"the images must have one shape [C, H, W]; they have {sizes}")
    labels = {}
    for split, x in images.items():
        found = stored.get(f"{split}_labels")
        if found is not None and (rule := _unusable_labels(found, len(x))):
            raise refused(f"key {split}_labels: {rule}")
        labels[split] = np.full(len(x), -1, np.int64) if found is None else found.reshape(-1).astype(np.int64)

    levels = {}
    is_binary = _is_binary(list(images.values()))
    if is_binary:
        notes.append("nothing but 0 and 1: binary data of 2 levels")
        levels = {split: np.ascontiguousarray(x, dtype=np.uint8) for split, x in images.items()}
    elif kinds["train"] == "f":
        levels, moved = _rounded(images)
        notes.append(f"float pixels are rounded to 256 levels; none moves by more than {moved:.2g}")
    else:
        levels = {split: np.ascontiguousarray(x, dtype=np.uint8) for split, x in images.items()}
    if len(present) < len(SPLITS):
        missing = " and ".join(split for split in SPLITS if split not in present)
        order = fixed_order(len(levels["train"]))
        levels["train"], labels["train"] = levels["train"][order], labels["train"][order]
        notes.append(
            f"no key {missing}: the training images are put in a fixed order, by the SHA-256 of their number"
        )
    if "test" not in present:
        if len(levels["train"]) < 2:
            raise refused(
                "key train: too few images: one; without a key test a tenth of them, one at least, is the test split"
            )
        cut = len(levels["train"]) - max(1, len(levels["train"]) // 10)
        for parts in (levels, labels):
            parts["train"], parts["test"] = parts["train"][:cut], parts["train"][cut:]
        notes.append(
            f"no key test: the last tenth in that order, {len(levels['test'])} images, is the test split"
        )
    arrays = {f"{split}_x": np.ascontiguousarray(x) for split, x in levels.items()}
    arrays |= {f"{split}_y": np.ascontiguousarray(y) for split, y in labels.items()}
    return Arrays(arrays, 2 if is_binary else 256, sha256, tuple(notes))


@dataclass(frozen=True)
class Stack:
    """The images of one key of a file: uint8 ``x [N, C, H, W]`` of ``num_levels`` levels, labels ``y [N]`` (-1 = unlabelled), and the SHA-256 of the file."""

    x: np.ndarray
    y: np.ndarray
    num_levels: int
    sha256: str
    notes: tuple[str, ...]


def read_stack(path: Path) -> Stack:
    """The images of a file of :func:`numpy.savez` under the key ``images``, such as those that vae-sample writes, or else ``test``; labels ``labels`` or ``test_labels``.

    What images and labels may be is the same as in :func:`read`.

    Raises:
        SettingError: ``data.path``, with the key and the rule that it breaks.
    """
    stored, sha256 = _stored(path)
    key = next((key for key in ("images", "test") if key in stored), None)
    if key is None:
        raise SettingError(
            "data.path", path, f"has neither the key images nor test; it has {', '.join(stored) or 'none'}"
        )
    labels_key = "labels" if key == "images" else "test_labels"
    if rule := _unusable(stored[key]):
        raise SettingError("data.path", path, f"key {key}: {rule}")
    x, y = _channels_first(stored[key]), stored.get(labels_key)
    if y is not None and (rule := _unusable_labels(y, len(x))):
        raise SettingError("data.path", path, f"key {labels_key}: {rule}")
    labels = np.full(len(x), -1, np.int64) if y is None else y.reshape(-1).astype(np.int64)
    notes = [f"key {key}"]
    if _is_binary([x]):
        notes.append("nothing but 0 and 1: binary data of 2 levels")
        return Stack(np.ascontiguousarray(x, dtype=np.uint8), labels, 2, sha256, tuple(notes))
    if x.dtype.kind == "f":
        levels, moved = _rounded({key: x})
        notes.append(f"float pixels are rounded to 256 levels; none moves by more than {moved:.2g}")
        return Stack(levels[key], labels, 256, sha256, tuple(notes))
    return Stack(np.ascontiguousarray(x, dtype=np.uint8), labels, 256, sha256, tuple(notes))


def fixed_order(n: int) -> np.ndarray:
    """A permutation of 0 .. n - 1 that looks random and depends on n alone: sorted by SHA-256."""
    digests = [hashlib.sha256(str(number).encode()).digest() for number in range(n)]
    return np.array(sorted(range(n), key=digests.__getitem__), dtype=np.int64)


def _stored(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays as they are, and the digest of the file."""
    try:
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no archive of arrays")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}, sha256
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        NotImplementedError,  # zipfile's word for a compression that it does not know
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        rule = (
            f"cannot be read as a file of numpy.savez without pickled objects: {' '.join(str(error).split())}"
        )
        raise SettingError("data.path", path, rule) from error


def _unusable(x: np.ndarray) -> str | None:
    """Why an array holds no images, or None."""
    if not (x.dtype == np.uint8 or x.dtype.kind in "bf"):
        return f"pixels must be uint8 (0 to 255), bool or float in [0, 1]; they are {x.dtype}"
    if x.size == 0:
        return f"holds no images; its shape is {list(x.shape)}"
    if x.ndim not in (3, 4) or (x.ndim == 4 and (x.shape[1] in CHANNELS) == (x.shape[3] in CHANNELS)):
        return f"{LAYOUT}; its shape is {list(x.shape)}"
    if x.dtype.kind == "f":
        low, high = x.min(), x.max()  # NaN where there is one
        if not np.isfinite([low, high]).all():
            return "pixels must be finite; there are NaN or infinite ones"
        if low < 0 or high > 1:
            return f"float pixels must lie in [0, 1]; they reach from {low:g} to {high:g}"
    return None


def _unusable_labels(y: np.ndarray, num_images: int) -> str | None:
    if y.dtype.kind not in "iu" or y.shape not in ((num_images,), (num_images, 1)):
        return (
            f"must be integers, one for each of the {num_images} images; they are {y.dtype} {list(y.shape)}"
        )
    if y.min() < -1 or y.max() > 2**31:
        return f"must be integers >= 0, or -1 for unlabelled; they reach from {y.min()} to {y.max()}"
    return None


def _channels_first(x: np.ndarray) -> np.ndarray:
    """A view [N, C, H, W]; see :data:`LAYOUT`."""
    if x.ndim == 3:
        return x[:, None]
    return x if x.shape[1] in CHANNELS else np.moveaxis(x, -1, 1)


def _is_binary(images: list[np.ndarray]) -> bool:
    """Whether all pixels are 0 or 1, and not all 0."""
    if max(x.max() for x in images) != 1:
        return False
    return all(
        ((x[i : i + CHUNK] == 0) | (x[i : i + CHUNK] == 1)).all()
        for x in images
        for i in range(0, len(x), CHUNK)
    )


def _rounded(images: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
    """Level = round(255 x), and the largest change of a pixel."""
    moved, levels = 0.0, {}
    for split, x in images.items():
        levels[split] = np.empty(x.shape, np.uint8)
        for i in range(0, len(x), CHUNK):
            scaled = x[i : i + CHUNK].astype(np.float64) * 255
            rounded = np.rint(scaled)
            moved = max(moved, float(np.abs(scaled - rounded).max()) / 255)
            levels[split][i : i + CHUNK] = rounded
    return levels, moved
