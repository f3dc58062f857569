"""Seconds of ``vae-sample``'s images, beside the decoder's products of matrices alone.

The model is the reference's (64 latent dimensions, decoder 256-512-784, Bernoulli) with initial weights: how long an image takes does not depend on them. ``vae-sample`` is what it does
for ``samples.npz``: random numbers, decoder, means, the file.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TITLE = "Sampling"
ABOUT = """\
Seconds for 20,000 images of the reference's model (64 latent dimensions, decoder 256-512-784), 100,000 take five times as long.

`vae-sample`: what it does for `samples.npz`: random numbers, decoder, means of p(x|z), the file, float32. `uint8`: the same with `dtype=uint8`. `drawn`: with `pixels=drawn`.
`compressed`: the same images as `vae-sample` makes, and then `numpy.savez_compressed`. `random numbers`: those of z alone. `decoder's products`: its three products of matrices on as many
rows, 256 at once, by the library that torch takes, and nothing else."""
IMAGES = 20_000


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Seconds of each repetition, of each variant."""
    import numpy as np
    import torch

    from vaelab.data.datamodule import ImageDataModule
    from vaelab.experiments.sample import write_npz
    from vaelab.likelihoods import BernoulliLikelihood
    from vaelab.models import VAE
    from vaelab.networks import MLPDecoder, MLPEncoder
    from vaelab.noise import Noise, Split, Stream
    from vaelab.posteriors import NormalPosterior
    from vaelab.priors import StandardNormalPrior
    from vaelab.training import arithmetic
    from vaelab.training.samples import BLOCK, Sampler

    shape, dim = (1, 28, 28), 64
    torch.manual_seed(0)
    decoder = MLPDecoder(dim, shape, [256, 512])
    model: Any = VAE(
        MLPEncoder(shape, [512, 256]), NormalPosterior(256, dim), StandardNormalPrior(dim), decoder,
        BernoulliLikelihood(shape, (0.0, 1.0), 256),
    ).eval()  # fmt: skip
    noise = Noise(0)
    data = ImageDataModule("mnist", data_dir, noise=noise, pixel_noise=noise)
    data.prepare_data()
    data.setup()
    linears = [layer for layer in decoder.modules() if isinstance(layer, torch.nn.Linear)]
    z = torch.randn(IMAGES, dim)

    def products() -> None:
        with arithmetic.products("fp32", model):
            for rows in z.split(BLOCK):
                for layer in linears:
                    rows = layer(rows)

    def numbers() -> None:
        for index in torch.arange(IMAGES).split(BLOCK):
            noise.image_normal(Stream.prior, Split.train, index, (dim,))

    def written(pixels: str = "mean", dtype: str = "float32") -> Callable[[], None]:
        def run() -> None:
            write_npz(folder / "samples.npz", Sampler(model, data, noise, pixels), IMAGES, dtype)

        return run

    def compressed() -> None:
        images = Sampler(model, data, noise)(IMAGES).numpy()
        np.savez_compressed(folder / "samples.npz", allow_pickle=False, images=images)

    variants: dict[str, Callable[[], None]] = {
        "vae-sample": written(),
        "uint8": written(dtype="uint8"),
        "drawn": written(pixels="drawn"),
        "compressed": compressed,
        "random numbers": numbers,
        "decoder's products": products,
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as name, torch.no_grad(), arithmetic.full_float32():
        folder = Path(name)
        for _ in range(repetitions + 1):
            for what, run in variants.items():
                began = time.perf_counter()
                run()
                times[what].append(time.perf_counter() - began)
    return {name: seconds[1:] for name, seconds in times.items()}
