"""sigma^2(z) from the decoder on real grey digits, whose border never changes: the case in which a Gaussian likelihood runs away."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import vaelab
from vaelab.experiments.train import train
from vaelab.runs.metrics import read

Compose = Callable[..., dict[str, Any]]
FLOOR = 1 / 256 / 2  # half a grey level


def test_the_bound_improves_and_sigma_stays_above_its_floor(compose: Compose, mnist_dir: Path) -> None:
    config = compose(
        "likelihood=gaussian", "data=mnist", f"paths.data_dir={mnist_dir}", "data.train_size=10000", "data.val_size=1000", "latent_dim=8",
        "encoder.hidden=[64]", "decoder.hidden=[64]", "trainer=cpu", "trainer.max_epochs=6", "trainer.enable_progress_bar=false", "estimator=elbo",
    )  # fmt: skip
    result = train(config)
    bounds = [row["val/elbo"] for row in read(result.directory / "metrics.csv") if "val/elbo" in row]
    assert all(map(math.isfinite, bounds))
    # single epochs fall by a hundred nats and more, another one in each order of rounding
    assert statistics.median(bounds[3:]) > max(bounds[:2])
    assert bounds[-1] - bounds[0] > 200
    cards = {card.metric: card for card in result.cards}
    assert cards["elbo"].protocol["label"] == "nll"
    assert cards["elbo"].protocol["dequantize"] is True
    # Probabilities of grey levels are at most 1, so is their product: no density of dequantised pixels can pass 256 a pixel.
    assert bounds[-1] < 784 * math.log(256)
    assert cards["elbo"].bits_per_dim is not None
    assert cards["elbo"].bits_per_dim > 0
    with torch.no_grad():
        model: Any = vaelab.load(result.directory)
        p = model.decode(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
    assert (p.stddev >= FLOOR).all()
    assert bounds[-1] < 784 * math.log(256), (
        "no density of dequantised levels has more: the levels would have less than no entropy"
    )
    border, centre = p.stddev[..., 0, :].mean(), p.stddev[..., 10:18, 10:18].mean()
    assert border < 0.1 < centre, "it starts at 0.1; the border is known better by now, the centre less"
