"""Tasks: uses of a trained model."""

from vaelab.tasks.augmentation import Augmentation, Geometry, augmentation_gain
from vaelab.tasks.classifier import Recipe, classify, fit

__all__ = ["Augmentation", "Geometry", "Recipe", "augmentation_gain", "classify", "fit"]
