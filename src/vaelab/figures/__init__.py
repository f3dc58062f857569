"""Pictures of a model: arrays in, a matplotlib ``Figure`` out (of what moves, and of what is drawn at many moments, pixels by Pillow). No pyplot, no global state, no random numbers.

Images are ``[..., C, H, W]`` in [0, 1], C = 1 (grey) or 3 (RGB); values outside are clipped and pixels that
are not finite are drawn magenta, so that they are seen. Every image pixel is a whole number of picture
pixels.
"""

from vaelab.figures.analogies import analogies
from vaelab.figures.animation import animation
from vaelab.figures.augmentation import accuracies, beside_real
from vaelab.figures.codes import latents, latents_sketch, rate_per_dimension
from vaelab.figures.curves import learning_curves
from vaelab.figures.detection import roc, score_extremes, score_histograms, scored_images
from vaelab.figures.images import (
    arithmetic,
    interpolation,
    manifold,
    neighbours,
    reconstructions,
    samples,
    traversal,
)
from vaelab.figures.style import save
from vaelab.figures.sweeps import against_setting, rate_distortion

__all__ = [
    "accuracies",
    "against_setting",
    "analogies",
    "animation",
    "arithmetic",
    "beside_real",
    "interpolation",
    "latents",
    "latents_sketch",
    "learning_curves",
    "manifold",
    "neighbours",
    "rate_distortion",
    "rate_per_dimension",
    "reconstructions",
    "roc",
    "samples",
    "save",
    "score_extremes",
    "score_histograms",
    "scored_images",
    "traversal",
]
