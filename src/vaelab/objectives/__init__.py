"""Objectives: what is minimised. Each takes :class:`vaelab.models.Terms` and gives a value an image; none averages, none logs."""

from vaelab.objectives.disentangled import DIP, MMD, BetaTC
from vaelab.objectives.elbo import ELBO, STL, FreeBits
from vaelab.objectives.importance_weighted import CIWAE, IWAE, MIWAE, PIWAE, DReG
from vaelab.objectives.objective import Objective, ObjectiveValue, Weights
from vaelab.objectives.schedules import (
    CapacitySchedule,
    ConstantSchedule,
    CyclicalSchedule,
    LinearSchedule,
)
from vaelab.objectives.semi_supervised import Classification, SemiSupervised

__all__ = [
    "CIWAE",
    "DIP",
    "ELBO",
    "IWAE",
    "MIWAE",
    "MMD",
    "PIWAE",
    "STL",
    "BetaTC",
    "CapacitySchedule",
    "Classification",
    "ConstantSchedule",
    "CyclicalSchedule",
    "DReG",
    "FreeBits",
    "LinearSchedule",
    "Objective",
    "ObjectiveValue",
    "SemiSupervised",
    "Weights",
]
