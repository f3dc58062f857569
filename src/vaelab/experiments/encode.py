"""The codes of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaelab.batch import Batch
from vaelab.data.images import Images
from vaelab.errors import RunFailed, SettingError
from vaelab.evidence import BoundEstimator, exact
from vaelab.experiments.check_measured import check_encoding
from vaelab.experiments.measured import Measured, open_measured, say_unreadable
from vaelab.experiments.ranks import refuse_tasks
from vaelab.experiments.recording import interruptible
from vaelab.experiments.screen import quiet_lightning
from vaelab.noise import ImageDraws
from vaelab.runs import write_atomically
from vaelab.training import parts_progress
from vaelab.training.arithmetic import full_float32
from vaelab.training.per_image import archive


def encode(options: dict[str, Any]) -> Path:
    """Write the codes of a split, or of images from elsewhere, into ``codes/`` of the run directory.

    The file has ``mean`` and ``stddev`` of q(z|x) ``[N, D]`` (``z``, the code at zero noise, where q has no known mean); ``elbo``, ``rate``, ``distortion`` ``[N]`` in nats; ``label``
    (-1 = none), ``index`` and, of image files, their ``name`` ``[N]``; and as single words ``bound_is`` (nll, grey-bce, ...) and the digest of the ``weights``. Of several layers the code
    is the topmost. The same command writes the same bytes.

    Args:
        options: ``run``, ``checkpoint``, ``split`` (None = test), ``images`` (None = those of the split), ``num_samples`` (of the bound), ``seed`` (None = the run's), ``trainer``,
            ``paths``.

    Returns:
        the file.

    Raises:
        SettingError: nothing was written.
        RunFailed: it was interrupted, or a number is not finite, and nothing was written; or some files could not be read, and the others are written.
    """
    refuse_tasks("vae-encode")
    check_encoding(options)
    quiet_lightning()
    run = open_measured(options)
    found, split = None, options["split"] or "test"
    if options["images"] is not None:
        split = "images"
        found = run.bring(split, "images", options["images"], options["paths"]["data_dir"])
    size = run.data.size(split)
    if size == 0:
        raise SettingError("split", split, "the run has no validation images (data.val_size=0)")
    _check_labels(run, found, options["images"])
    folder = run.stored.run.path / "codes"
    name = split if found is None else found.identity.replace(":", "_")
    path = folder / f"{name}_{options['checkpoint']}_seed{run.noise.seed}.npz"
    bound = BoundEstimator(options["num_samples"])

    def values(batch: Batch, draws: ImageDraws) -> dict[str, Tensor]:
        columns = bound(run.model, batch, draws)
        with torch.no_grad():
            layer = run.model.encode(batch)
        return {
            **({"z": layer.z[0]} if layer.mean is None else {"mean": layer.mean}),
            **({} if layer.stddev is None else {"stddev": layer.stddev}),
            **{name: exact(columns[name]) for name in ("elbo", "rate", "distortion")},
            "label": batch.y,
        }

    begins_again = f"{path} is not written, and the same command begins again"
    with interruptible(lambda: begins_again), full_float32(), parts_progress() as progress:
        columns = run.values("codes", split, torch.arange(size), bound.images_at_once, values, progress)
    for name, values_of in columns.items():
        if lost := int((~np.isfinite(values_of).reshape(size, -1).all(1)).sum()):
            raise RunFailed(
                f"{name} of {lost} of {size} images is not finite, and nothing is written: the run diverged"
            )
    columns |= {
        "index": np.arange(size),
        "bound_is": np.array(run.label),
        "weights": np.array(run.stored.weights),
    }
    if found is not None and found.names is not None:
        columns["name"] = np.array(found.names)
    folder.mkdir(exist_ok=True)
    write_atomically(path, archive(columns))
    print(_summary(columns, run.label))
    print(path)
    if found is not None:
        say_unreadable(found, "images", options["images"])
    return path


def _check_labels(run: Measured, found: Images | None, where: object) -> None:
    """A model of p(x|y) has codes of labelled images only."""
    classes = run.model.num_classes
    if classes == 0 or run.model.infers_labels or found is None:
        return
    if found.y.min() < 0 or found.y.max() >= classes:
        rule = f"the model is conditional, and needs a label from 0 to {classes - 1} for each image (key labels of a .npz file)"
        raise SettingError("images", where, rule)


def _summary(columns: dict[str, np.ndarray], label: str) -> str:
    code = columns["mean"] if "mean" in columns else columns["z"]
    kind = (
        "mean and stddev"
        if "stddev" in columns
        else "mean"
        if "mean" in columns
        else "z at zero noise, as q(z|x) has no known mean"
    )
    means = ", ".join(f"{name} {columns[name].mean():.2f}" for name in ("elbo", "rate", "distortion"))
    return f"{len(code):,} codes of {code.shape[1]} dimensions ({kind}); {means} ({label}, nats per image)"
