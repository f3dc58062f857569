"""Latents: what the code has learned."""

from vaelab.latents.active_units import active_units, activity

__all__ = ["active_units", "activity"]
