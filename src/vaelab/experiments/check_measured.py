"""What can be seen to be wrong with a request for codes or anomaly scores before torch is imported."""

from __future__ import annotations

from typing import Any

from vaelab.data.images import find
from vaelab.errors import SettingError, choice, integer, number
from vaelab.experiments.check import check_evaluation

SPLITS = ("test", "val", "train")
#: see :data:`vaelab.tasks.anomaly.SCORES`, which imports torch
SCORES = (
    "elbo", "importance", "distortion", "typicality", "rate_typicality", "complexity", "ratio", "regret",
)  # fmt: skip
HELD_OUT = "held_out"
#: settings that a calibrated detector has already, and their values without one
OF_THE_DETECTOR: dict[str, Any] = {
    "score": "typicality",
    "false_positive_rate": 0.05,
    "background": None,
    "scores": None,
    "num_samples": 32,
    "regret_steps": 100,
    "seed": None,
}


def check_encoding(options: dict[str, Any]) -> None:
    """Refuse options of :func:`vaelab.experiments.encode.encode` that no run could follow."""
    check_evaluation({key: value for key, value in options.items() if key != "split"})
    integer("num_samples", options["num_samples"], 1)
    if options["images"] is not None and options["split"] is not None:
        raise SettingError("split", options["split"], "is of the run's data; leave it away with images=...")
    choice("split", options["split"], (None, *SPLITS))
    if options["images"] is not None:
        find("images", options["images"], options["paths"]["data_dir"])


def check_detection(options: dict[str, Any]) -> None:
    """Refuse options of :func:`vaelab.experiments.detect.detect` that no run could follow."""
    check_evaluation(options)
    if options["images"] is not None:
        for setting in ("against", "background", "scores"):
            if options[setting] is not None:
                rule = "belongs to the calibration, and images=... takes the detector that is there"
                raise SettingError(setting, options[setting], rule)
        find("images", options["images"], options["paths"]["data_dir"])
    elif options["against"] not in (None, HELD_OUT):
        find("against", options["against"], options["paths"]["data_dir"])
    choice("score", options["score"], (None, *SCORES))
    scores = options["scores"]
    if scores is not None:
        if not isinstance(scores, list) or not scores:
            raise SettingError("scores", scores, f"must be null or a list of {', '.join(SCORES)}")
        for score in scores:
            choice("scores", score, SCORES)
        decides = options["score"] or OF_THE_DETECTOR["score"]
        if decides not in scores:
            raise SettingError("score", decides, f"is not among scores={','.join(scores)}")
    rate = options["false_positive_rate"]
    if rate is not None:
        rule = "must be null or a number above 0 and below 1"
        number("false_positive_rate", rate, rule, lambda r: 0 < r < 1)
    for setting in ("num_samples", "regret_steps"):
        if options[setting] is not None:
            integer(setting, options[setting], 1, " or null")
    integer("resamples", options["resamples"], 100)
    number("confidence", options["confidence"], "must be a number above 0 and below 1", lambda c: 0 < c < 1)
