"""Tasks: uses of a trained model."""

from vaelab.tasks.augmentation import Augmentation, Geometry, augmentation
from vaelab.tasks.classifier import Recipe, classify, fit

__all__ = ["Augmentation", "Geometry", "Recipe", "augmentation", "classify", "fit"]
