"""A finished run drawn again, and samples of it as files."""

from __future__ import annotations

import hashlib
import io
import math
import os
import secrets
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vaelab import figures
from vaelab.errors import RunFailed, SettingError
from vaelab.evidence.progress import Progress
from vaelab.experiments.assembly import build_trainer
from vaelab.experiments.check import check_sampling
from vaelab.experiments.recording import interruptible
from vaelab.experiments.screen import quiet_lightning
from vaelab.experiments.stored import Stored, open_run
from vaelab.experiments.train import draw_animation
from vaelab.runs import read_manifest
from vaelab.runs.frames import Frames
from vaelab.runs.metrics import OWN
from vaelab.runs.metrics import read as read_metrics
from vaelab.training.arithmetic import full_float32
from vaelab.training.pictures import NO_IMAGES, PICTURES, Artist, named
from vaelab.training.progress import parts_progress
from vaelab.training.samples import BLOCK, Sampler


def sample(options: dict[str, Any]) -> list[Path]:
    """Draw a run's pictures, and write samples as files, into a folder of ``samples/`` in the run directory that is named after what they are of.

    Each file is whole or not there. The same options make the same files; of more samples the first ones are the same.

    Args:
        options: ``run``, ``what`` (``all`` or a list), ``checkpoint``, ``seed`` (None = the run's), ``num_samples``, ``single_images``, ``pixels``, ``dtype``,
            ``temperature``, ``label``, ``from_image``, ``to_image``, ``arithmetic``, ``trainer.accelerator`` (None = the run's), ``paths``.

    Returns:
        the files written.

    Raises:
        SettingError: an option that this run could not follow; nothing was written.
        RunFailed: it was interrupted, and the files that are done are kept; or the run's codes are not finite, and nothing was written.
    """
    asked = check_sampling(options)
    quiet_lightning()
    # one device, whatever the run was trained on
    one = {"accelerator": options["trainer"]["accelerator"], "devices": 1, "strategy": "auto"}
    stored = open_run({**options, "trainer": one}, None)
    stored.say()
    artist = _artist(stored, options)
    frames = Frames(stored.run.frames)
    rows = read_metrics(stored.run.metrics_file, OWN) if stored.run.metrics_file.is_file() else []
    without = artist.undrawable()
    if not artist.generates:
        without |= dict.fromkeys(("images", "npz"), NO_IMAGES)
    if not rows:
        without["learning_curves"] = "there is no metrics.csv: these weights are from elsewhere"
    if not frames.steps():
        without["animation"] = (
            "the training kept no frames (callbacks=none, a classifier, or an older version)"
        )
    elif "animation" in asked:
        try:
            frames.read()  # refused before anything is written
        except SettingError as error:  # somebody has changed a frame: no reason to do without the rest
            without["animation"] = str(error)
    pairs, classes = _pairs(artist, options), _classes(artist, options, without)
    if options["what"] != "all":
        for name in asked:
            if name in without:
                raise SettingError("what", name, f"cannot be made: {without[name]}")
    if "npz" in asked and "npz" not in without:
        _check_room(stored.run.path, artist.sampler, options)
    if {"traversal", "interpolation", "arithmetic", "latents"} & {*asked} - without.keys():
        lost = int((~artist.codes.means.isfinite().all(1)).sum())
        if lost:
            rule = f"the codes of {lost} of {len(artist.codes.means)} test images are not finite: the run diverged"
            raise RunFailed(f"{stored.run.path}: {rule}")
    folder = stored.run.path / "samples" / _folder_name(artist.sampler, options)
    made: list[Path] = []

    def what_next() -> str:
        return f"{len(made)} files are done, in {folder}; the same command begins again"

    with interruptible(what_next), full_float32(), parts_progress() as progress:
        for name in asked:
            if name in without:
                print(f"no {name}: {without[name]}", flush=True)
                continue
            folder.mkdir(parents=True, exist_ok=True)
            match name:
                case "npz":
                    files = [_timed_npz(folder / "samples.npz", artist.sampler, options, progress)]
                case "images":
                    files = _write_images(
                        folder / "images", artist.sampler, options["single_images"], progress
                    )
                case "animation":
                    gif = draw_animation(stored.run, folder, stored.parts.plan.steps_per_epoch)
                    files = [] if gif is None else [gif]
                case "learning_curves":
                    best_step = read_manifest(stored.run).get("best_step")
                    files = [
                        figures.save(
                            figures.learning_curves(rows, best_step=best_step), folder / f"{name}.png"
                        )
                    ]
                case _:
                    given = {"interpolation": pairs, "arithmetic": classes}.get(name)
                    picture = PICTURES[name](artist) if given is None else getattr(artist, name)(given)
                    title = name if given is None else f"{name}_{_words(given)}"
                    files = [
                        figures.save(page, folder / f"{key}.png")
                        for key, page in named(title, picture).items()
                    ]
            made.extend(files)
    if "interpolation" in asked and "interpolation" not in without and artist.not_spherical is not None:
        print(f"no spherical interpolation: {artist.not_spherical}", flush=True)
    for path in _shown(made):
        print(path)
    return made


