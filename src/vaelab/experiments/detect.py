"""Which images do not belong to the data that a run was trained on: a detector is calibrated, tried against other data, and used on a person's own images."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from vaelab import figures
from vaelab.batch import Batch
from vaelab.data.images import Images
from vaelab.errors import RunFailed, SettingError
from vaelab.evidence import NLL, Estimate, ImportanceEstimator, Number
from vaelab.evidence.progress import Progress
from vaelab.evidence.streaming import NOISE_AT_ONCE
from vaelab.experiments.cards import add_cards, card
from vaelab.experiments.check_measured import HELD_OUT, OF_THE_DETECTOR, check_detection
from vaelab.experiments.detector import Detector, has_detector, read_detector, write_detector
from vaelab.experiments.evaluate import THERE
from vaelab.experiments.measured import Measured, open_generative, open_measured, say_unreadable
from vaelab.experiments.ranks import refuse_tasks
from vaelab.experiments.recording import interruptible
from vaelab.experiments.screen import quiet_lightning
from vaelab.experiments.stored import Stored
from vaelab.noise import ImageDraws, Noise, Split, Stream
from vaelab.runs import read_json, write_atomically, write_json
from vaelab.runs.cards import printable
from vaelab.runs.environment import versions
from vaelab.runs.per_image import INDEX
from vaelab.tasks.anomaly import (
    SCORES,
    Reference,
    code_length,
    curve,
    detection,
    least_images,
    p_values,
    refusal,
    regret,
    threshold,
)
from vaelab.training import parts_progress
from vaelab.training.arithmetic import full_float32
from vaelab.training.per_image import archive

SCHEMA = 1
#: raise it when any score comes out differently for the same weights
NUMBERS = 2
RESULT, VALUES, TABLE = "detection.json", "scores.npz", "scores.csv"
#: bound of each image: samples beside the importance-weighted ones
REPETITIONS = 8
FITTED_AT_ONCE = 500  # images whose q(z|x) is fitted together
EXTREMES = 16  # images a row of a picture
ROWS = 20  # of a table on the screen
#: what two models must share for their likelihood ratio to be one
SHARED = (
    "data", "classes", "binarize", "dequantize", "pixel_range", "num_levels", "noise_seed", "likelihood", "label", "given",
)  # fmt: skip

#: scores that are distances from a mean over calibration images
TYPICAL = ("typicality", "rate_typicality")

Columns = dict[str, np.ndarray]


def detect(options: dict[str, Any]) -> Path:
    """Calibrate a detector, and with ``against`` measure how well it works; or, with ``images``, use the one that is there.

    In ``detections/`` of the run directory: ``detector.json`` with the thresholds, and a folder for each measurement, whose name ends in a digest of all that it depends on: what is
    there is not measured again, unless ``force`` asks for it.

    Args:
        options: the settings of ``configs/detect.yaml``.

    Returns:
        the folder.

    Raises:
        SettingError: an option that cannot be followed; nothing was written.
        RunFailed: it was interrupted, or some files could not be read; the others are scored.
    """
    refuse_tasks("vae-detect")
    check_detection(options)
    quiet_lightning()
    run = open_measured(options)
    if run.model.num_classes > 0 and not run.model.infers_labels:
        rule = "the model is conditional: p(x|y) says how an image goes with its label, not whether it belongs; train an unconditional one"
        raise SettingError("run", options["run"], rule)
    if options["images"] is not None:
        return _use(run, options)
    return _calibrate(run, {**options, **_settled(options, OF_THE_DETECTOR)})


# -- what a model says of images ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scorer:
    """Measures the per-image values that scores are made of.

    Attributes:
        run: the run.
        background: the other model of a likelihood ratio, or None.
        names: the scores that can be had, in their order.
        missing: those that cannot, with the reason.
        num_samples, regret_steps: settings.
    """

    run: Measured
    background: Stored | None
    names: tuple[str, ...]
    missing: dict[str, str]
    num_samples: int
    regret_steps: int

    @classmethod
    def of(cls, run: Measured, background: Stored | None, options: Mapping[str, Any]) -> Scorer:
        missing = {}
        if run.label != NLL:
            reason = f"a bound labelled {run.label} is no log-likelihood"
            missing |= {
                "importance": reason,
                "complexity": f"{reason}, to be compared with the length of a code",
            }
        if background is None:
            missing["ratio"] = "needs background=DIR, a run on the same data with data.mutate=0.2 or so"
        if (reason := refusal(run.model)) is not None:
            missing["regret"] = reason
        asked = options["scores"]
        for name in missing:
            if asked is not None and name in asked:
                raise SettingError("scores", name, f"cannot be had: {missing[name]}")
        if (decides := options["score"]) in missing:
            raise SettingError("score", decides, f"cannot be had: {missing[decides]}")
        names = tuple(name for name in SCORES if name not in missing and (asked is None or name in asked))
        missing = {name: reason for name, reason in missing.items() if asked is None}
        return cls(run, background, names, missing, options["num_samples"], options["regret_steps"])

    def columns(self, split: str, index: Tensor, progress: Progress | None) -> Columns:
        """Per-image values of the images of a split, or of added ones, at ``index [N]``."""
        run, needed = self.run, {column for name in self.names for column in SCORES[name].needs}
        full = ImportanceEstimator(self.num_samples, REPETITIONS)
        estimator = full if run.label == NLL else full.without_evidence()
        protocol = run.data.protocol

        def bounds(model: Any, batch: Batch, draws: ImageDraws) -> dict[str, Tensor]:
            values = estimator(model, batch, draws)
            return {name: values[name] for name in ("elbo", "rate", "distortion", "log_px") if name in values}

        def of_model(batch: Batch, draws: ImageDraws) -> dict[str, Tensor]:
            return bounds(run.model, batch, draws)

        def of_background(batch: Batch, draws: ImageDraws) -> dict[str, Tensor]:
            assert self.background is not None
            values = bounds(self.background.parts.module.evaluated, batch, draws)
            return {"background": values.get("log_px", values["elbo"])}

        def of_codes(batch: Batch, draws: ImageDraws) -> dict[str, Tensor]:
            levels = protocol.levels_of(batch.x).cpu().numpy()
            return {"code_length": torch.from_numpy(code_length(levels, protocol.num_levels))}

        def of_fits(batch: Batch, draws: ImageDraws) -> dict[str, Tensor]:
            return {"regret": regret(run.model, batch, draws, self.regret_steps)}

        name = {"val": "validation images", "train": "training images", "test": "test images"}.get(
            split, "other images"
        )
        columns = run.values(f"bounds of {name}", split, index, estimator.images_at_once, of_model, progress)
        for column, at_once, values in (
            ("background", estimator.images_at_once, of_background),
            ("code_length", NOISE_AT_ONCE, of_codes),
            ("regret", FITTED_AT_ONCE, of_fits),
        ):
            if column in needed:
                columns |= run.values(
                    f"{column.replace('_', ' ')} of {name}", split, index, at_once, values, progress
                )
        for column, values in columns.items():
            if lost := int((~np.isfinite(values)).sum()):
                raise RunFailed(
                    f"{column} of {lost} of {len(values)} {name} is not finite: the model has no score for them"
                )
        return columns

    def scores(self, columns: Columns, reference: Reference) -> Columns:
        return {name: SCORES[name].of(columns, reference) for name in self.names}


def _open_background(run: Measured, where: str, options: Mapping[str, Any]) -> Stored:
    """The background model, which has to measure what the run's model measures."""
    asked = {**options, "run": where, "checkpoint": "selected"}
    try:
        other = open_generative(asked, is_written=False)
    except SettingError as error:
        setting = "background" if error.setting == "run" else error.setting
        raise SettingError(setting, error.received, error.rule) from None
    from vaelab.experiments.train import make_protocol

    protocol = make_protocol(other.parts, other.selected_by)
    for key in SHARED:
        ours, theirs = run.protocol.get(key), protocol.get(key)
        if ours != theirs:
            raise SettingError(
                "background", where, f"has {key}={theirs}, and the run {key}={ours}: no likelihood ratio"
            )
    if other.weights == run.stored.weights:
        raise SettingError("background", where, "is the same model as the run's")
    if other.parts.data.mutate == 0:
        print(
            f"background={where}: was trained without data.mutate: it knows what the run's model knows",
            flush=True,
        )
    other.parts.module.evaluated.to(next(run.model.parameters()))
    return other


