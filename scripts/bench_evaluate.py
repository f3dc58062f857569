"""Seconds of an importance-weighted estimate with K = 5,000, beside the decoder's products of matrices alone.

The model is that of Burda et al. 2016 (784-200-200-50, tanh, Bernoulli), the images are MNIST's test images, binarised. ``vae-evaluate`` is what its test step does: noise, encoder,
decoder, log-likelihood and densities in the chosen formulation, log-sum-exp in float64, K-curve, bound. The other variants put another formulation of log p(x|z) in the place of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TITLE = "Evaluation"
ABOUT = """\
Seconds for 20 images with K = 5,000 importance samples of the model 784-200-200-50 (tanh, Bernoulli); 10,000 images take 500 times as long.

`vae-evaluate`: noise, encoder, decoder, log-likelihood, densities, log-sum-exp, K-curve and the bound, as its test step does it. `decoder's products`: the three products of
matrices of the decoder on as many rows by the library that torch takes, and nothing else. `softplus` and `cross-entropy`: vae-evaluate with log p(x|z) = x l - softplus(l), or by
`binary_cross_entropy_with_logits`, in the place of sums of log(1 + e^-|l|) by one logarithm of 32 factors. The aim is 2.2 times the products."""
IMAGES, K = 20, 5_000


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Seconds of each repetition, of each variant; every repetition has images of its own."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from vaelab.batch import Batch
    from vaelab.data import datasets
    from vaelab.evidence import ImportanceEstimator
    from vaelab.evidence.streaming import ROWS
    from vaelab.likelihoods import BernoulliLikelihood
    from vaelab.likelihoods.bernoulli import BernoulliImage
    from vaelab.models import VAE
    from vaelab.networks import MLPDecoder, MLPEncoder
    from vaelab.noise import ImageDraws, Noise, Split
    from vaelab.posteriors import NormalPosterior
    from vaelab.priors import StandardNormalPrior
    from vaelab.training import arithmetic

    class Softplus(BernoulliImage):
        def log_prob(self, value: Tensor) -> Tensor:
            logits = self.logits
            return (value * logits - F.softplus(logits)).flatten(-3).sum(-1)

    class CrossEntropy(BernoulliImage):
        def log_prob(self, value: Tensor) -> Tensor:
            logits = self.logits
            of_pixels = F.binary_cross_entropy_with_logits(logits, value.expand_as(logits), reduction="none")
            return -of_pixels.flatten(-3).sum(-1)

    class Formulated(BernoulliLikelihood):
        image: type[BernoulliImage] = BernoulliImage

        def forward(self, parameters: Tensor) -> BernoulliImage:
            return self.image(parameters)

    shape = (1, 28, 28)
    torch.manual_seed(0)
    likelihood = Formulated(shape, (0.0, 1.0), 256)
    decoder = MLPDecoder(50, shape, [200, 200], "tanh")
    model: Any = VAE(
        MLPEncoder(shape, [200, 200], "tanh"), NormalPosterior(200, 50), StandardNormalPrior(50), decoder, likelihood
    ).eval()  # fmt: skip
    images = (datasets.load("mnist", data_dir).test.x.float() / 255 > 0.5).float()
    estimator = ImportanceEstimator(K)
    linears = [layer for layer in decoder.modules() if isinstance(layer, torch.nn.Linear)]

    z = torch.randn(IMAGES * K, 50)

    def products(index: Tensor) -> None:
        with arithmetic.products("fp32", model):
            for rows in z.split(ROWS["cpu"]):
                for layer in linears:
                    rows = layer(rows)

    def evaluated(image: type[BernoulliImage]) -> Callable[[Tensor], None]:
        def run(index: Tensor) -> None:
            likelihood.image = image
            batch = Batch(images[index], torch.full_like(index, -1), index)
            for part in index.split(estimator.images_at_once):
                own = slice(int(part[0] - index[0]), int(part[-1] - index[0]) + 1)
                estimator(model, batch[own], ImageDraws(Noise(0), Split.test, part))

        return run

    variants: dict[str, Callable[[Tensor], None]] = {
        "vae-evaluate": evaluated(BernoulliImage),
        "decoder's products": products,
        "softplus": evaluated(Softplus),
        "cross-entropy": evaluated(CrossEntropy),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    with torch.no_grad(), arithmetic.full_float32():
        for repetition in range(repetitions + 1):
            index = torch.arange(IMAGES) + IMAGES * repetition
            for name, run in variants.items():
                began = time.perf_counter()
                run(index)
                times[name].append(time.perf_counter() - began)
    return {name: seconds[1:] for name, seconds in times.items()}
