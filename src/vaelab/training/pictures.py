"""Pictures of a model: what it samples, reconstructs, and has put where in its latent space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab import figures
from vaelab.data.datamodule import ImageDataModule
from vaelab.models import closed_form_kl
from vaelab.noise import Noise, Split, Stream
from vaelab.training.loggers import log_picture, shows_pictures

SAMPLES = 64
PAIRS = 32
TRAVERSED, TRAVERSAL_STEPS, TRAVERSAL_END = 10, 11, 3.0
INTERPOLATIONS, INTERPOLATION_STEPS = 8, 12
MANIFOLD_SIZE = 20
SCATTERED = 5_000


@dataclass(frozen=True)
class Codes:
    """Posterior means of test images ``[N, D]``, the images' classes ``[N]``, the mean KL of each dimension ``[D]``."""

    means: Tensor
    y: Tensor
    kl: Tensor


class Artist:
    """Draws a model on the test images.

    Args:
        model: with its weights, on any device.
        data: set up.
        noise: what the samples are made of: the same noise gives the same samples.
    """

    def __init__(self, model: nn.Module, data: ImageDataModule, noise: Noise) -> None:
        self.model: Any = model
        self.data = data
        self.noise = noise
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype

    @torch.no_grad()
    def samples(self, n: int = SAMPLES) -> np.ndarray:
        """Means of p(x|z) at ``n`` samples of the prior ``[n, C, H, W]``, in [0, 1]; the first ones do not depend on ``n``."""
        eps = self.noise.image_normal(
            Stream.prior, Split.train, torch.arange(n), (self.model.prior.noise_dim,)
        )
        return np.concatenate(
            [self._mean(self.model.sample(part.to(self.device, self.dtype))) for part in eps.split(4096)]
        )

    @torch.no_grad()
    def reconstructions(self, n: int = PAIRS) -> tuple[np.ndarray, np.ndarray]:
        """Test images and the means of p(x|z) at their posterior means, both ``[n, C, H, W]``."""
        x = self.data.evaluation_batch("test", torch.arange(min(n, self.data.size("test")))).x.to(
            self.device, self.dtype
        )
        return self._unit(x), self._mean(self.model.decode(self.model.infer(x).mean))

    @torch.no_grad()
    def codes(self, n: int = SCATTERED) -> Codes:
        means, kls, ys = [], [], []
        for index in torch.arange(min(n, self.data.size("test"))).split(1000):
            batch = self.data.evaluation_batch("test", index)
            q = self.model.infer(batch.x.to(self.device, self.dtype))
            kl = closed_form_kl(q, self.model.prior(infer=self.model.infer))
            means.append(q.mean.float().cpu())
            ys.append(batch.y.cpu())
            # Without a closed form the spread of the means says which dimensions are used.
            kls.append((kl if kl is not None else q.mean.square() / 2).float().cpu())
        return Codes(torch.cat(means), torch.cat(ys), torch.cat(kls).mean(0))

    @torch.no_grad()
    def traversal(self, codes: Codes) -> Figure:
        dims = codes.kl.argsort(descending=True)[:TRAVERSED].tolist()
        values = torch.linspace(-TRAVERSAL_END, TRAVERSAL_END, TRAVERSAL_STEPS)
        z = codes.means[0].repeat(len(dims), len(values), 1)
        for row, dim in enumerate(dims):
            z[row, :, dim] = values
        images = self._mean(self.model.decode(z.flatten(0, 1).to(self.device, self.dtype)))
        shape = (len(dims), len(values), *images.shape[1:])
        return figures.traversal(images.reshape(shape), values.numpy(), dims, codes.kl[dims].tolist())

    @torch.no_grad()
    def interpolation(self) -> Figure:
        n = min(2 * INTERPOLATIONS, self.data.size("test") // 2 * 2)
        x = self.data.evaluation_batch("test", torch.arange(n)).x.to(self.device, self.dtype)
        start, end = self.model.infer(x).mean.chunk(2)
        weights = torch.linspace(0, 1, INTERPOLATION_STEPS, device=self.device, dtype=self.dtype)[
            None, :, None
        ]
        z = torch.lerp(start[:, None], end[:, None], weights)
        images = self._mean(self.model.decode(z.flatten(0, 1))).reshape(
            n // 2, INTERPOLATION_STEPS, *x.shape[1:]
        )
        first, last = np.split(self._unit(x), 2)
        return figures.interpolation(np.concatenate([first[:, None], images, last[:, None]], axis=1))

    @torch.no_grad()
    def manifold(self) -> Figure:
        """The plane of a two-dimensional latent variable at the quantiles of a standard normal."""
        quantiles = torch.linspace(0.025, 0.975, MANIFOLD_SIZE)
        z = torch.special.ndtri(quantiles)
        plane = torch.stack(torch.meshgrid(z, z, indexing="xy"), dim=-1)  # [row = z_1, column = z_0, 2]
        images = self._mean(self.model.decode(plane.flatten(0, 1).to(self.device, self.dtype)))
        return figures.manifold(
            images.reshape(MANIFOLD_SIZE, MANIFOLD_SIZE, *images.shape[1:]), quantiles.numpy()
        )

    def latents(self, codes: Codes) -> Figure:
        means = codes.means.numpy()
        if means.shape[1] == 1:
            means = np.concatenate([means, np.zeros_like(means)], axis=1)
        if means.shape[1] == 2:
            return figures.latents(means, codes.y.numpy())
        from sklearn.decomposition import PCA  # seconds to import

        pca = PCA(2, svd_solver="full").fit(means)
        first, second = pca.explained_variance_ratio_.tolist()
        names = ("first principal component", "second principal component")
        return figures.latents(pca.transform(means), codes.y.numpy(), explained=(first, second), names=names)

    def _mean(self, distribution: Distribution) -> np.ndarray:
        return self._unit(distribution.mean)

    def _unit(self, pixels: Tensor) -> np.ndarray:
        return self.data.protocol.to_unit(pixels.float()).cpu().numpy()


def draw(artist: Artist, rows: list[dict[str, float]], best_step: int | None) -> dict[str, Figure]:
    """Every picture of a finished run, by the name of its file."""
    codes = artist.codes()
    pictures = {
        "samples": figures.samples(artist.samples(), title="samples from the prior, means of p(x|z)"),
        "reconstructions": figures.reconstructions(*artist.reconstructions()),
        "traversal": artist.traversal(codes),
        "interpolation": artist.interpolation(),
        "latents": artist.latents(codes),
        "learning_curves": figures.learning_curves(rows, best_step=best_step),
    }
    if codes.means.shape[1] == 2:
        pictures["manifold"] = artist.manifold()
    return pictures


class TrackerPictures(L.Callback):
    """Samples at fixed noise and reconstructions of fixed images, for the loggers that show pictures, under keys that stay the same.

    Args:
        every_n_epochs: how often.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        loggers = [logger for logger in trainer.loggers if shows_pictures(logger)]
        if not loggers:
            return
        was_training = pl_module.model.training
        pl_module.model.eval()
        artist = Artist(pl_module.model, pl_module.data, pl_module.noise)
        samples, (x, x_hat) = artist.samples(), artist.reconstructions()
        pl_module.model.train(was_training)
        columns = min(8, len(x))
        rows = len(x) // columns
        pairs = np.stack(
            [a[: rows * columns].reshape(rows, columns, *x.shape[1:]) for a in (x, x_hat)], axis=1
        )
        log_picture(loggers, "samples", tile(samples.reshape(8, 8, *x.shape[1:])), trainer.global_step)
        log_picture(
            loggers,
            "reconstructions",
            tile(pairs.reshape(2 * rows, columns, *x.shape[1:])),
            trainer.global_step,
        )


def tile(images: np.ndarray) -> np.ndarray:
    """Images ``[rows, columns, C, H, W]`` in [0, 1] as one picture ``[rows * H, columns * W, 3]``, uint8."""
    rows, columns, channels, height, width = images.shape
    sheet = images.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    return np.broadcast_to((sheet * 255).round().astype(np.uint8), (*sheet.shape[:2], 3)).copy()