def _place(run: Measured, background: Stored | None) -> dict[str, str | None]:
    """Where the background model lies, as a detector has it."""
    if background is None:
        return {"background": None, "background_from_run": None}
    place = background.run.path.resolve()
    seen = os.path.relpath(place, run.stored.run.path.resolve())
    return {"background": str(place), "background_from_run": seen}


def _find_background(run: Measured, detector: Detector, options: Mapping[str, Any]) -> Stored:
    """The background model of a detector, where it was or where it has moved together with the run.

    Raises:
        SettingError: it is not there, or no longer the same.
    """
    place = str(detector.background)
    if detector.background_from_run is not None:
        beside = run.stored.run.path.resolve() / detector.background_from_run
        place = os.path.normpath(beside) if beside.is_dir() else place
    background = _open_background(run, place, options)
    if background.weights != detector.background_weights:
        raise SettingError("background", place, "has other weights than when the detector was calibrated")
    return background


def _settled(options: Mapping[str, Any], otherwise: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value if options[key] is None else options[key] for key, value in otherwise.items()}


def _spread(size: int, num_images: int | None) -> Tensor:
    """So many of the images of a set, at even distances: files may be sorted."""
    count = size if num_images is None else min(num_images, size)
    return torch.arange(count) * size // count


# -- calibrating, and measuring how well it works ----------------------------------------------------------------------


