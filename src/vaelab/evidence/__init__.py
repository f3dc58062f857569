"""Evidence: what is reported. Estimators of log p(x), each with its errors; everything in nats per image."""

from vaelab.evidence.ais import AnnealedEstimate, Annealing, ais, check_dimensions
from vaelab.evidence.bdmc import BidirectionalEstimate, bdmc
from vaelab.evidence.bound import BoundValues, bound
from vaelab.evidence.draws import Draws
from vaelab.evidence.estimates import Estimate, estimate, exact
from vaelab.evidence.importance import ImportanceAccumulator, ImportanceEstimate, importance, low_ess_warning
from vaelab.evidence.labels import GREY_BCE, NLL, RAW_DENSITY, label

__all__ = [
    "GREY_BCE",
    "NLL",
    "RAW_DENSITY",
    "AnnealedEstimate",
    "Annealing",
    "BidirectionalEstimate",
    "BoundValues",
    "Draws",
    "Estimate",
    "ImportanceAccumulator",
    "ImportanceEstimate",
    "ais",
    "bdmc",
    "bound",
    "check_dimensions",
    "estimate",
    "exact",
    "importance",
    "label",
    "low_ess_warning",
]
