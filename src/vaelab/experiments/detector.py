"""A calibrated detector, in ``detections/detector.json`` of a run directory."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from vaelab.errors import SettingError
from vaelab.runs import RunDirectory, read_arrays, read_json, write_json
from vaelab.tasks.anomaly import SCORES, Reference

FILE = "detector.json"


@dataclass(frozen=True)
class Detector:
    """What is needed to score further images as the calibration's were.

    Attributes:
        weights: digest of the model's.
        score: that decides.
        false_positive_rate: that the thresholds are for.
        scores: names of all.
        thresholds: of each, nats.
        reference: what scores know of images that belong.
        split, num_images: of the calibration.
        warning: on the calibration, or None.
        label: of the bound.
        num_samples, regret_steps, seed: of the scores.
        background, background_weights: directory and weights of the background model, or None.
        background_from_run: the same directory as seen from that of the run, for when both have moved together; None in older records.
        values: the file with the calibration's scores, below ``detections/``.
    """

    weights: str
    score: str
    false_positive_rate: float
    scores: tuple[str, ...]
    thresholds: dict[str, float]
    reference: Reference
    split: str
    num_images: int
    warning: str | None
    label: str
    num_samples: int
    regret_steps: int
    seed: int
    background: str | None
    background_weights: str | None
    background_from_run: str | None
    values: str

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "scores": list(self.scores)}

    @classmethod
    def from_dict(cls, content: Any, path: Path) -> Self:
        """Raises SettingError("run") for what is no detector."""
        try:
            content = {"background_from_run": None, **content}
            known = {field.name: content[field.name] for field in fields(cls)}
            reference = {name: float(content["reference"][name]) for name in ("bound", "rate")}
            scores = tuple(content["scores"])
            thresholds = {name: float(content["thresholds"][name]) for name in scores}
            rate = float(content["false_positive_rate"])
            if not all(map(math.isfinite, (rate, *reference.values(), *thresholds.values()))):
                raise ValueError("a number is not finite")
            if not {*scores, content["score"]} <= {*SCORES} or content["score"] not in scores:
                raise ValueError(f"unknown scores {', '.join(map(str, scores))}")
            numbers = {
                name: int(content[name]) for name in ("num_images", "num_samples", "regret_steps", "seed")
            }
        except (KeyError, TypeError, ValueError) as error:
            rule = f"holds no detector that can be read ({type(error).__name__}: {error})"
            raise SettingError("run", path, rule) from None
        return cls(
            **{
                **known,
                **numbers,
                "false_positive_rate": rate,
                "scores": scores,
                "thresholds": thresholds,
                "reference": Reference(**reference),
            }
        )


def write_detector(run: RunDirectory, detector: Detector) -> None:
    """Make it the run's; the one before is replaced."""
    write_json(run.path / "detections" / FILE, detector.to_dict())


def has_detector(run: RunDirectory) -> bool:
    """Whether one has been calibrated."""
    return (run.path / "detections" / FILE).is_file()


def read_detector(run: RunDirectory) -> tuple[Detector, dict[str, np.ndarray]]:
    """The detector of a run, and the scores of its calibration images.

    Raises:
        SettingError: there is none, or none that can be read.
    """
    path = run.path / "detections" / FILE
    if not has_detector(run):
        rule = f"has no detector yet; calibrate one first: vae-detect run={run.path}"
        raise SettingError("run", run.path, rule)
    detector = Detector.from_dict(read_json(path), path)
    values = read_arrays(run.path / "detections" / _inside(detector.values, path))
    scores = {name: values.get(f"calibration_score_{name}") for name in detector.scores}
    if any(column is None or column.ndim != 1 or column.dtype.kind != "f" for column in scores.values()):
        raise SettingError("run", path, f"names {detector.values}, which lacks scores of the calibration")
    return detector, {name: column for name, column in scores.items() if column is not None}


def _inside(name: str, path: Path) -> str:
    """The name of a file one folder below; a record leads nowhere else."""
    parts = str(name).split("/")
    if len(parts) != 2 or any(part in ("", ".", "..") for part in parts):
        raise SettingError("run", path, f"names {name}, which lies elsewhere")
    return str(name)