def _calibrate(run: Measured, options: dict[str, Any]) -> Path:
    data, rate = run.data, options["false_positive_rate"]
    background = (
        None if options["background"] is None else _open_background(run, options["background"], options)
    )
    scorer = Scorer.of(run, background, options)
    split = "val" if data.size("val") else "train"
    calibration = _spread(data.size(split), options["num_images"])
    if len(calibration) < (least := least_images(rate)):
        rule = f"takes {least} calibration images at least, and there are {len(calibration)}"
        raise SettingError("false_positive_rate", rate, rule)
    warning = None
    if split == "train":
        warning = "calibrated on training images, as the run has no validation images (data.val_size=0): on images that the model has not seen more will be flagged"
        print(warning, flush=True)
    for name, reason in scorer.missing.items():
        print(f"no {name}: {reason}", flush=True)
    against, found = options["against"], None
    if against is not None:
        found = _others(run, options)
    sets = {"calibration": (split, calibration)}
    if found is not None:
        sets |= {
            "inside": ("test", _spread(data.size("test"), options["num_images"])),
            "outside": ("outside", _spread(len(found.x), options["num_images"])),
        }
    depends_on = {
        "numbers": NUMBERS,
        "version": versions().get("vaelab"),
        "weights": run.stored.weights,
        "background": None if background is None else background.weights,
        "protocol": dict(run.protocol),
        "seed": run.noise.seed,
        "sets": {name: (of, len(index)) for name, (of, index) in sets.items()},
        "against": None if found is None else found.identity,
        "scores": scorer.names,
        **{
            key: options[key]
            for key in (
                "score",
                "false_positive_rate",
                "num_samples",
                "regret_steps",
                "resamples",
                "confidence",
            )
        },
    }
    shown = "calibration" if found is None else found.identity.replace(":", "_")
    folder = run.stored.run.path / "detections" / f"{shown}_{_digest(depends_on)}"
    if (folder / RESULT).is_file() and not options["force"]:
        print(THERE)
    else:
        command = "nothing is kept before the end, and the same command begins again"
        with interruptible(lambda: command), full_float32(), parts_progress() as progress:
            columns = {name: scorer.columns(of, index, progress) for name, (of, index) in sets.items()}
        _write_calibration(run, scorer, options, folder, columns, sets, found, warning)
    result = read_json(folder / RESULT)
    detector = Detector.from_dict(result["detector"], folder / RESULT)
    # what was measured before may have been with the same weights in another place
    detector = replace(detector, **_place(run, background))
    earlier = _earlier(run, detector)
    said = None
    if found is not None and earlier is not None and earlier.num_images > detector.num_images:
        said = f"images= goes on using the detector of {earlier.num_images} calibration images ({earlier.score}); without against= these {detector.num_images} take its place"
    else:
        write_detector(run.stored.run, detector)
        if earlier is not None and _decides(earlier) != _decides(detector):
            said = f"images= now decides by {_decides(detector)}; before by {_decides(earlier)}"
    _show(result)
    if said is not None:
        print(said)
    for path in sorted(folder.iterdir()):
        print(path)
    if found is not None:
        say_unreadable(found, "against", against)
    return folder


