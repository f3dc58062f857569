"""What the code of a finished run has learned: :func:`vaelab.latents.diagnose` as an entry of the group ``estimator``."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelab import figures
from vaelab.batch import Batch
from vaelab.data.chunks import IndexLoader
from vaelab.data.datamodule import ImageDataModule, SplitName
from vaelab.errors import SettingError, choice, integer, number
from vaelab.evidence import NLL, Estimate, Number
from vaelab.evidence.importance import few_weights_warning
from vaelab.evidence.progress import Progress
from vaelab.experiments.diagnostic import Diagnostic, Findings, Subject, without
from vaelab.latents import Average, Diagnosis, NoiseOf, Probe, diagnose
from vaelab.latents.probes import METRICS
from vaelab.noise import ImageDraws, Split

#: attribute of a :class:`vaelab.latents.Diagnosis`, or term of its information -> the metric on a card
CALLED = {
    "activities": "active_units",
    "rate": "code_rate",
    "moments": "aggregate_mean, aggregate_variance",
    "linear": "probe_linear",
    "nearest": "probe_nearest",
    "cut": "nll_cut_change",
}
TERMS = ("rate", "mutual_information", "aggregate_kl", "total_correlation", "dimension_wise_kl")
DIMENSIONS: tuple[str, ...] = ("layer", "dimension", "rate", "activity", "active", "dimension_wise_kl", "aggregate_mean", "aggregate_variance")  # fmt: skip
PICTURE = "rate_per_dimension"
PIXELS = ("likelihood", "label")  # of a protocol


@dataclass(frozen=True)
class LatentsDiagnostic(Diagnostic):
    """Active units, the information in the code, probes for the class, and what the inactive dimensions are worth.

    Of a model with several stochastic layers the code is the topmost: information and probes are of it, active units of all layers together.

    Attributes:
        num_samples: M of q(z), of the information.
        threshold: of an active unit's activity.
        neighbours, metric: of the nearest-neighbours probe.
        probe_images: training images that the probes are fitted on, the first ones; None = all.
        cut_samples: K of the NLL with and without the inactive dimensions; None = that is not measured.
        max_rows: samples that the decoder sees at once in it; None = by the kind of device.

    Raises:
        SettingError: a setting that no model could be looked at with.
    """

    name = "latents"

    num_samples: int = 2000
    threshold: float = 0.01
    neighbours: int = 10
    metric: str = "euclidean"
    probe_images: int | None = None
    cut_samples: int | None = 100
    max_rows: int | None = None

    def __post_init__(self) -> None:
        for setting in ("num_samples", "neighbours"):
            integer(f"estimator.{setting}", getattr(self, setting), 1)
        for setting in ("probe_images", "cut_samples", "max_rows"):
            if getattr(self, setting) is not None:
                integer(f"estimator.{setting}", getattr(self, setting), 1, " or null")
        number("estimator.threshold", self.threshold, "must be a number >= 0", lambda t: t >= 0)
        choice("estimator.metric", self.metric, METRICS)

    def check(self, subject: Subject, options: Mapping[str, Any]) -> None:
        size = subject.data.size("train")
        if self.probe_images is not None and self.probe_images > size:
            raise SettingError(
                "probe_images", self.probe_images, f"must be at most the {size} training images"
            )
        if self.neighbours > (fitted := self.probe_images or size):
            rule = f"must be at most the {fitted} images that the probe is fitted on"
            raise SettingError("neighbours", self.neighbours, rule)

    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """All but the likelihood: codes are of images, whatever p(x|z) says of their pixels."""
        return without(protocol, *PIXELS)

    def __call__(
        self, subject: Subject, instrument: Any = None, progress: Progress | None = None
    ) -> Findings:
        data, model, index = subject.data, subject.model, subject.index
        fitted = torch.arange(self.probe_images or data.size("train"))
        label = subject.protocol["label"]
        measured = self.cut_samples is not None and label == NLL
        with subject.arithmetic():
            found = diagnose(
                model,
                _Batches(data, subject.split, index),
                # as many repetitions as it takes to have M samples of few images
                _noise(subject, math.ceil(self.num_samples / len(index)), repetition=0),
                num_samples=self.num_samples,
                threshold=self.threshold,
                train_batches=_Batches(data, "train", fitted),
                neighbours=self.neighbours,
                metric=self.metric,
                cut_noise=_noise(subject, self.cut_samples, 1) if self.cut_samples and measured else None,
                max_rows=self.max_rows,
                progress=progress,
            )
        missing = {CALLED.get(name, name): reason for name, reason in found.missing.items()}
        if not measured:
            grey = f"a number labelled {label} is no log-likelihood"
            missing["nll_cut_change"] = "estimator.cut_samples=null" if label == NLL else grey
        drawn = _drawn(found)
        if undrawn := [layer for layer, rate in enumerate(found.rates, 1) if rate.per_dimension is None]:
            layers = "" if len(found.rates) == 1 else f" of layer {', '.join(map(str, undrawn))}"
            missing[PICTURE] = f"the KL{layers} has no closed form dimension by dimension"
        rows = dimensions(found)
        if not rows:
            missing["dimensions.csv"] = "neither rates nor activities are known dimension by dimension"
        return Findings(
            numbers=self._numbers(found, subject.protocol),
            pictures={
                PICTURE + (f"_{layer}" if len(found.rates) > 1 else ""): figures.rate_per_dimension(
                    rate, active
                )
                for layer, (rate, active) in drawn.items()
            },
            files={"dimensions.csv": as_csv(rows)} if rows else {},
            missing=missing,
        )

    def _numbers(self, found: Diagnosis, protocol: Mapping[str, Any]) -> list[Number]:
        cut = self._cut(found, protocol)
        return [*self._units(found), *self._information(found), *self._probes(found), *cut]

    def _units(self, found: Diagnosis) -> Iterator[Number]:
        known = [active for active in found.active if active is not None]
        if len(known) == len(found.active):  # a count in some layers would pass for one in all
            count = Estimate(float(torch.cat(known).sum()), None, None, found.num_images)
            yield Number(
                "active_units", count, self.name, 1, units="count", settings={"threshold": self.threshold}
            )

    def _information(self, found: Diagnosis) -> Iterator[Number]:
        for term in TERMS:
            average: Average | None = getattr(found.information, term)
            if average is not None:
                # given these images: what other ones would add is not known
                estimate = Estimate(average.value, None, _known(average.se), found.num_images)
                # the rate alone has no q(z) in it
                warning = None if term == "rate" else found.information.warning
                yield Number(
                    CALLED.get(term, term), estimate, self.name, average.num_samples, warning=warning
                )

    def _probes(self, found: Diagnosis) -> Iterator[Number]:
        for metric, probe in (("probe_linear", found.linear), ("probe_nearest", found.nearest)):
            if isinstance(probe, Probe):
                estimate = Estimate(probe.accuracy, probe.se, None, probe.num_test)
                settings = {"probe": probe.kind, "num_train": probe.num_train}
                yield Number(
                    metric, estimate, self.name, 1, units="accuracy", settings=settings, warning=probe.warning
                )

    def _cut(self, found: Diagnosis, protocol: Mapping[str, Any]) -> Iterator[Number]:
        if found.cut is not None:
            # the one number that is of pixels
            pixels = {name: protocol[name] for name in PIXELS}
            yield Number(
                "nll_cut_change",
                found.cut.change,
                self.name,
                found.cut.num_samples,
                ess=found.cut.ess,
                settings={**pixels, "threshold": self.threshold},
                warning=few_weights_warning(found.cut.ess, found.cut.num_samples),
            )


class _Batches(Iterable[Batch]):
    """The images of a split at ``index``, as often as they are gone through."""

    def __init__(self, data: ImageDataModule, split: SplitName, index: Tensor) -> None:
        self._data = data
        self._split: SplitName = split
        self._parts = IndexLoader(index, data.eval_batch_size)

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Batch]:
        for index in self._parts:
            yield self._data.evaluation_batch(self._split, index)


def _noise(subject: Subject, num_samples: int, repetition: int) -> NoiseOf:
    """Noise ``[K, B, noise_dim]`` of the images of the split at ``index [B]``."""
    source = Split.test if subject.split == "test" else Split.train
    shape = (num_samples, subject.model.noise_dim)

    def noise(index: Tensor) -> Tensor:
        draws = ImageDraws(subject.noise, source, subject.data.noise_index(subject.split, index.cpu()))
        return draws.normal("posterior", shape, repetition).transpose(0, 1)

    return noise


def _drawn(found: Diagnosis) -> dict[int, tuple[Tensor, Tensor | None]]:
    """Layer -> rate of each dimension, and which are active, where rates are known."""
    pairs = zip(found.rates, found.active, strict=True)
    return {
        layer: (rate.per_dimension, active)
        for layer, (rate, active) in enumerate(pairs, 1)
        if rate.per_dimension is not None
    }


def dimensions(found: Diagnosis) -> list[dict[str, Any]]:
    """A row for each dimension of each layer, layer 1 next to the image; None for what is not known.

    ``rate`` and ``dimension_wise_kl`` are in nats. The last three columns are of the topmost layer, the code: KL(q(z_d) || p(z_d)), mean and variance of q(z_d).
    """
    rows: list[dict[str, Any]] = []
    moments, kls = found.moments, found.information.dimension_wise_kls
    for layer, (rate, activity, active) in enumerate(
        zip(found.rates, found.activities, found.active, strict=True), 1
    ):
        top = layer == len(found.rates)
        columns: dict[str, Tensor | None] = {
            "rate": rate.per_dimension,
            "activity": activity,
            "active": active,
            "dimension_wise_kl": kls if top else None,
            "aggregate_mean": moments.mean if top and moments is not None else None,
            "aggregate_variance": moments.covariance.diag() if top and moments is not None else None,
        }
        known = {name: column.tolist() for name, column in columns.items() if column is not None}
        size = max((len(column) for column in known.values()), default=0)
        rows += [
            {
                "layer": layer,
                "dimension": d,
                **{name: known[name][d] if name in known else None for name in columns},
            }
            for d in range(size)
        ]
    return rows


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as text, ``true`` and ``false`` for booleans, nothing for None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, DIMENSIONS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: str(v).lower() if isinstance(v, bool) else v for k, v in row.items()})
    return text.getvalue()


def _known(error: float) -> float | None:
    return None if math.isnan(error) else error