def _artist(stored: Stored, options: Mapping[str, Any]) -> Artist:
    """Who draws the run as ``options`` say, on their device."""
    module, data = stored.parts.module, stored.parts.data
    labels = _list(options["label"])
    num_classes = module.evaluated.num_classes
    if labels is not None:
        if not num_classes:
            rule = "this model is not conditional on labels; train one with model=conditional"
            raise SettingError("label", options["label"], rule)
        if max(labels) >= num_classes:
            raise SettingError(
                "label", options["label"], f"must be from 0 to {num_classes - 1}, the classes of the data"
            )
    device = build_trainer(stored.parts).strategy.root_device
    module.evaluated.to(device)
    data.move_to(device, next(module.evaluated.parameters()).dtype)
    return Artist(
        module.evaluated,
        data,
        module.noise,
        generates=module.objective.learns_evidence,
        classes=labels,
        pixels=options["pixels"],
        temperature=float(options["temperature"]),
    )


def _check_room(folder: Path, sampler: Sampler, options: Mapping[str, Any]) -> None:
    """Refuse more images than the disk takes."""
    each = math.prod(sampler.data.image_shape) * np.dtype(options["dtype"]).itemsize
    size, free = options["num_samples"] * each, shutil.disk_usage(folder).free
    if size > free:
        rule = f"they take {_bytes(size)} in {options['dtype']}, and {_bytes(free)} of the disk are free"
        raise SettingError("num_samples", options["num_samples"], rule)


def _pairs(artist: Artist, options: Mapping[str, Any]) -> list[tuple[int, int]] | None:
    """The test images between which is interpolated; None = the usual ones."""
    ends = [_list(options[setting]) for setting in ("from_image", "to_image")]
    if ends[0] is None or ends[1] is None:
        return None
    size = artist.data.size("test")
    for setting, images in zip(("from_image", "to_image"), ends, strict=True):
        if images is not None and max(images) >= size:
            raise SettingError(setting, options[setting], f"must be from 0 to {size - 1}, the test images")
    return list(zip(*ends, strict=True))


def _classes(
    artist: Artist, options: Mapping[str, Any], without: Mapping[str, str]
) -> tuple[int, int] | None:
    """The two classes of the arithmetic; None = all."""
    given = options["arithmetic"]
    if given is None:
        return None
    if "arithmetic" in without:
        raise SettingError("arithmetic", given, f"cannot be done: {without['arithmetic']}")
    present = set(artist.codes.y.tolist())
    for value in given:
        if value not in present:
            raise SettingError(
                "arithmetic",
                given,
                f"the first {len(artist.codes.y):,} test images have no class {value}; they have {', '.join(map(str, sorted(present)))}",
            )
    return given[0], given[1]


