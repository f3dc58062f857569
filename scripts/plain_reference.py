"""The reference experiment by a loop written by hand, without vaelab's step, model or noise: what its number is measured against.

    DATA_DIR=... .venv/bin/python scripts/plain_reference.py 0 1 2 3 4

Prints seed, test -ELBO, rate and distortion, in nats per image; about a minute a seed on two cores.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench_train import network, train_step
from vaelab.data import datasets

EPOCHS, BATCH, DRAWS = 10, 128, 8


def main(seeds: list[int]) -> int:
    torch.set_flush_denormal(True)
    images = datasets.load("mnist", Path(os.environ.get("DATA_DIR", "data")))
    for seed in seeds:
        torch.manual_seed(seed)
        rate, distortion = test(train(images.train.x), images.test.x)
        print(f"{seed}  {rate + distortion:.2f}  {rate:.2f}  {distortion:.2f}", flush=True)
    return 0


def train(x: Tensor) -> tuple[torch.nn.Module, ...]:
    parts, totals = network(), torch.zeros(3)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(x)).split(BATCH):
            train_step(parts, x[index].view(-1, 784).float() / 255, totals)
    return parts[:4]


@torch.no_grad()
def test(parts: tuple[torch.nn.Module, ...], stored: Tensor) -> tuple[float, float]:
    encoder, mean, log_variance, decoder = parts
    x = stored.view(-1, 784).float() / 255
    hidden = encoder(x)
    mu, logvar = mean(hidden), log_variance(hidden)
    draws = [decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)) for _ in range(DRAWS)]
    distortions = [F.binary_cross_entropy_with_logits(logits, x, reduction="sum") for logits in draws]
    rate = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return rate.item() / len(x), torch.stack(distortions).mean().item() / len(x)


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]]))
