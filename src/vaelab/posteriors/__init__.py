"""q(z|x): approximate posteriors, from the features of an encoder."""

from vaelab.posteriors.flow import FlowPosterior
from vaelab.posteriors.full_normal import FullNormalPosterior
from vaelab.posteriors.low_rank_normal import LowRankNormalPosterior
from vaelab.posteriors.normal import LogVarianceNormal, NormalPosterior, NormalSample
from vaelab.posteriors.sample import PosteriorSample

__all__ = [
    "FlowPosterior",
    "FullNormalPosterior",
    "LogVarianceNormal",
    "LowRankNormalPosterior",
    "NormalPosterior",
    "NormalSample",
    "PosteriorSample",
]
