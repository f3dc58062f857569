"""A linear VAE, trained as any other, against probabilistic PCA, whose maximum is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from oracles import Flat, LinearDecoder
from vaelab.evidence import BoundEstimator, estimate
from vaelab.experiments.assembly import Parts, assemble, build_trainer
from vaelab.noise import ImageDraws, Noise, Split

Compose = Callable[..., dict[str, Any]]
D, P, N = 2, 12, 500
# grey levels as they are: with noise of dequantisation the data would be others at every step
LINEAR = ("data=arrays", "data.val_size=0", "data.batch_size=100", "data.pixel_range=[-1,1]", "data.dequantize=false", f"latent_dim={D}", f"encoder.hidden=[{P}]",
          "likelihood=gaussian", "likelihood.variance=learned", "likelihood.sigma_floor=0", "objective.kl=closed_form",
          "optimizer.lr=0.03", "optimizer.schedule=cosine", "trainer.max_epochs=400", "trainer=cpu",
          "trainer.enable_progress_bar=false")  # fmt: skip


def images() -> np.ndarray:
    """Images ``[N, 1, P]`` of D factors and noise."""
    draw = np.random.default_rng(0)
    factors = draw.standard_normal((N, D)) @ (draw.standard_normal((D, P)) * [[0.10], [0.06]])
    grey = 0.5 + factors + 0.07 * draw.standard_normal((N, P))
    return np.rint(255 * grey.clip(0, 1)).astype(np.uint8)[:, None]


def linear(config: dict[str, Any]) -> Parts:
    """The parts of a run, whose encoder gives the pixels themselves and whose decoder is one linear layer."""
    parts, draw = assemble(config), torch.Generator().manual_seed(0)
    parts.module.model.encoder = Flat(P)
    parts.module.model.decoder = LinearDecoder(0.1 * torch.randn(P, D, generator=draw), torch.zeros(P))
    return parts


def largest_likelihood(x: Tensor) -> float:
    """Largest mean log p(x) of images ``[N, P]`` under any W, b and sigma^2: what is not kept is noise (Tipping & Bishop 1999, section 3.2)."""
    variances = torch.linalg.eigvalsh(x.T.cov(correction=0)).flip(0)
    log_det = variances[:D].log().sum() + (P - D) * variances[D:].mean().log()
    return -0.5 * (P * math.log(2 * math.pi) + log_det + P).item()


@pytest.mark.slow
def test_a_linear_vae_reaches_the_maximum_of_probabilistic_pca(compose: Compose, tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", train=images(), test=images()[:2])
    parts = linear(compose(*LINEAR, f"data.path={tmp_path / 'images.npz'}"))
    build_trainer(parts).fit(parts.module, datamodule=parts.data)
    model, index = parts.module.model.double().eval(), torch.arange(N)
    parts.data.move_to(torch.device("cpu"), torch.float64)
    batch = parts.data.evaluation_batch("train", index)
    x = batch.x.flatten(1)
    with torch.no_grad():
        W, b, sigma = model.decoder.weight, model.decoder.bias, model.likelihood(batch.x).stddev.max()
        covariance = W @ W.T + sigma**2 * torch.eye(P)
        exact = MultivariateNormal(b, covariance).log_prob(x).mean().item()
        q = model.infer(batch.x)
        squares = (x - q.mean @ W.T - b).square().sum(1) + q.variance @ W.square().sum(0)
        distortion = 0.5 * (squares / sigma**2 + P * (2 * math.pi * sigma**2).log())
        rate = 0.5 * (q.variance + q.mean.square() - 1 - q.variance.log()).sum(1)
        columns = BoundEstimator(100)(model, batch, ImageDraws(Noise(1), Split.train, index))
    elbo = -(rate + distortion).mean().item()
    best = largest_likelihood(x)
    assert elbo <= exact <= best
    assert best - elbo < 0.02
    measured = estimate(columns["elbo"], columns["elbo_variance"])
    assert measured.se_mc is not None
    assert abs(measured.value - elbo) < 4 * measured.se_mc < 0.1
