"""Evidence: what is reported. Estimators of log p(x), each with its errors; everything in nats per image."""

from vaelab.evidence.bound import BoundValues, bound
from vaelab.evidence.estimates import Estimate, estimate, exact
from vaelab.evidence.importance import ImportanceAccumulator, ImportanceEstimate, importance, low_ess_warning
from vaelab.evidence.labels import GREY_BCE, NLL, RAW_DENSITY, label
from vaelab.evidence.sample_quality import SampleQuality, sample_quality

__all__ = [
    "GREY_BCE",
    "NLL",
    "RAW_DENSITY",
    "BoundValues",
    "Estimate",
    "ImportanceAccumulator",
    "ImportanceEstimate",
    "SampleQuality",
    "bound",
    "estimate",
    "exact",
    "importance",
    "label",
    "low_ess_warning",
    "sample_quality",
]
