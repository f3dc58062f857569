"""Evidence: what is reported. Estimators of log p(x), each with its errors; everything in nats per image."""

from vaelab.evidence.accuracy import AccuracyEstimator, accuracy
from vaelab.evidence.ais import AnnealedEstimate, AnnealedEstimator, Annealing, ais, check_dimensions
from vaelab.evidence.bdmc import BidirectionalEstimate, BidirectionalEstimator, bdmc
from vaelab.evidence.bound import BoundEstimator, BoundValues, bound, bound_of
from vaelab.evidence.draws import Draws
from vaelab.evidence.estimates import Estimate, estimate, exact
from vaelab.evidence.estimator import Estimator, Number
from vaelab.evidence.importance import (
    ImportanceEstimate,
    ImportanceEstimator,
    importance,
    log_weights,
    low_ess_warning,
)
from vaelab.evidence.labels import GREY_BCE, NLL, RAW_DENSITY, label
from vaelab.evidence.sample_quality import SampleQuality, sample_quality
from vaelab.evidence.streaming import RowLimit, streamed

__all__ = [
    "GREY_BCE",
    "NLL",
    "RAW_DENSITY",
    "AccuracyEstimator",
    "AnnealedEstimate",
    "AnnealedEstimator",
    "Annealing",
    "BidirectionalEstimate",
    "BidirectionalEstimator",
    "BoundEstimator",
    "BoundValues",
    "Draws",
    "Estimate",
    "Estimator",
    "ImportanceEstimate",
    "ImportanceEstimator",
    "Number",
    "RowLimit",
    "SampleQuality",
    "accuracy",
    "ais",
    "bdmc",
    "bound",
    "bound_of",
    "check_dimensions",
    "estimate",
    "exact",
    "importance",
    "label",
    "log_weights",
    "low_ess_warning",
    "sample_quality",
    "streamed",
]
