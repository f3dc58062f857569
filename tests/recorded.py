"""Run directories for tests, with numbers whose per-image values are known."""

import dataclasses
import math
import os

import numpy as np

from vaelab.runs import (
    MetricsWriter,
    RunDirectory,
    Status,
    start_manifest,
    write_cards,
    write_status,
    write_yaml,
)
from vaelab.runs.cards import Card

PROTOCOL = {
    "data": "mnist",
    "binarize": "dynamic",
    "noise_seed": 0,
    "label": "nll",
    "likelihood": "bernoulli",
}
BLANK = Card("nll", 0.0, None, 0.01, "nats", "test", 1, "importance", 100, PROTOCOL, None, 1.0)


def card_of(values, **changes):
    """The card of per-image ``values``: their mean, and its standard error."""
    se = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    known = {"value": float(np.mean(values)), "se_images": se, "num_images": len(values)}
    return dataclasses.replace(BLANK, **{**known, **changes})


def a_run(
    logs, name, cards, *, val: float | None = -100.0, num_val=50, config=None, score=None, seed=0, overrides=(),
    status=Status.COMPLETED, error=None, sweep=None, **per_image,
):  # fmt: skip
    """A run that has ended; ``per_image`` are the columns of its ``per_image.npz``."""
    run = RunDirectory.create(logs, name)
    start_manifest(
        run, argv=[], overrides=[], experiment="reference", seed=seed, device={}, threads=1, precision="32-true",
        data={"actual": "mnist", "num_val": num_val}, **({} if sweep is None else {"sweep": sweep}),
    )  # fmt: skip
    score = score or {"name": "val/elbo", "mode": "max"}
    write_yaml(run.config_file, {"score": score, "seed": seed, **(config or {})})
    write_yaml(run.overrides_file, list(overrides))
    write_status(run.status_file, status, exit_status=0 if status is Status.COMPLETED else 1, error=error)
    if val is not None:
        with MetricsWriter(run.metrics_file) as writer:
            writer.append(1, {score["name"]: val})
    if cards is not None:
        write_cards(run.evaluation_file, cards)
    if per_image:
        np.savez_compressed(run.path / "per_image.npz", allow_pickle=False, **per_image)
    return run.path


class Payload:
    """Makes the file ``canary`` when it is unpickled without care."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)
