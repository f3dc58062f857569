"""Seconds of a training epoch of the reference experiment, beside loops written by hand.

All variants run in one process, some fifty steps of each in turn, so that what else the machine does hits all of them alike. The vae-train epoch is everything from the start of
one epoch to the start of the next, less the others' steps: default logger (W&B, offline), progress bar, metrics, checkpoint, pictures for the tracker.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench_steps import composed

TITLE = "Training"
SAME_LIBRARY = "plain loop, engine.matmul"
ABOUT = """\
Seconds an epoch of the reference experiment (60,000 images, batch 128), interleaved by fifty steps.

`vae-train`: the whole epoch with default logger, progress bar, metrics every 50 steps, checkpoint and tracker pictures. `plain loop`: written by hand over
the same tensors in memory, fused Adam, three metrics added up. `plain loop, engine.matmul`: the same, with the products computed by the library that `vae-train` takes on this CPU (`engine.matmul=auto`). `torchvision and DataLoader`: the same loop over `DataLoader(MNIST(...))`. `matrix products`: those of both passes
of the plain loop's networks, and nothing else. `pythae`, where it is installed (`pip install pythae`): the steps of its trainer on the same images as float32, without its progress bar. The aim is 1.05 times the plain loop."""


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Seconds of each epoch, of each variant."""
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ["TTY_COMPATIBLE"] = "1"  # the progress bar is drawn, terminal or not
    import lightning as L

    from vaelab.data import datasets
    from vaelab.experiments.train import train
    from vaelab.training.arithmetic import products

    x = datasets.load("mnist", data_dir).train.x
    variants: dict[str, Iterator[None]] = {
        "plain loop": plain_loop(x),
        SAME_LIBRARY: plain_loop(x),
        "torchvision and DataLoader": dataloader_loop(data_dir),
        "matrix products": products_loop(),
    }
    if find_spec("pythae") is not None:
        variants["pythae"] = pythae_loop(x)
    times: dict[str, list[float]] = {name: [] for name in ("vae-train", *variants)}

    class InTurn(L.Callback):
        """After each chunk of steps of vae-train, as many steps of every other variant; their time is not vae-train's."""

        started = elsewhere = 0.0

        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if self.started:
                self.note()
            self.spent = dict.fromkeys(variants, 0.0)
            self.started, self.elsewhere = time.perf_counter(), 0.0

        def on_train_batch_end(
            self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            for name, steps in variants.items():
                with products("auto" if name == SAME_LIBRARY else "fp32", pl_module):
                    began = time.perf_counter()
                    for _ in batch.indices:
                        next(steps)
                    self.spent[name] += time.perf_counter() - began
            self.elsewhere = sum(self.spent.values())

        def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.note()

        def note(self) -> None:
            times["vae-train"].append(time.perf_counter() - self.started - self.elsewhere)
            for name, seconds in self.spent.items():
                times[name].append(seconds)

    with tempfile.TemporaryDirectory() as logs:
        overrides = [
            "experiment=reference",
            f"trainer.max_epochs={repetitions + 1}",
            f"paths.log_dir={logs}",
            "trainer=cpu",
        ]
        train(composed(*overrides), callbacks=[InTurn()])
    return {name: seconds[1:] for name, seconds in times.items()}


def network(device: str = "cpu", capturable: bool = False) -> tuple[Any, ...]:
    """The reference's layers, and their optimizer."""
    import torch
    from torch import nn

    encoder = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
    mean, log_variance = nn.Linear(256, 64), nn.Linear(256, 64)
    decoder = nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 784)
    )
    parts = [part.to(device) for part in (encoder, mean, log_variance, decoder)]
    parameters = [p for part in parts for p in part.parameters()]
    return *parts, torch.optim.Adam(parameters, 1e-3, fused=True, capturable=capturable)


