"""Pictures of a model: what it samples, reconstructs, and has put where in its latent space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab import figures
from vaelab.batch import Batch
from vaelab.data.datamodule import ImageDataModule
from vaelab.latents import active_units
from vaelab.noise import Noise, Split, Stream
from vaelab.training.samples import Sampler

COLUMNS, ROWS, MOST_ROWS = 8, 8, 16  # of the picture of samples
PAIRS = 32
TRAVERSED, PAGES = 20, 4  # dimensions on a page, and pages
TRAVERSAL_STEPS, TRAVERSAL_END = 11, 3.0
INTERPOLATIONS, INTERPOLATION_STEPS = 8, 12
ARITHMETIC_ROWS = 8
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # of the difference of two classes
MANIFOLD_SIZE = 20
SCATTERED = 5_000
ANALOGIES = 10  # test images
PRIOR_SAMPLES = (
    1_024  # of which a prior's mean, standard deviation and quantiles are taken, where it is not N(0, I)
)


@dataclass(frozen=True)
class Codes:
    """Posterior means of test images ``[N, D]``, the images' classes ``[N]``, the mean KL of each dimension ``[D]``, or None without a closed form."""

    means: Tensor
    y: Tensor
    kl: Tensor | None

    @property
    def by_use(self) -> Tensor:
        """The dimensions, those that are used most first: by KL, or by the spread of the means where there is none."""
        return (self.spread if self.kl is None else self.kl).argsort(descending=True)

    @property
    def spread(self) -> Tensor:
        """Variance of the means over the images ``[D]``."""
        return self.means.var(0, correction=1) if len(self.means) > 1 else torch.ones_like(self.means[0])

    @property
    def active(self) -> list[int]:
        """The active dimensions (Burda et al. 2016), those that are used most first."""
        used = active_units(self.spread)
        return [dim for dim in self.by_use.tolist() if used[dim]]


