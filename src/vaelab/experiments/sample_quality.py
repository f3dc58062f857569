"""How good the samples of a finished run are: :func:`vaelab.experiments.quality.measure` as an entry of the group ``estimator``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vaelab.errors import SettingError
from vaelab.evidence import Estimate, Number, SampleQuality
from vaelab.evidence.progress import Progress
from vaelab.evidence.sample_quality import NEIGHBOURS
from vaelab.experiments.diagnostic import Diagnostic, Findings, Subject, without
from vaelab.experiments.extractor import Extractor, check_data, extractor
from vaelab.experiments.quality import LEAST, SHOWN, check_fits, check_settings, measure
from vaelab.runs.files import to_json

#: of a protocol, what grey images and means of p(x|z) do not depend on
PIXELS = ("binarize", "dequantize", "pixel_range", "num_levels", "noise_seed")


@dataclass(frozen=True)
class SampleQualityDiagnostic(Diagnostic):
    """Frechet and kernel distance, precision and recall of samples, by the features of a LeNet trained on these data, each beside its floor; see :func:`measure`.

    Only with the test split: the extractor has seen the images that a run keeps for validation.

    Attributes:
        samples: ``means`` or ``draws``.
        num_samples, num_neighbours, num_searched: see :func:`measure`.

    Raises:
        SettingError: a setting that no model could follow.
    """

    name = "sample_quality"

    samples: str = "means"
    num_samples: int = 10_000
    num_neighbours: int = 8
    num_searched: int = 1000

    def __post_init__(self) -> None:
        try:
            check_settings(self.samples, self.num_samples, self.num_neighbours, self.num_searched)
        except SettingError as error:
            raise SettingError(
                f"estimator.{error.setting}", error.received, error.rule, nearest=error.nearest
            ) from None

    def check(self, subject: Subject, options: Mapping[str, Any]) -> None:
        if subject.split != "test":
            rule = f"estimator={self.name} takes the test split: its extractor was trained on the images kept for validation, too"
            raise SettingError("split", subject.split, rule)
        if self.samples == "means" and options.get("binarize") is not None:
            rule = "has no effect on the means of p(x|z), which stand beside grey images; use estimator.samples=draws"
            raise SettingError("binarize", options["binarize"], rule)
        if len(subject.index) < LEAST:
            raise SettingError("num_images", len(subject.index), f"must be at least {LEAST} here")
        check_fits(subject.model, subject.data, self.samples, self.num_neighbours)
        assert subject.data.images is not None  # set up
        check_data(subject.data.images)

    def instrument(self, subject: Subject, progress: Progress | None = None) -> Extractor:
        assert subject.data.images is not None  # set up
        return extractor(subject.data.images, subject.data.data_dir, progress)

    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """Samples of any likelihood can be compared; means also where the models were trained on other pixels: grey images stand beside all of them."""
        return without(protocol, "likelihood", "label", *(PIXELS if self.samples == "means" else ()))

    def __call__(
        self, subject: Subject, instrument: Any = None, progress: Progress | None = None
    ) -> Findings:
        found = measure(
            subject.model,
            subject.data,
            subject.noise,
            instrument,
            samples=self.samples,
            num_samples=self.num_samples,
            num_neighbours=self.num_neighbours,
            num_searched=self.num_searched,
            num_real=len(subject.index),
            progress=progress,
            arithmetic=subject.arithmetic,
        )
        return Findings(
            numbers=self._numbers(found.quality),
            pictures={"neighbours": found.picture},
            files={"samples.json": to_json(record(found.quality), "samples.json")},
        )

    def _numbers(self, quality: SampleQuality) -> list[Number]:
        shared = {"samples": self.samples, "extractor": quality.extractor[:16]}
        here, floor, real = quality.generated, quality.floor, quality.generated.num_real
        kernel = here.kernel
        subsets = {"num_subsets": kernel.num_subsets, "subset_size": kernel.subset_size}
        manifold = {"neighbours": NEIGHBOURS}
        kernel_se = None if math.isnan(kernel.se) else kernel.se
        # the error of a share of samples is theirs, that of a share of test images is of the images
        estimates = {
            "lenet_fid": (Estimate(here.frechet, None, None, real), floor.frechet, {}),
            "lenet_kid": (Estimate(kernel.value, kernel_se, None, real), floor.kernel.value, subsets),
            "precision": (
                Estimate(here.precision.value, None, here.precision.se, real),
                floor.precision.value,
                manifold,
            ),
            "recall": (Estimate(here.recall.value, here.recall.se, None, real), floor.recall.value, manifold),
        }
        return [
            Number(
                metric=metric,
                estimate=estimate,
                estimator=self.name,
                num_samples=here.num_images,
                settings={**shared, **own},
                warning=quality.warning if metric == "lenet_fid" else None,
                units="distance" if metric.startswith("lenet") else "share",
                floor=lowest,
            )
            for metric, (estimate, lowest, own) in estimates.items()
        ]


def record(quality: SampleQuality) -> dict[str, Any]:
    """What no card holds: whether samples are copies of training images, and what the extractor is."""
    return {
        "memorisation": asdict(quality.memorisation),
        "extractor": {
            "digest": quality.extractor,
            "accuracy": quality.extractor_accuracy,
            "num_features": quality.num_features,
        },
        "nearest": {
            "index": quality.neighbours.index[:SHOWN].tolist(),
            "distance": quality.neighbours.distance[:SHOWN].tolist(),
        },
    }
