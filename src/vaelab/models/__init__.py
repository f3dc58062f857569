"""Models: each puts encoder, decoder, posterior, prior and likelihood together and returns :class:`Terms`."""

from vaelab.models.hierarchical import HierarchicalVAE, LadderVAE
from vaelab.models.model import Inference, Model, Simulated
from vaelab.models.semi_supervised import SemiSupervisedVAE, StackedSemiSupervisedVAE
from vaelab.models.terms import LayerTerms, Terms, closed_form_kl
from vaelab.models.top_down import TopDownVAE
from vaelab.models.traits import Traits
from vaelab.models.vae import VAE

__all__ = [
    "VAE",
    "HierarchicalVAE",
    "Inference",
    "LadderVAE",
    "LayerTerms",
    "Model",
    "SemiSupervisedVAE",
    "Simulated",
    "StackedSemiSupervisedVAE",
    "Terms",
    "TopDownVAE",
    "Traits",
    "closed_form_kl",
]
