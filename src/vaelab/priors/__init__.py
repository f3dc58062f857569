"""p(z): priors of the latent variable."""

from vaelab.priors import kl as kl  # its closed forms, registered with torch
from vaelab.priors.flow import FlowPrior
from vaelab.priors.inference import Inference as Inference
from vaelab.priors.mixture import Mixture, MixturePrior
from vaelab.priors.normal import NormalPrior
from vaelab.priors.standard_normal import StandardNormal, StandardNormalPrior, is_standard_normal
from vaelab.priors.vamp import VampPrior

__all__ = [
    "FlowPrior",
    "Mixture",
    "MixturePrior",
    "NormalPrior",
    "StandardNormal",
    "StandardNormalPrior",
    "VampPrior",
    "is_standard_normal",
]
