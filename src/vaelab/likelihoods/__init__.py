"""p(x|z): likelihoods of an image, from the parameters that a decoder gives for each pixel.

Each states its *support*: ``binary`` (pixels 0 or 1), ``levels`` (grey levels as classes) or ``density`` (real pixels). A density on 8-bit levels is unbounded
without dequantisation: the data module dequantises for it, and the Gaussian and the Laplace keep their scale at half a level at least.

A decoder gives ``[..., P * C, H, W]`` with the parameters as the slower index: all channels of the first, then all channels of the second, and so on.
"""

from vaelab.likelihoods.bernoulli import BernoulliLikelihood
from vaelab.likelihoods.beta import BetaLikelihood
from vaelab.likelihoods.categorical import CategoricalLikelihood
from vaelab.likelihoods.continuous_bernoulli import ContinuousBernoulliLikelihood
from vaelab.likelihoods.discretized_logistic import DiscretizedLogisticLikelihood
from vaelab.likelihoods.gaussian import GaussianLikelihood
from vaelab.likelihoods.laplace import LaplaceLikelihood
from vaelab.likelihoods.logistic_mixture import LogisticMixtureLikelihood

__all__ = [
    "BernoulliLikelihood",
    "BetaLikelihood",
    "CategoricalLikelihood",
    "ContinuousBernoulliLikelihood",
    "DiscretizedLogisticLikelihood",
    "GaussianLikelihood",
    "LaplaceLikelihood",
    "LogisticMixtureLikelihood",
]