def _list(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    return tuple(value) if isinstance(value, list) else (value,)


def _folder_name(sampler: Sampler, options: Mapping[str, Any]) -> str:
    """``selected_seed0``, and whatever else makes other samples of the same weights."""
    name = f"{options['checkpoint']}_seed{sampler.noise.seed}"
    if sampler.classes is not None:
        name += "_label" + "-".join(map(str, sampler.classes))
    if sampler.temperature != 1.0:
        name += f"_temperature{sampler.temperature:g}"
    return name if sampler.pixels == "mean" else f"{name}_{sampler.pixels}"


#: pairs that a file's name names
NAMED = 4


def _words(given: list[tuple[int, int]] | tuple[int, int]) -> str:
    """Images, or classes, as a part of a file's name: others have another name.

    >>> _words((4, 9)), _words([(0, 1), (2, 3)])
    ('4_to_9', '0_to_1_and_2_to_3')
    >>> _words([(0, i) for i in range(9)]) == _words([(0, i) for i in range(8)] + [(5, 5)])
    False
    """
    pairs = given if isinstance(given, list) else [given]
    words = [f"{first}_to_{last}" for first, last in pairs]
    if len(words) <= NAMED:
        return "_and_".join(words)
    digest = hashlib.sha256(",".join(words).encode()).hexdigest()[:6]
    return f"{words[0]}_and_{len(words) - 1}_more_{digest}"


def _shown(files: list[Path]) -> list[Path]:
    """The files, with one line for a folder of many."""
    shown = [path if path.parent.name != "images" else path.parent for path in files]
    return list(dict.fromkeys(shown))


def _write_images(folder: Path, sampler: Sampler, n: int, progress: Progress) -> list[Path]:
    """A PNG file of each of the first ``n`` images, as large as it is."""
    folder.mkdir(exist_ok=True)
    labels = sampler.labels(torch.arange(n))
    files: list[Path] = []
    for images in sampler.batches(n):
        for levels in _uint8(images.numpy()):
            label = "" if labels is None else f"_label{int(labels[len(files)])}"
            path = folder / f"sample_{len(files):05d}{label}.png"
            content = io.BytesIO()
            pixels = levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1)
            Image.fromarray(pixels).save(content, "PNG")
            with _whole(path) as beside:
                beside.write_bytes(content.getvalue())
            files.append(path)
        progress("images", len(files), n)
    return files


def _timed_npz(path: Path, sampler: Sampler, options: Mapping[str, Any], progress: Progress) -> Path:
    n, started = options["num_samples"], time.perf_counter()
    write_npz(path, sampler, n, options["dtype"], progress)
    seconds, size = time.perf_counter() - started, path.stat().st_size
    print(f"{n:,} images in {seconds:.2f} s, {n / seconds:,.0f} images/s: {_bytes(size)}", flush=True)
    return path


def write_npz(path: Path, sampler: Sampler, n: int, dtype: str, progress: Progress | None = None) -> None:
    """The images as they are made, so that as many fit as the disk takes: ``images [n, C, H, W]``, and ``labels [n]`` where the model takes some.

    Stored and not packed: zlib takes several times as long as the networks.

    Args:
        path: the ``.npz`` file, which is whole or not there.
        sampler: makes the images.
        n: how many.
        dtype: ``float32``, from 0 to 1; ``uint8``, 255 times that, rounded.
        progress: is told how many are done.
    """
    with _whole(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        with _member(archive, "images", (n, *sampler.data.image_shape), np.dtype(dtype)) as write:
            done = 0
            for images in sampler.batches(n):
                pixels = images.numpy()
                write(_uint8(pixels) if dtype == "uint8" else pixels)
                done += len(images)
                if progress is not None:
                    progress("npz", done, n)
        if sampler.labels(torch.arange(0)) is not None:
            with _member(archive, "labels", (n,), np.dtype(np.int64)) as write:
                for start in range(0, n, BLOCK):
                    labels = sampler.labels(torch.arange(start, min(start + BLOCK, n)))
                    assert labels is not None
                    write(labels.numpy())


@contextmanager
def _member(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[Any]:
    """An array of an ``.npz`` file that is written part by part."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda part: file.write(np.ascontiguousarray(part, dtype).data)


def _uint8(images: np.ndarray) -> np.ndarray:
    return np.rint(images * 255).astype(np.uint8)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file to write in the place of ``path``, which it takes at the end; nothing is left of one that is interrupted."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        raise RunFailed(f"{path} could not be written: {error}") from error
    finally:
        beside.unlink(missing_ok=True)


def _bytes(size: int) -> str:
    """
    >>> _bytes(3_210), _bytes(3_210_000), _bytes(3_210_000_000)
    ('3.2 kB', '3.2 MB', '3.2 GB')
    """
    number, unit = (1e3, "kB") if size < 1e6 else (1e6, "MB") if size < 1e9 else (1e9, "GB")
    return f"{size / number:,.1f} {unit}"
