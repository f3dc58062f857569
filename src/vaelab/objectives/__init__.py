"""Objectives: what is minimised. Each takes :class:`vaelab.models.Terms` and gives a value an image; none averages, none logs."""

from vaelab.objectives.elbo import ELBO, ObjectiveValue
from vaelab.objectives.schedules import ConstantSchedule, LinearSchedule

__all__ = ["ELBO", "ConstantSchedule", "LinearSchedule", "ObjectiveValue"]