def _others(run: Measured, options: Mapping[str, Any]) -> Images:
    """What does not belong, added to the data as ``outside``."""
    against, data = options["against"], run.data
    if against == HELD_OUT:
        held_out = data.held_out()
        if len(held_out) == 0:
            rule = "the run was trained on all classes; train one with data.classes=[0,1,2,3,4,5,6,7,8], say"
            raise SettingError("against", against, rule)
        data.add("outside", held_out)
        left = held_out.y.unique().tolist()
        classes = "_".join(map(str, left))
        note = f"test images of class {', '.join(map(str, left))}"
        print(f"against={against}: {note}", flush=True)
        return Images(
            held_out.x.cpu().numpy(),
            held_out.y.cpu().numpy(),
            None,
            {},
            f"{data.identity}_{classes}",
            (note,),
        )
    found = run.bring("outside", "against", against, options["paths"]["data_dir"])
    if found.identity == data.identity:
        raise SettingError("against", against, "is what the run was trained on")
    return found


def _write_calibration(
    run: Measured,
    scorer: Scorer,
    options: Mapping[str, Any],
    folder: Path,
    columns: Mapping[str, Columns],
    sets: Mapping[str, tuple[str, Tensor]],
    found: Images | None,
    warning: str | None,
) -> None:
    """Thresholds, numbers, pictures: the record last."""
    reference = Reference.of(columns["calibration"])
    scores = {name: scorer.scores(of_set, reference) for name, of_set in columns.items()}
    thresholds = {
        name: threshold(values, options["false_positive_rate"])
        for name, values in scores["calibration"].items()
    }
    detector = Detector(
        weights=run.stored.weights,
        score=options["score"],
        false_positive_rate=options["false_positive_rate"],
        scores=scorer.names,
        thresholds=thresholds,
        reference=reference,
        split=sets["calibration"][0],
        num_images=len(sets["calibration"][1]),
        warning=warning,
        label=run.label,
        num_samples=scorer.num_samples,
        regret_steps=scorer.regret_steps,
        seed=run.noise.seed,
        **_place(run, scorer.background),
        background_weights=None if scorer.background is None else scorer.background.weights,
        values=f"{folder.name}/{VALUES}",
    )
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        f"{of}_{kind}_{name}": values
        for kind, per_set in (("value", columns), ("score", scores))
        for of, per_name in per_set.items()
        for name, values in per_name.items()
    }
    indices = {f"{of}_{INDEX}": index.numpy() for of, (_, index) in sets.items()}
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "detector": detector.to_dict(),
        "protocol": dict(run.protocol),
        "missing": scorer.missing,
        "against": None,
    }
    drawn: dict[str, Figure] = {}
    symbols = {name: SCORES[name].symbol for name in scorer.names}
    decides = options["score"]
    if found is not None:
        inside, outside = scores["inside"], scores["outside"]
        uniform = _resamples(run.noise, options["resamples"], len(inside[decides]) + len(outside[decides]))
        detections = {
            name: detection(inside[name], outside[name], uniform, options["confidence"])
            for name in scorer.names
        }
        result |= {
            "against": {
                "name": str(options["against"]),
                "identity": found.identity,
                "notes": list(found.notes),
            },
            "num_inside": len(inside[decides]),
            "num_outside": len(outside[decides]),
            "resamples": options["resamples"],
            "confidence": options["confidence"],
            "scores": {
                name: {
                    **asdict(detections[name]),
                    "flagged_inside": float((inside[name] > thresholds[name]).mean()),
                    "flagged_outside": float((outside[name] > thresholds[name]).mean()),
                }
                for name in scorer.names
            },
        }
        names = (_called(run.protocol["data"], "test"), _called(str(options["against"]), None))
        curves = {
            symbols[name]: (*curve(inside[name], outside[name]), detections[name].auroc.value)
            for name in scorer.names
        }
        drawn["roc"] = figures.roc(curves, names, TITLE.format(*names))
        sets_of = {symbols[name]: (inside[name], outside[name], thresholds[name]) for name in scorer.names}
        drawn["histograms"] = figures.score_histograms(sets_of, names, options["false_positive_rate"])
        drawn["extremes"] = _extremes(run, sets, scores, decides, names)
    else:
        sets_of = {
            symbols[name]: (scores["calibration"][name], None, thresholds[name]) for name in scorer.names
        }
        name = _called(run.protocol["data"], detector.split)
        drawn["histograms"] = figures.score_histograms(sets_of, (name, ""), options["false_positive_rate"])
    write_atomically(folder / VALUES, archive({**indices, **stored}))
    for name, figure in drawn.items():
        figures.save(figure, folder / f"{name}.png")
    if found is not None:
        add_cards(run.stored.run, _cards(run, result))
    write_json(folder / RESULT, result)


