"""Latents: what the code has learned."""

from vaelab.evidence.progress import Progress
from vaelab.latents.active_units import ActivityAccumulator, active_units, activity
from vaelab.latents.aggregate_posterior import (
    AggregateDensities,
    Moments,
    aggregate_moments,
    log_aggregate,
    log_aggregate_marginals,
    log_aggregate_of,
)
from vaelab.latents.average import Average, average
from vaelab.latents.codes import Codes, CodesAccumulator, Draws, NoiseOf, codes
from vaelab.latents.cut import CutChange, CutModel, change_by_cutting, cut
from vaelab.latents.diagnose import Diagnosis, diagnose
from vaelab.latents.information import Information, decompose, information
from vaelab.latents.probes import Probe, linear_probe, nearest_neighbours_probe
from vaelab.latents.rate import LayerRate, RateAccumulator, rate_per_dimension

__all__ = [
    "ActivityAccumulator",
    "AggregateDensities",
    "Average",
    "Codes",
    "CodesAccumulator",
    "CutChange",
    "CutModel",
    "Diagnosis",
    "Draws",
    "Information",
    "LayerRate",
    "Moments",
    "NoiseOf",
    "Probe",
    "Progress",
    "RateAccumulator",
    "active_units",
    "activity",
    "aggregate_moments",
    "average",
    "change_by_cutting",
    "codes",
    "cut",
    "decompose",
    "diagnose",
    "information",
    "linear_probe",
    "log_aggregate",
    "log_aggregate_marginals",
    "log_aggregate_of",
    "nearest_neighbours_probe",
    "rate_per_dimension",
]