class Artist:
    """Draws a model on the test images.

    Args:
        model: with its weights, on any device.
        data: set up.
        noise: what the samples are made of: the same noise gives the same samples.
        generates: the model has learned p(x); otherwise there is nothing to be drawn of it.
        classes, pixels, temperature: of the samples, see :class:`vaelab.training.samples.Sampler`.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageDataModule,
        noise: Noise,
        generates: bool = True,
        *,
        classes: tuple[int, ...] | None = None,
        pixels: str = "mean",
        temperature: float = 1.0,
    ) -> None:
        self.model: Any = model
        self.data = data
        self.noise = noise
        self.generates = generates
        #: a class for each row of the picture in turn
        self.sampler = Sampler(model, data, noise, pixels, temperature, classes, in_a_row=COLUMNS)
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype

    # -- samples -------------------------------------------------------------------------------------------------------

    def samples(self, n: int = COLUMNS * ROWS) -> np.ndarray:
        """Samples ``[n, C, H, W]``, in [0, 1]; the first ones do not depend on ``n``."""
        return self.sampler(n).numpy()

    @property
    def num_samples(self) -> int:
        """Samples of the picture: eight rows, or a row for each class."""
        classes = self.sampler.classes
        turns = self.model.num_classes if classes is None else len(classes)
        return COLUMNS * max(ROWS, min(turns, MOST_ROWS))

    def samples_picture(self) -> Figure:
        return figures.samples(self.samples(self.num_samples), title=self._samples_title(), columns=COLUMNS)

    def _samples_title(self) -> str:
        given = ", y" if self.model.num_classes else ""
        what = "means of" if self.sampler.pixels == "mean" else "pixels drawn from"
        title = f"samples from the prior, {what} p(x|z{given})"
        if self.sampler.temperature != 1.0:
            title += f", temperature {self.sampler.temperature:g}"
        if self.sampler.classes is not None:
            return f"{title}: y = {', '.join(map(str, self.sampler.classes))}"
        return f"{title}: a class a row" if given else title

    # -- test images ---------------------------------------------------------------------------------------------------

    def _test_images(self, index: Tensor) -> Batch:
        batch = self.data.evaluation_batch("test", index)
        return Batch(
            batch.x.to(self.device, self.dtype), batch.y.to(self.device), batch.index.to(self.device)
        )

    @torch.no_grad()
    def reconstructions(self, n: int = PAIRS) -> tuple[np.ndarray, np.ndarray]:
        """Test images and the means of p(x|z) at their posterior means, both ``[n, C, H, W]``."""
        batch = self._test_images(torch.arange(min(n, self.data.size("test"))))
        noiseless = self.model.reconstruct(batch, batch.x.new_zeros(1, len(batch.x), self.model.noise_dim))
        return self._unit(batch.x), self._unit(noiseless.mean[0])

    @cached_property
    def codes(self) -> Codes:
        """Of the first test images; made once."""
        return self.codes_of(min(SCATTERED, self.data.size("test")))

    @torch.no_grad()
    def codes_of(self, n: int) -> Codes:
        means, kls, ys = [], [], []
        for index in torch.arange(n).split(1000):
            batch = self._test_images(index)
            code = self.model.encode(batch)
            z, kl = code.z[0], code.kl
            means.append(z.float().cpu())
            ys.append(batch.y.cpu())
            per_dimension = kl is not None and kl.shape[-1] == z.shape[-1]
            kls.append(kl.reshape(z.shape).float().cpu() if kl is not None and per_dimension else None)
        whole = [kl for kl in kls if kl is not None]
        return Codes(
            torch.cat(means), torch.cat(ys), torch.cat(whole).mean(0) if len(whole) == len(kls) else None
        )

    @cached_property
    def code_dim(self) -> int:
        """D of the code."""
        return self.codes_of(1).means.shape[1]

    @cached_property
    def standard_prior(self) -> bool:
        """Whether p(z) = N(0, I)."""
        return self.model.traits().standard_prior

    @torch.no_grad()
    def prior_codes(self, label: int) -> Tensor:
        """Samples of the code's prior ``[n, D]``, given ``label`` where the model is conditional."""
        index = torch.arange(PRIOR_SAMPLES)
        eps = self.noise.image_normal(Stream.prior, Split.train, index, (self.model.prior_noise_dim,))
        y = torch.full_like(index, label).to(self.device) if self.model.num_classes else None
        z = self.model.simulate(eps.to(self.device, self.dtype), y).z
        return z[:, -self.code_dim :].float().cpu()

    # -- the latent space ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def traversed(self, codes: Codes, dims: Sequence[int]) -> np.ndarray:
        """The first test image's code with each of ``dims`` at the prior's mean and from -3 to 3 of its standard deviations around it, decoded ``[dims, steps, C, H, W]``."""
        mean, std = torch.zeros(self.code_dim), torch.ones(self.code_dim)
        if not self.standard_prior:
            drawn = self.prior_codes(int(codes.y[0]))
            mean, std = drawn.mean(0), drawn.std(0)
        values = _traversal_values()
        z = codes.means[0].repeat(len(dims), len(values), 1)
        for row, dim in enumerate(dims):
            z[row, :, dim] = mean[dim] + std[dim] * values
        images = self._decode(z.flatten(0, 1), codes.y[:1].expand(len(dims) * len(values)))
        return images.reshape(len(dims), len(values), *images.shape[1:])

    def traversal(self) -> list[Figure]:
        """Of every active dimension, page by page; of more than eighty the eighty that are used most, and the title says so."""
        codes = self.codes
        active = codes.active
        dims = active or codes.by_use[:1].tolist()
        of = (
            f"{len(active)} active of {self.code_dim} dimensions"
            if active
            else "no dimension is active, the most used one"
        ) + f" (on {len(codes.y):,} test images)"
        if len(dims) > TRAVERSED * PAGES:
            of = f"the first {TRAVERSED * PAGES} by use of {of}"
            dims = dims[: TRAVERSED * PAGES]
        pages = [dims[first : first + TRAVERSED] for first in range(0, len(dims), TRAVERSED)]
        pictures = []
        for number, some in enumerate(pages, 1):
            page = f"; page {number} of {len(pages)}" if len(pages) > 1 else ""
            title = f"latent traversal in standard deviations of the prior: {of}{page}"
            kl = None if codes.kl is None else codes.kl[some].tolist()
            images = self.traversed(codes, some)
            pictures.append(figures.traversal(images, _traversal_values().numpy(), some, kl, title))
        return pictures

    def pairs(self) -> list[tuple[int, int]]:
        """Test images that are next to each other, eight pairs: what lies between them is drawn if nobody asks for others."""
        n = min(2 * INTERPOLATIONS, self.data.size("test") // 2 * 2)
        return [(i, i + n // 2) for i in range(n // 2)]

    @torch.no_grad()
    def between(
        self, pairs: Sequence[tuple[int, int]], way: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> np.ndarray:
        """Test image, the codes on the ``way`` from its code to that of another one, decoded, the other image: ``[rows, steps + 2, C, H, W]``."""
        batch = self._test_images(torch.tensor(pairs).T.flatten())
        start, end = self.model.encode(batch).z[0].chunk(2)
        weights = torch.linspace(0, 1, INTERPOLATION_STEPS, device=self.device, dtype=self.dtype)
        z = way(start[:, None], end[:, None], weights[None, :, None])
        y = batch.y.chunk(2)[0].repeat_interleave(
            INTERPOLATION_STEPS
        )  # the label stays that of the first image
        images = self._decode(z.flatten(0, 1), y).reshape(len(pairs), INTERPOLATION_STEPS, *batch.x.shape[1:])
        first, last = np.split(self._unit(batch.x), 2)
        return np.concatenate([first[:, None], images, last[:, None]], axis=1)

    def interpolation(self, pairs: Sequence[tuple[int, int]] | None = None) -> Figure:
        """Rows between pairs of test images, linear and, under each, spherical where that means something."""
        chosen = self.pairs() if pairs is None else pairs
        ways = {"linear": torch.lerp} if self.not_spherical else {"linear": torch.lerp, "spherical": slerp}
        rows = np.stack([self.between(chosen, way) for way in ways.values()], axis=1)
        labels = [f"images {a} → {b}, {name}" for a, b in chosen for name in ways]
        title = "interpolation between test images" + (
            ": the label stays that of the first" if self.model.num_classes else ""
        )
        return figures.interpolation(rows.reshape(-1, *rows.shape[2:]), labels, title)

    @property
    def not_spherical(self) -> str | None:
        """Why spherical interpolation means nothing here; None = it does."""
        if not self.standard_prior:
            return "its sphere is that of N(0, I), and the prior is another one"
        return "a code of one dimension has no directions" if self.code_dim == 1 else None

    @torch.no_grad()
    def arithmetic(self, classes: tuple[int, int] | None = None) -> Figure:
        """Test images moved by the difference between the mean codes of two classes; None = from each class to the next one, a row each."""
        codes = self.codes
        present = sorted({int(c) for c in codes.y.tolist() if c >= 0})
        if classes is None:
            steps = [(a, b) for a, b in zip(present, [*present[1:], present[0]], strict=True)][:MOST_ROWS]
            rows = [(a, b, int((codes.y == a).nonzero()[0])) for a, b in steps]
        else:
            first = (codes.y == classes[0]).nonzero().flatten()[:ARITHMETIC_ROWS]
            rows = [(*classes, int(index)) for index in first]
        means = {c: codes.means[codes.y == c].mean(0) for c in present}
        index = torch.tensor([row[2] for row in rows])
        differences = torch.stack([means[b] - means[a] for a, b, _ in rows])
        z = codes.means[index][:, None] + torch.tensor(WEIGHTS)[None, :, None] * differences[:, None]
        images = self._decode(z.flatten(0, 1), codes.y[:1].expand(len(rows) * len(WEIGHTS)))
        decoded = images.reshape(len(rows), len(WEIGHTS), *images.shape[1:])
        shown = np.concatenate([self._unit(self._test_images(index).x)[:, None], decoded], axis=1)
        return figures.arithmetic(shown, [row[:2] for row in rows], WEIGHTS)

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
        """The plane of a two-dimensional code at the quantiles of the prior: of N(0, I), or of the marginals of another one's samples."""
        label = 0 if self.sampler.classes is None else self.sampler.classes[0]
        quantiles = torch.linspace(0.025, 0.975, MANIFOLD_SIZE)
        if self.standard_prior:
            across = up = torch.special.ndtri(quantiles)
            title = "decoded plane, by quantiles of the prior ($z_0$ across, $z_1$ up)"
        else:
            across, up = self.prior_codes(label).quantile(quantiles, dim=0).T
            title = "decoded plane, by quantiles of the prior's marginals ($z_0$ across, $z_1$ up)"
        plane = torch.stack(torch.meshgrid(across, up, indexing="xy"), dim=-1)  # [row = z_1, column = z_0, 2]
        images = self._decode(plane.flatten(0, 1), torch.full((MANIFOLD_SIZE**2,), label, dtype=torch.int64))
        return figures.manifold(
            images.reshape(MANIFOLD_SIZE, MANIFOLD_SIZE, *images.shape[1:]),
            quantiles.numpy(),
            f"{title}, y = {label}" if self.model.num_classes else title,
        )

    def latents(self) -> Figure:
        codes = self.codes
        means, explained = plane(codes.means)
        title = f"means of q(z|x) of {len(means):,} test images"
        if explained is None:
            return figures.latents(means, codes.y.numpy(), title=title)
        names = ("first principal component", "second principal component")
        title += ", in the plane in which they vary most"
        return figures.latents(means, codes.y.numpy(), explained=explained, names=names, title=title)

    def latents_sketch(self, codes: Codes) -> np.ndarray:
        """The same of fewer images, quickly: a picture ``[H, W, 3]``, uint8."""
        return figures.latents_sketch(plane(codes.means)[0], codes.y.numpy())

    # -- what can be drawn ---------------------------------------------------------------------------------------------

    def undrawable(self) -> dict[str, str]:
        """Which pictures mean nothing for this model or these data, and why."""
        if not self.generates:
            return dict.fromkeys(PICTURES, NO_IMAGES)
        reasons: dict[str, str] = {}
        if self.data.size("test") < 2:
            for name in ("interpolation", "latents"):
                reasons[name] = "there is one test image only"
        if self.code_dim != 2:
            reasons["manifold"] = f"the code has {self.code_dim} dimensions, and a plane has 2"
        if not self.model.infers_labels:
            reasons["analogies"] = (
                "this model is told the class, and does not infer it"
                if self.model.num_classes
                else "labels are no variable of this model"
            )
        if self.model.num_classes:
            reasons["arithmetic"] = "this model is told the class, so its code does not have to hold it"
        elif self.data.num_classes == 0 or len(self.data.labels("test").unique()) < 2:
            reasons["arithmetic"] = "the data have no labels, or one class"
        return reasons

    def _decode(self, code: Tensor, y: Tensor) -> np.ndarray:
        labels = y.to(self.device) if self.model.num_classes else None
        return self._mean(self.model.decode(code.to(self.device, self.dtype), labels))

    def _mean(self, distribution: Distribution) -> np.ndarray:
        return self._unit(distribution.mean)

    def _unit(self, pixels: Tensor) -> np.ndarray:
        return self.data.protocol.to_unit(pixels.float()).cpu().numpy()


def plane(codes: Tensor) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Codes ``[N, D]`` in the plane ``[N, 2]``: in that in which they vary most where D > 2, and then the fractions of their variance along its axes."""
    points = codes.numpy()
    if points.shape[1] == 1:
        return np.concatenate([points, np.zeros_like(points)], axis=1), None
    if points.shape[1] == 2:
        return points, None
    from sklearn.decomposition import PCA  # seconds to import

    pca = PCA(2, svd_solver="full").fit(points)
    first, second = pca.explained_variance_ratio_.tolist()
    return pca.transform(points), (first, second)


def _traversal_values() -> Tensor:
    return torch.linspace(-TRAVERSAL_END, TRAVERSAL_END, TRAVERSAL_STEPS)


def slerp(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """Spherical interpolation of codes ``[..., D]`` (Shoemake 1985; White 2016, "Sampling generative networks"): the direction goes along the arc, the length evenly.

    White puts codes into Shoemake's formula as they are: of two that have different lengths and are nearly opposite that leads far away from both. Where two directions are the same
    or opposite there is no such arc, or no single one, and the way is straight.

    >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]), torch.tensor(0.5))
    tensor([1.4142, 1.4142])
    """
    lengths = [code.norm(dim=-1, keepdim=True) for code in (start, end)]
    units = [code / length.clamp(min=1e-12) for code, length in zip((start, end), lengths, strict=True)]
    angle = torch.arccos((units[0] * units[1]).sum(-1, keepdim=True).clamp(-1, 1))
    sine = torch.sin(angle)
    straight = (sine < 1e-3) | (lengths[0] == 0) | (lengths[1] == 0)
    arc = torch.sin((1 - weight) * angle) * units[0] + torch.sin(weight * angle) * units[1]
    arc = (
        arc / torch.where(straight, torch.ones_like(sine), sine) * torch.lerp(lengths[0], lengths[1], weight)
    )
    return torch.where(straight, torch.lerp(start, end, weight), arc)


NO_IMAGES = "the model was trained to classify, and has not learned p(x)"
#: name -> a picture of a model, or several pages
PICTURES: Mapping[str, Callable[[Artist], Figure | list[Figure]]] = {
    "samples": Artist.samples_picture,
    "reconstructions": lambda artist: figures.reconstructions(*artist.reconstructions()),
    "traversal": Artist.traversal,
    "interpolation": Artist.interpolation,
    "arithmetic": Artist.arithmetic,
    "analogies": Artist.analogies,
    "manifold": Artist.manifold,
    "latents": Artist.latents,
}


def draw(artist: Artist, rows: list[dict[str, float]], best_step: int | None) -> dict[str, Figure]:
    """Every picture of a finished run that means something, by the name of its file."""
    without = artist.undrawable()
    pictures: dict[str, Figure] = {}
    for name, picture in PICTURES.items():
        if name not in without:
            pictures |= named(name, picture(artist))
    if rows:
        pictures["learning_curves"] = figures.learning_curves(rows, best_step=best_step)
    return pictures


def named(name: str, picture: Figure | list[Figure]) -> dict[str, Figure]:
    """Pages by the names of their files: ``traversal``, ``traversal_2``, ..."""
    pages = picture if isinstance(picture, list) else [picture]
    return {name if number == 1 else f"{name}_{number}": page for number, page in enumerate(pages, 1)}