TITLE = "anomalies: {1}; what belongs: {0}"


def _called(name: str, split: str | None) -> str:
    text = Path(name).name or name
    return text if split is None else f"{text} {split}"


def _resamples(noise: Noise, count: int, size: int) -> np.ndarray:
    """Numbers in [0, 1) that choose the images of ``count`` resamples."""
    return noise.image_uniform(Stream.bootstrap, Split.test, torch.arange(count), (size,)).numpy()


def _cards(run: Measured, result: Mapping[str, Any]) -> list[Any]:
    """The numbers of each score, with the settings that it depends on."""
    detector = result["detector"]
    own = {
        "ratio": {"background": detector["background_weights"]},
        "regret": {"regret_steps": detector["regret_steps"]},
    }
    numbers = [
        Number(
            metric=metric,
            estimate=Estimate(of_score[metric]["value"], of_score[metric]["se"], None, result["num_inside"]),
            estimator="detect",
            num_samples=detector["num_samples"],
            settings={
                "score": score,
                "against": result["against"]["identity"],
                "num_outside": result["num_outside"],
                **own.get(score, {}),
            },
            # of the other scores the order of images does not depend on the calibration
            warning=detector["warning"] if score in TYPICAL else None,
            units="share",
        )
        for score, of_score in result["scores"].items()
        for metric in ("auroc", "average_precision", "fpr95")
    ]
    made = (
        card(number, "test", run.protocol, run.stored.weights, 0.0, run.stored.warning) for number in numbers
    )
    return [replace(one, seed=detector["seed"]) for one in made]


def _extremes(
    run: Measured,
    sets: Mapping[str, tuple[str, Tensor]],
    scores: Mapping[str, Columns],
    decides: str,
    names: tuple[str, str],
) -> Figure:
    """The images of both sets that score least and most."""
    rows, labels = [], []
    for of, name in zip(("inside", "outside"), names, strict=True):
        split, index = sets[of]
        order = np.argsort(scores[of][decides], kind="stable")
        for which, chosen in (("least", order[:EXTREMES]), ("most", order[::-1][:EXTREMES])):
            batch = run.data.evaluation_batch(split, index[torch.from_numpy(chosen.copy())])
            rows.append(run.data.protocol.to_unit(batch.x).cpu().numpy())
            labels.append(f"{name}, {which}")
    return figures.score_extremes(rows, labels, SCORES[decides].symbol)


