"""Models: each puts encoder, decoder, posterior, prior and likelihood together and returns :class:`Terms`."""

from vaelab.models.terms import LayerTerms, Terms, closed_form_kl
from vaelab.models.vae import VAE

__all__ = ["VAE", "LayerTerms", "Terms", "closed_form_kl"]