def train_step(parts: tuple[Any, ...], x: Any, totals: Any) -> None:
    """One step as one writes it by hand, with loss, distortion and rate added up."""
    import torch
    import torch.nn.functional as F

    encoder, mean, log_variance, decoder, optimizer = parts
    hidden = encoder(x)
    mu, logvar = mean(hidden), log_variance(hidden)
    z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
    distortion = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
    rate = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    loss = (distortion + rate) / len(x)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    totals += torch.stack([loss.detach() * len(x), distortion.detach(), rate.detach()])


def plain_loop(images: Any) -> Iterator[None]:
    """Steps over the same uint8 tensors in memory that vae-train uses, epoch after epoch."""
    import torch

    parts = network()
    while True:
        totals = torch.zeros(3)
        for index in torch.randperm(len(images)).split(128):
            train_step(parts, images[index].view(-1, 784).float() / 255, totals)
            yield


def products_loop() -> Iterator[None]:
    """The products of matrices of a step, and nothing else."""
    import torch

    layers = [part for part in network()[:-1] for part in part.modules() if isinstance(part, torch.nn.Linear)]
    inputs = [torch.randn(128, layer.in_features) for layer in layers]
    outputs = [torch.randn(128, layer.out_features) for layer in layers]
    while True:
        with torch.no_grad():
            for place, (layer, x, y) in enumerate(zip(layers, inputs, outputs, strict=True)):
                torch.mm(x, layer.weight.T)
                torch.mm(y.T, x)
                if place > 0:  # nobody asks for the gradient of the images
                    torch.mm(y, layer.weight)
        yield


def dataloader_loop(data_dir: Path) -> Iterator[None]:
    """Steps as in most tutorials: torchvision's data set behind a DataLoader."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    root = Path(tempfile.mkdtemp()) / "MNIST" / "raw"
    root.mkdir(parents=True)
    for file in (data_dir / "MNIST" / "raw").resolve().glob("*.gz"):
        (root / file.name).symlink_to(file)
    data = datasets.MNIST(root.parents[1], train=True, download=True, transform=transforms.ToTensor())
    loader, parts = DataLoader(data, batch_size=128, shuffle=True), network()
    while True:
        totals = torch.zeros(3)
        for x, _ in loader:
            train_step(parts, x.view(-1, 784), totals)
            yield


def pythae_loop(images: Any) -> Iterator[None]:
    """Steps as ``pythae.trainers.BaseTrainer.train_step`` carries them out, for the same layers."""
    import torch
    from pythae.data.datasets import BaseDataset  # pyright: ignore[reportMissingImports]
    from pythae.models import VAE, VAEConfig  # pyright: ignore[reportMissingImports]
    from pythae.models.base.base_utils import ModelOutput  # pyright: ignore[reportMissingImports]
    from pythae.models.nn import BaseDecoder, BaseEncoder  # pyright: ignore[reportMissingImports]
    from pythae.trainers import BaseTrainer, BaseTrainerConfig  # pyright: ignore[reportMissingImports]

    layers, mean, log_variance, of_code, _ = network()

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.mean, self.log_variance = layers, mean, log_variance

        def forward(self, x: Any) -> Any:
            hidden = self.layers(x.flatten(1))
            return ModelOutput(embedding=self.mean(hidden), log_covariance=self.log_variance(hidden))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = of_code

        def forward(self, z: Any) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)).view(-1, 1, 28, 28))

    x = images.float() / 255
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=64, reconstruction_loss="bce")
    data = BaseDataset(x, torch.zeros(len(x)))
    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder, per_device_train_batch_size=128, learning_rate=1e-3, no_cuda=True
        )
        trainer = BaseTrainer(VAE(config, Encoder(), Decoder()), data, training_config=settings)
        trainer.set_optimizer()
    while True:
        trainer.model.train()
        for inputs in trainer.train_loader:
            output = trainer.model(inputs, epoch=1, dataset_size=len(data), uses_ddp=False)
            trainer._optimizers_step(output)
            output.loss.item()
            yield