def _show(result: Mapping[str, Any]) -> None:
    """What is on the screen in the end."""
    detector = result["detector"]
    percent = f"{detector['false_positive_rate']:.3g}"
    console = Console()
    if result["against"] is None:
        grid = _grid(
            f"thresholds at a false-positive rate of {percent} · {detector['num_images']} images of split {detector['split']}",
            ("score", "threshold (nats)"),
        )
        for name, value in detector["thresholds"].items():
            grid.add_row(_marked(name, detector), Text(f"{value:.2f}"))
    else:
        against = printable(Path(result["against"]["name"]).name)
        heading = f"test · {result['num_inside']} images that belong, {result['num_outside']} of {against}"
        interval = f"{result['confidence']:.0%}\ninterval"
        columns = (
            "score",
            "AUROC",
            interval,
            "average\nprecision",
            "FPR at\n95 % TPR",
            "flagged",
            "of those",
        )
        grid = _grid(heading, columns)
        for name, of_score in result["scores"].items():
            auroc = of_score["auroc"]
            numbers = (f"{of_score[key]['value']:.3f}" for key in ("average_precision", "fpr95"))
            shares = (f"{of_score[key]:.1%}" for key in ("flagged_inside", "flagged_outside"))
            texts = (f"{auroc['value']:.3f}", f"{auroc['low']:.3f}-{auroc['high']:.3f}", *numbers, *shares)
            grid.add_row(_marked(name, detector), *map(Text, texts))
    console.print(grid)
    if result["against"] is None:
        print(f"* decides; bound: {detector['label']}")
        return
    print(f"* decides; flagged: scores above a threshold for {percent} of what belongs, from")
    print(
        f"{detector['num_images']} images of split {detector['split']}; of those: of what does not belong; bound: {detector['label']}"
    )


def _marked(name: str, detector: Mapping[str, Any]) -> Text:
    return Text(f"{name} *", style="bold") if name == detector["score"] else Text(name)


def _grid(title: str, columns: tuple[str, ...]) -> Table:
    grid = Table(
        title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False
    )  # fmt: skip
    for column in columns:
        grid.add_column(
            column, justify="left" if column in ("score", "image", "") else "right", overflow="fold"
        )
    return grid


def _digest(depends_on: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=list).encode()).hexdigest()[:8]


def _earlier(run: Measured, detector: Detector) -> Detector | None:
    """The detector that is there, where it is of the same weights."""
    if not has_detector(run.stored.run):
        return None
    try:
        there, _ = read_detector(run.stored.run)
    except SettingError:  # damaged: the new one takes its place
        return None
    return there if there.weights == detector.weights else None


def _decides(detector: Detector) -> str:
    return f"{detector.score} at a false-positive rate of {detector.false_positive_rate:.3g}"


# -- a person's own images ---------------------------------------------------------------------------------------------


