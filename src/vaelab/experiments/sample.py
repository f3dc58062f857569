"""A finished run drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vaelab.errors import integer
from vaelab.experiments.check import check_evaluation
from vaelab.experiments.screen import quiet_lightning
from vaelab.experiments.stored import open_run
from vaelab.experiments.train import draw_pictures
from vaelab.runs import read_manifest
from vaelab.training.pictures import Artist


def sample(options: dict[str, Any]) -> list[Path]:
    """Draw a run's pictures, and write samples as numbers, into ``samples/<checkpoint>_seed<seed>/`` of the run directory.

    Args:
        options: ``run``, ``checkpoint``, ``seed`` (None = the run's), ``num_samples``, ``paths``.

    Returns:
        the files written.
    """
    check_evaluation(options)
    integer("num_samples", options["num_samples"], 1)
    quiet_lightning()
    stored = open_run(options, None)
    artist = Artist(stored.parts.module.evaluated, stored.parts.data, stored.parts.module.noise)
    folder = stored.run.path / "samples" / f"{options['checkpoint']}_seed{artist.noise.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    best_step = read_manifest(stored.run).get("best_step")
    paths = draw_pictures(artist, stored.run, folder, best_step)
    path = folder / "samples.npz"
    labels = artist.labels(options["num_samples"])
    of_classes = {} if labels is None else {"labels": labels.numpy()}
    images = artist.samples(options["num_samples"])
    np.savez_compressed(path, allow_pickle=False, images=images, **of_classes)
    for written in [*paths, path]:
        print(written)
    return [*paths, path]
