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
from vaelab.batch import Batch
from vaelab.data.datamodule import ImageDataModule
from vaelab.noise import Noise, Split, Stream
from vaelab.training.loggers import log_picture, shows_pictures

COLUMNS, ROWS, MOST_ROWS = 8, 8, 16  # of the picture of samples
PAIRS = 32
TRAVERSED, TRAVERSAL_STEPS, TRAVERSAL_END = 10, 11, 3.0
INTERPOLATIONS, INTERPOLATION_STEPS = 8, 12
MANIFOLD_SIZE = 20
SCATTERED = 5_000
ANALOGIES = 10  # test images


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
        generates: the model has learned p(x); otherwise there is nothing to be drawn of it.
    """

    def __init__(self, model: nn.Module, data: ImageDataModule, noise: Noise, generates: bool = True) -> None:
        self.model: Any = model
        self.data = data
        self.noise = noise
        self.generates = generates
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype

    @torch.no_grad()
    def samples(self, n: int = COLUMNS * ROWS) -> np.ndarray:
        """Means of p(x|z) at ``n`` samples of the prior ``[n, C, H, W]``, in [0, 1]; the first ones do not depend on ``n``."""
        index, labels = torch.arange(n), self.labels(n)
        eps = self.noise.image_normal(Stream.prior, Split.train, index, (self.model.prior_noise_dim,))
        y = None if labels is None else labels.to(self.device)
        return np.concatenate(
            [
                self._mean(
                    self.model.sample(eps[part].to(self.device, self.dtype), None if y is None else y[part])
                )
                for part in index.split(4096)
            ]
        )

    def labels(self, n: int) -> Tensor | None:
        """Labels of ``n`` samples ``[n]``, a class for each row of the picture in turn; None where the model takes none."""
        if not self.model.num_classes:
            return None
        return torch.arange(n) // COLUMNS % self.model.num_classes

    @property
    def num_samples(self) -> int:
        """Samples of the picture: eight rows, or a row for each class."""
        return COLUMNS * max(ROWS, min(self.model.num_classes, MOST_ROWS))

    def _test_images(self, index: Tensor) -> Batch:
        batch = self.data.evaluation_batch("test", index)
        return Batch(*(part.to(self.device) for part in (batch.x.to(self.dtype), batch.y, batch.index)))

    @torch.no_grad()
    def reconstructions(self, n: int = PAIRS) -> tuple[np.ndarray, np.ndarray]:
        """Test images and the means of p(x|z) at their posterior means, both ``[n, C, H, W]``."""
        batch = self._test_images(torch.arange(min(n, self.data.size("test"))))
        noiseless = self.model.reconstruct(batch, batch.x.new_zeros(1, len(batch.x), self.model.noise_dim))
        return self._unit(batch.x), self._unit(noiseless.mean[0])

    @torch.no_grad()
    def codes(self, n: int = SCATTERED) -> Codes:
        means, kls, ys = [], [], []
        for index in torch.arange(min(n, self.data.size("test"))).split(1000):
            batch = self._test_images(index)
            code = self.model.encode(batch)
            z, kl = code.z[0], code.kl
            means.append(z.float().cpu())
            ys.append(batch.y.cpu())
            # Without a closed form the spread of the means says which dimensions are used.
            kls.append(
                (z.square() / 2 if kl is None or kl.shape[-1] != z.shape[-1] else kl.reshape(z.shape))
                .float()
                .cpu()
            )
        return Codes(torch.cat(means), torch.cat(ys), torch.cat(kls).mean(0))

    @torch.no_grad()
    def traversal(self, codes: Codes) -> Figure:
        dims = codes.kl.argsort(descending=True)[:TRAVERSED].tolist()
        values = torch.linspace(-TRAVERSAL_END, TRAVERSAL_END, TRAVERSAL_STEPS)
        z = codes.means[0].repeat(len(dims), len(values), 1)
        for row, dim in enumerate(dims):
            z[row, :, dim] = values
        images = self._decode(z.flatten(0, 1), codes.y[:1].expand(len(dims) * len(values)))
        shape = (len(dims), len(values), *images.shape[1:])
        return figures.traversal(images.reshape(shape), values.numpy(), dims, codes.kl[dims].tolist())

    @torch.no_grad()
    def interpolation(self) -> Figure:
        n = min(2 * INTERPOLATIONS, self.data.size("test") // 2 * 2)
        batch = self._test_images(torch.arange(n))
        x = batch.x
        start, end = self.model.encode(batch).z[0].chunk(2)
        weights = torch.linspace(0, 1, INTERPOLATION_STEPS, device=self.device, dtype=self.dtype)[
            None, :, None
        ]
        z = torch.lerp(start[:, None], end[:, None], weights)
        y = batch.y.chunk(2)[0].repeat_interleave(
            INTERPOLATION_STEPS
        )  # the label stays that of the first image
        images = self._decode(z.flatten(0, 1), y).reshape(n // 2, INTERPOLATION_STEPS, *x.shape[1:])
        first, last = np.split(self._unit(x), 2)
        return figures.interpolation(np.concatenate([first[:, None], images, last[:, None]], axis=1))

    @torch.no_grad()
    def analogies(self) -> Figure:
        """The codes of test images in every class, of the first so many classes that fit on a sheet."""
        batch = self._test_images(torch.arange(min(ANALOGIES, self.data.size("test"))))
        z = self.model.encode(batch).z[0]
        classes = torch.arange(min(self.model.num_classes, MOST_ROWS))
        codes = z.repeat_interleave(len(classes), 0)
        images = self._decode(codes, classes.repeat(len(z)))
        shape = (len(z), len(classes), *images.shape[1:])
        return figures.analogies(self._unit(batch.x), images.reshape(shape), classes.tolist())

    @torch.no_grad()
    def manifold(self) -> Figure:
        """The plane of a two-dimensional latent variable at the quantiles of a standard normal."""
        quantiles = torch.linspace(0.025, 0.975, MANIFOLD_SIZE)
        z = torch.special.ndtri(quantiles)
        plane = torch.stack(torch.meshgrid(z, z, indexing="xy"), dim=-1)  # [row = z_1, column = z_0, 2]
        images = self._decode(plane.flatten(0, 1), torch.zeros(MANIFOLD_SIZE**2, dtype=torch.int64))
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

    def _decode(self, code: Tensor, y: Tensor) -> np.ndarray:
        labels = y.to(self.device) if self.model.num_classes else None
        return self._mean(self.model.decode(code.to(self.device, self.dtype), labels))

    def _mean(self, distribution: Distribution) -> np.ndarray:
        return self._unit(distribution.mean)

    def _unit(self, pixels: Tensor) -> np.ndarray:
        return self.data.protocol.to_unit(pixels.float()).cpu().numpy()


#: whether the model is conditional on labels -> what its samples are
SAMPLES_TITLE = {
    False: "samples from the prior, means of p(x|z)",
    True: "samples from the prior, means of p(x|z, y): a class a row",
}


def draw(artist: Artist, rows: list[dict[str, float]], best_step: int | None) -> dict[str, Figure]:
    """Every picture of a finished run, by the name of its file."""
    if not artist.generates:
        return {"learning_curves": figures.learning_curves(rows, best_step=best_step)} if rows else {}
    codes, conditional = artist.codes(), artist.model.num_classes > 0
    pictures = {
        "samples": figures.samples(artist.samples(artist.num_samples), title=SAMPLES_TITLE[conditional]),
        "reconstructions": figures.reconstructions(*artist.reconstructions()),
        "traversal": artist.traversal(codes),
    }
    if artist.model.infers_labels:
        pictures["analogies"] = artist.analogies()
    if rows:
        pictures["learning_curves"] = figures.learning_curves(rows, best_step=best_step)
    if len(codes.means) > 1:  # what one image has not got
        pictures["interpolation"] = artist.interpolation()
        pictures["latents"] = artist.latents(codes)
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
        was_training = pl_module.evaluated.training
        pl_module.evaluated.eval()
        artist = Artist(pl_module.evaluated, pl_module.data, pl_module.noise)
        samples, (x, x_hat) = artist.samples(artist.num_samples), artist.reconstructions()
        pl_module.evaluated.train(was_training)
        columns = min(8, len(x))
        rows = len(x) // columns
        pairs = np.stack(
            [a[: rows * columns].reshape(rows, columns, *x.shape[1:]) for a in (x, x_hat)], axis=1
        )
        log_picture(loggers, "samples", tile(samples.reshape(-1, COLUMNS, *x.shape[1:])), trainer.global_step)
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