def _use(run: Measured, options: dict[str, Any]) -> Path:
    """Score images by the detector that is there."""
    detector, calibration = read_detector(run.stored.run)
    if detector.weights != run.stored.weights:
        rule = f"the detector in {run.stored.run.path / 'detections'} was calibrated with other weights; calibrate one: vae-detect run={options['run']} checkpoint={options['checkpoint']}"
        raise SettingError("checkpoint", options["checkpoint"], rule)
    for setting in ("false_positive_rate", "num_samples", "regret_steps", "seed"):
        if options[setting] is not None and options[setting] != getattr(detector, setting):
            rule = f"the detector was calibrated with {getattr(detector, setting)}; leave it away, or calibrate anew without images=..."
            raise SettingError(setting, options[setting], rule)
    decides = options["score"] or detector.score
    if decides not in detector.scores:
        raise SettingError("score", decides, f"the detector has {', '.join(detector.scores)}")
    names_of_scores, background = detector.scores, None
    if detector.background is not None and "ratio" in detector.scores:
        try:
            background = _find_background(run, detector, options)
        except SettingError as error:
            if decides == "ratio":
                raise
            print(f"no ratio: {error}", flush=True)
            names_of_scores = tuple(name for name in detector.scores if name != "ratio")
    run = Measured(run.stored, run.data, Noise(detector.seed), run.protocol, run.arithmetic)
    scorer = Scorer(run, background, names_of_scores, {}, detector.num_samples, detector.regret_steps)
    found = run.bring("images", "images", options["images"], options["paths"]["data_dir"])
    again = "nothing is written, and the same command begins again"
    with interruptible(lambda: again), full_float32(), parts_progress() as progress:
        columns = scorer.columns("images", torch.arange(len(found.x)), progress)
    scores = scorer.scores(columns, detector.reference)
    limit = detector.thresholds[decides]
    flagged, p = scores[decides] > limit, p_values(scores[decides], calibration[decides])
    names = found.names or tuple(map(str, range(len(found.x))))
    # where a background lies is nothing that values depend on
    nowhere = {"background": None, "background_from_run": None}
    depends_on = {**detector.to_dict(), **nowhere, "decides": decides, "scores": names_of_scores}
    name = f"{found.identity.replace(':', '_')}_{_digest(depends_on)}"
    folder = run.stored.run.path / "detections" / name
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TABLE, _csv(names, flagged, p, scores, found.unreadable))
    order = np.argsort(-scores[decides], kind="stable")
    shown = order[: 2 * EXTREMES]
    batch = run.data.evaluation_batch("images", torch.from_numpy(shown.copy()))
    pixels = run.data.protocol.to_unit(batch.x).cpu().numpy()
    figure = figures.scored_images(
        pixels, scores[decides][shown], flagged[shown], SCORES[decides].symbol, limit, len(names)
    )
    figures.save(figure, folder / "images.png")
    grid = _grid(f"the most anomalous first, by {decides}", ("image", decides, "p", ""))
    for i in order[:ROWS]:
        verdict = Text("anomalous", style="bold red") if flagged[i] else Text("")
        grid.add_row(
            Text(printable(names[i])), Text(f"{scores[decides][i]:.2f}"), Text(f"{p[i]:.4f}"), verdict
        )
    Console().print(grid)
    if len(names) > ROWS:
        print(f"... and {len(names) - ROWS} more in {folder / TABLE}")
    print(
        f"{int(flagged.sum())} of {len(names)} images are anomalous: {decides} above {limit:.2f}, which {detector.false_positive_rate:.3g}"
        f" of images as the {detector.num_images} of split {detector.split} exceed"
    )
    if detector.num_images < (known := run.data.size(detector.split)):
        smallest = 1 / (detector.num_images + 1)
        print(
            f"calibrated on {detector.num_images} of {known} images: p comes in steps of {smallest:.2g}; finer: vae-detect run={options['run']} num_images=null"
        )
    if detector.warning is not None:
        print(detector.warning)
    for path in (folder / TABLE, folder / "images.png"):
        print(path)
    say_unreadable(found, "images", options["images"])
    return folder


def _csv(
    names: tuple[str, ...], flagged: np.ndarray, p: np.ndarray, scores: Columns, unreadable: Mapping[str, str]
) -> str:
    """A row an image in the order of the images, then the files that could not be read."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "anomalous", "p", *scores, "error"])
    for i, name in enumerate(names):
        values = [repr(float(values[i])) for values in scores.values()]
        writer.writerow([name, str(bool(flagged[i])).lower(), f"{p[i]:.6g}", *values, ""])
    for name, reason in unreadable.items():
        writer.writerow([name.encode("utf-8", "replace").decode(), "", "", *("" for _ in scores), reason])
    return text.getvalue()
