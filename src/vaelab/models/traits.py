"""What objectives have to know of a model before they see any of its terms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """Attributes:
    closed_form_kl: KL(q(z|x) || p(z)) is had without sampling.
    kl_per_dimension: and dimension by dimension.
    moments: the dimensions of z are independent given x, and their means and standard deviations known.
    fast_density: the density of q at a given z costs no more than a sample of it.
    parameters_apart: no parameter belongs both to q and to p.
    standard_prior: p(z) = N(0, I).
    layers: number of stochastic layers.
    summed: a discrete variable is summed over, not sampled, and log w is a sum over its values.
    classifies: there is a q(y|x), whose log q(y|x) of a given label is among the terms.
    """

    closed_form_kl: bool = True
    kl_per_dimension: bool = True
    moments: bool = True
    fast_density: bool = True
    parameters_apart: bool = True
    standard_prior: bool = True
    layers: int = 1
    summed: bool = False
    classifies: bool = False


#: those of one layer of diagonal Gaussians with the prior N(0, I)
USUAL = Traits()
