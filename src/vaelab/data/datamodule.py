"""The LightningDataModule: a whole image data set as uint8 tensors, from which a batch is an index."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from typing import Protocol as TypingProtocol

import lightning as L
import torch
from torch import Tensor

from vaelab.batch import Batch
from vaelab.data import datasets, label_settings, labels, own
from vaelab.data.chunks import ChunkLoader, ChunkPlan, IndexLoader
from vaelab.data.datasets import ImageData, Split
from vaelab.data.protocol import protocol
from vaelab.errors import SettingError, choice, integer, number

SplitName = Literal["train", "val", "test"]
SUBSETS = ("first", "random")

DIGESTED = 100_000_000  # bytes of a split's pixels, for which SHA-256 takes about 0.1 s; MNIST has 47 million


@dataclass(frozen=True)
class Tested:
    """What a test measures.

    Attributes:
        split: of which the images are.
        index: of the images ``[N]``, int64; None = all of them.
        batch_size: images a batch at most.
    """

    split: SplitName = "test"
    index: Tensor | None = None
    batch_size: int = sys.maxsize


class NoiseSource(TypingProtocol):
    """What the data need of random numbers; see :class:`vaelab.noise.Noise`."""

    def order(self, epoch: int, num_images: int, purpose: str = ...) -> Tensor: ...

    def subset(self, num_images: int) -> Tensor: ...

    def step_pixels(
        self,
        purpose: str,
        step: int,
        shape: Sequence[int],
        device: torch.device | str,
        out: Tensor | None = ...,
    ) -> Tensor: ...

    def image_pixels(self, purpose: str, split: str, index: Tensor, shape: Sequence[int]) -> Tensor: ...


class ImageDataModule(L.LightningDataModule):
    """A data set of images, split, binarised and scaled by one protocol.

    Args:
        name: data set, one of :data:`vaelab.data.sources.SOURCES` or of a person's own, :data:`vaelab.data.own.OWN`.
        data_dir: where its files lie or go.
        noise: order of the training images and what changes with every visit (seed of the run).
        pixel_noise: what is sampled once: fixed binarisation, validation and test (``data.noise_seed``).
        support: the likelihood's; a density gets dequantised pixels.
        batch_size: images a minibatch, over all ranks.
        val_size: images cut from the end of the training set for validation; 0 trains on all of it. None = the data set's own
            validation images, or else a tenth of those to train on.
        train_size: only so many training images, or None = all.
        train_subset: which: the ``first``, or ``random`` ones, drawn by the seed of the run; a smaller set is part of a larger one.
        eval_batch_size: images a batch in validation and test; the numbers do not depend on it.
        classes: only images of these labels, in all three splits; None = all. Sizes count what is left.
        mutate: share of the pixels that training sees as a random level, drawn anew with every visit; validation and test see none.
        binarize, dequantize, pixel_range, noise_seed: see :class:`vaelab.data.protocol.Protocol`.
        num_labels: training images whose labels are known, equally many of each class; the others count as unlabelled (-1). None = all that there are.
        label_seed: of that choice; None = that of the run.
        labelled_per_batch: rows of a minibatch that labelled images get, which are gone through again and again, while an epoch visits the others once. None =
            an epoch visits all alike; ``batch_size`` = there are no others.
        label_noise: what the choice is made of.
        path, size, channels: of a person's own data, see :mod:`vaelab.data.arrays` and :mod:`vaelab.data.folder`.
        images: the data themselves, instead of ``name`` and ``data_dir``.

    Raises:
        SettingError: sizes that do not fit the data set; from :meth:`setup`.
    """

    def __init__(
        self,
        name: str,
        data_dir: str | Path,
        *,
        noise: NoiseSource,
        pixel_noise: NoiseSource,
        support: str = "binary",
        batch_size: int = 128,
        val_size: int | None = 10_000,
        train_size: int | None = None,
        train_subset: str = "first",
        eval_batch_size: int = 1_000,
        classes: Sequence[int] | None = None,
        mutate: float = 0.0,
        binarize: str = "none",
        dequantize: str | bool = "auto",
        pixel_range: Sequence[float] = (0.0, 1.0),
        noise_seed: int = 0,
        num_labels: int | None = None,
        label_seed: int | None = None,
        labelled_per_batch: int | None = None,
        label_noise: NoiseSource | None = None,
        path: str | Path | None = None,
        size: int | None = None,
        channels: int | None = None,
        images: ImageData | None = None,
    ) -> None:
        super().__init__()
        integer("data.batch_size", batch_size, 1)
        integer("data.eval_batch_size", eval_batch_size, 1)
        if train_size is not None:
            integer("data.train_size", train_size, 1)
        choice("data.train_subset", train_subset, SUBSETS)
        if train_size is None and train_subset != "first":
            raise SettingError("data.train_subset", train_subset, "needs data.train_size, of which they are")
        own.refuse_unread(name, path=path, size=size, channels=channels)
        self.classes = None if classes is None else own.classes(classes)
        self.mutate = number("data.mutate", mutate, "must be a number >= 0 and below 1", lambda m: 0 <= m < 1)
        self.dataset, self.data_dir = name, Path(data_dir)
        self._own_settings = {"path": path, "size": size, "channels": channels}
        self.noise, self.pixel_noise = noise, pixel_noise
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_size, self.train_size = val_size, train_size
        label_settings.check(num_labels, label_seed, labelled_per_batch, batch_size)
        self.num_labels, self.label_seed, self.labelled_per_batch = num_labels, label_seed, labelled_per_batch
        self.label_noise = noise if label_noise is None else label_noise
        self.train_subset = train_subset
        self.images = images
        self.plan: ChunkPlan | None = None  #: where chunks end; set before training
        self.validate_first = False  #: the run goes on where a validation is due
        self.tested = Tested()  #: set before a test of anything but the whole test split
        self._protocol_settings = {
            "support": support,
            "binarize": binarize,
            "dequantize": dequantize,
            "pixel_range": pixel_range,
            "noise_seed": noise_seed,
        }
        self.device, self.dtype = torch.device("cpu"), torch.float32  #: of the batches
        self._storage = torch.device("cpu")
        self._splits: dict[str, Split] = {}
        self._stored: dict[str, Split] = {}  # on the CPU, whatever is sampled once
        self._chosen: Tensor | None = None  # place in the training set of each image, where they are drawn
        self._pixels: dict[str, Tensor] = {}
        self._keys: dict[str, Tensor] = {}  # of images that were added
        self._known = torch.zeros(0, dtype=torch.int64)

    # -- what Lightning calls ------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Fetch and decode, in one process."""
        if self.images is None:
            self.images = datasets.load(self.dataset, self.data_dir, **self._own_settings)

    def setup(self, stage: str | None = None) -> None:
        """Cut the validation set; binarise what is sampled once."""
        if self._splits:
            return
        if self.images is None:
            self.images = datasets.load(self.dataset, self.data_dir, download=False, **self._own_settings)
        images = self.images if self.classes is None else _of_classes(self.images, self.classes)
        self.protocol = protocol(images.num_levels, **self._protocol_settings)  # pyright: ignore[reportArgumentType]
        train, val = _cut(images, self.val_size)
        if self.train_size is not None:
            if self.train_size > len(train.x):
                raise SettingError(
                    "data.train_size",
                    self.train_size,
                    f"must be at most {len(train.x)}, the images left to train on",
                )
            if self.train_subset == "random":
                self._chosen = self.noise.subset(len(train.x))[: self.train_size]
                train = Split(train.x[self._chosen], train.y[self._chosen])
            else:
                train = Split(train.x[: self.train_size], train.y[: self.train_size])
        self._val_offset = len(images.train.x) + (0 if images.val is None else len(images.val.x)) - len(val.x)
        self._splits = {"train": train, "val": val, "test": images.test}
        self._stored = dict(self._splits)
        if self.protocol.binarize == "fixed":
            levels = self._once("train", torch.arange(len(train.x)), train.x)
            self._splits["train"] = Split(levels.to(torch.uint8), train.y)
        self._known = self._known_labels()
        self.rows = labels.rows(
            self._known, self.batch_size, self.labelled_per_batch, self.noise.order
        )  #: of a minibatch

    def _known_labels(self) -> Tensor:
        """Labels of the training images as a run is told them ``[N]``; -1 = not."""
        y = self._splits["train"].y
        if self.num_labels is None:
            return y
        if self.num_classes == 0:
            raise SettingError(
                "data.num_labels", self.num_labels, "needs data with a label for every image; these have none"
            )
        chosen = labels.draw(y, self.num_labels, self.label_noise.order(0, len(y), "labels"))
        return torch.full_like(y, -1).index_copy_(0, chosen, y[chosen])

    def label_record(self) -> dict[str, Any] | None:
        """Which labels a run is told, for its manifest; None where there was no choice."""
        if self.num_labels is None:
            return None
        chosen = (self._known >= 0).nonzero().squeeze(-1).cpu()
        digest = hashlib.sha256(chosen.numpy().astype("<i8").tobytes()).hexdigest()
        return {"num_labels": self.num_labels, "label_seed": self.label_seed, "images": digest}

    def train_dataloader(self) -> ChunkLoader:
        if self.plan is None:
            raise ValueError("the chunk plan is missing: set datamodule.plan")
        return ChunkLoader(
            self.plan,
            self.rows.epoch,
            lambda: self._running.global_step,
            lambda: self.validate_first,
            self.device,
            self._beside if len(self.rows.repeated) else None,
        )

    def _beside(self, step: int) -> Tensor:
        assert self.plan is not None
        return self.rows.beside(step, self.plan.batch_size // self.rows.per_batch)

    def step_index(self, step: int) -> Tensor:
        """The training images of optimizer step ``step``, over all ranks."""
        assert self.plan is not None
        visited = self.rows.epoch(self.plan.epoch(step))[self.plan.rows(step)]
        return torch.cat([visited, self._beside(step)])

    def val_dataloader(self) -> IndexLoader:
        return self._evaluation_loader(Tested("val"))

    def test_dataloader(self) -> IndexLoader:
        return self._evaluation_loader(self.tested)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Indices go with their loader; pixels are fetched in the step."""
        return batch

    # -- what the step calls -------------------------------------------------------------------------------------------

    def move_to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """Give batches on ``device``, of type ``dtype``; hold the images there too where they fit in half of its free memory."""
        self.device, self.dtype = device, dtype
        if device == self._storage or not _fits(self._splits, device):
            return
        for name, split in self._splits.items():
            self._splits[name] = Split(split.x.to(device), split.y.to(device))
        self._known = self._known.to(device)
        self._pixels = {name: pixels.to(device) for name, pixels in self._pixels.items()}
        self._storage = device

    @property
    def is_on_device(self) -> bool:
        """Whether the images are held where batches are given."""
        return self._storage == self.device

    def share_pixels(self, other: ImageDataModule) -> None:
        """Have one copy with ``other``, whose settings are the same but for what the seed of the run decides, of what validation and test see."""
        if self.train_subset == "first":  # otherwise the seed decides which images there are
            self._pixels = other._pixels

    def size(self, split: str) -> int:
        return len(self._splits[split].x)

    def split_digests(self) -> dict[str, str]:
        """Which image is in which split: SHA-256 over pixels and labels of each, in order, as they are trained on.

        Of a split of more than :data:`DIGESTED` bytes every n-th image counts; that every byte is the same, the digests of the source say.
        """
        told = {**self._splits, "train": Split(self._splits["train"].x, self._known)}
        return {name: _digest(split) for name, split in told.items()}

    @property
    def identity(self) -> str:
        """What the data are called on a number's card; see :class:`vaelab.data.datasets.ImageData`."""
        return self.dataset if self.images is None else self.images.identity

    @property
    def num_classes(self) -> int:
        """Number of classes of the labels; 0 where not every training and test image has one."""
        labels = torch.cat([self._splits[name].y for name in ("train", "val", "test")])
        return int(labels.max()) + 1 if bool((labels >= 0).all()) else 0

    def pixel_means(self) -> Tensor:
        """Mean of each pixel over the training images ``[C, H, W]``, in [0, 1] whatever the pixel range; where each visit binarises anew, the mean probability."""
        x = self._splits["train"].x
        if self.protocol.binarize == "fixed":
            largest = 1
        elif self.protocol.binarize == "threshold":
            x, largest = self.protocol.levels(x.cpu(), None), 1
        else:
            largest = self.protocol.stored_levels - 1
        return x.sum(0, dtype=torch.float64).div(len(x) * largest).float()

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self._splits["train"].x.shape[1:])

    def train_batch(self, index: Tensor, step: int, rows: slice = slice(None)) -> Batch:
        """The training images at ``index [B]`` (over all ranks) as optimizer step ``step`` sees them; a rank takes its ``rows``."""
        return self.with_noise(index, self.step_noise(step, len(index)), rows)

    def step_noise(
        self, step: int, num_images: int, out: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The uniform numbers ``[B, C, H, W]`` that the pixels of a step take, by purpose, over all ranks; into ``out``, where there are some of an earlier step."""
        purposes = {
            "binarize": self.protocol.binarize == "dynamic",
            "mutate": self.mutate > 0,
            "dequantize": self.protocol.dequantize,
        }
        shape = (num_images, *self.image_shape)
        return {
            purpose: self.noise.step_pixels(
                purpose, step, shape, self.device, None if out is None else out[purpose]
            )
            for purpose, is_taken in purposes.items()
            if is_taken
        }

    def first_labelled(self, num_images: int) -> int | None:
        """From which of the images of a step (:meth:`step_index`), so many over all ranks, on all have a label, and none before it; None where they are mixed."""
        assert self.plan is not None
        return self.rows.first_labelled(num_images, self.plan.batch_size // self.rows.per_batch)

    def with_noise(self, index: Tensor, noise: Mapping[str, Tensor], rows: slice = slice(None)) -> Batch:
        """:meth:`train_batch`, of what :meth:`step_noise` has given."""
        split = self._splits["train"]
        mine = index if rows == slice(0, None, 1) else index[rows]
        here = mine.to(self._storage)
        stored = split.x.index_select(0, here).to(self.device)
        own = {purpose: uniform[rows] for purpose, uniform in noise.items()}
        fixed = self.protocol.binarize == "fixed"
        levels = stored.to(torch.float32) if fixed else self.protocol.levels(stored, own.get("binarize"))
        if "mutate" in own:
            levels = self.protocol.mutated(levels, own["mutate"], self.mutate)
        x = self.protocol.scale(levels, own.get("dequantize"))
        return Batch(x=x.to(self.dtype), y=self._known.index_select(0, here).to(self.device), index=mine)

    def add(self, name: str, images: Split) -> None:
        """Take further images ``[N, C, H, W]`` of the stored shape and levels, under a name of their own, to be measured as those of a split are."""
        assert name not in self._splits
        assert tuple(images.x.shape[1:]) == self.image_shape
        self._splits[name] = Split(images.x.to(self._storage), images.y.to(self._storage))
        self._keys[name] = torch.tensor([_key(image) for image in images.x.cpu()], dtype=torch.int64)

    def held_out(self) -> Split:
        """The test images of all classes that ``data.classes`` leaves out. Where it is not set, none."""
        assert self.images is not None
        test = self.images.test
        left_out = ~torch.isin(test.y, torch.tensor(self.classes or test.y.unique().tolist()))
        return Split(test.x[left_out], test.y[left_out])

    def evaluation_batch(self, split: str, index: Tensor) -> Batch:
        """The images of a split, or of those that were added, at ``index [B]`` as every validation and test sees them: a function of the protocol alone."""
        if split not in self._pixels:
            self._pixels[split] = self._evaluation_pixels(split).to(self._storage)
        here = index.to(self._storage)
        x, y = self._pixels[split][here], self._splits[split].y[here]
        return Batch(x=x.to(self.device, self.dtype), y=y.to(self.device), index=index.to(self.device))

    def noise_split(self, split: str) -> str:
        """The set under which an image's noise is made, of :class:`vaelab.noise.Split`."""
        return {"train": "train", "val": "train", "test": "test"}.get(split, "elsewhere")

    def grey(self, split: SplitName, index: Tensor) -> Tensor:
        """The images of a split at ``index [B]`` as they are stored, before any protocol: float32 in [0, 1], on the CPU."""
        assert self.images is not None  # set up
        return self._stored[split].x[index].float() / (self.images.num_levels - 1)

    def labels(self, split: SplitName) -> Tensor:
        """The label of each image of a split ``[N]``, int64, on the CPU: of training images as the run is told them; -1 = unlabelled."""
        return self._known.cpu() if split == "train" else self._stored[split].y

    def noise_index(self, split: str, index: Tensor) -> Tensor:
        """The index under which an image's noise is made: that in the training set, of drawn and of validation images, too; of one that was added, what its pixels say.

        So an image from elsewhere has the same noise whatever others it comes with.
        """
        if split in self._keys:
            return self._keys[split][index.cpu()]
        if split == "train" and self._chosen is not None:
            return self._chosen[index]
        return index + self._val_offset if split == "val" else index

    # -- inside --------------------------------------------------------------------------------------------------------

    def _evaluation_pixels(self, split: str) -> Tensor:
        stored = self._splits[split].x.cpu()
        index = torch.arange(len(stored))
        if split == "train" and self.protocol.binarize == "fixed":
            levels = stored.to(torch.float32)
        else:
            levels = self._once(split, index, stored)
        uniform = self._uniform("dequantize", split, index) if self.protocol.dequantize else None
        return self.protocol.scale(levels, uniform)

    def _once(self, split: str, index: Tensor, stored: Tensor) -> Tensor:
        return self.protocol.levels(
            stored, self._uniform("binarize", split, index) if self.protocol.samples_pixels else None
        )

    def _uniform(self, purpose: str, split: str, index: Tensor) -> Tensor:
        return self.pixel_noise.image_pixels(
            purpose, self.noise_split(split), self.noise_index(split, index), self.image_shape
        )

    def _evaluation_loader(self, tested: Tested) -> IndexLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        index = torch.arange(self.size(tested.split)) if tested.index is None else tested.index
        return IndexLoader(index, min(self.eval_batch_size, tested.batch_size), rank, world_size)

    @property
    def _running(self) -> L.Trainer:
        if self.trainer is None:
            raise ValueError("the data module is not attached to a trainer")
        return self.trainer


def _cut(images: ImageData, val_size: int | None) -> tuple[Split, Split]:
    """Training and validation images: the last ``val_size`` of all that is not test; an official validation set stands last."""
    x, y = images.train.x, images.train.y
    if images.val is not None:
        x, y = torch.cat([x, images.val.x]), torch.cat([y, images.val.y])
    if val_size is None:
        val_size = max(1, len(x) // 10) if images.val is None else len(images.val)
    if isinstance(val_size, bool) or not isinstance(val_size, int) or not 0 <= val_size < len(x):
        raise SettingError(
            "data.val_size",
            val_size,
            f"must be an integer from 0 to {len(x) - 1}, the training images less one, or null",
        )
    cut = len(x) - val_size
    return Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:])


def _of_classes(images: ImageData, classes: Sequence[int]) -> ImageData:
    """Only the images of some classes."""
    labels = images.train.y.unique().tolist()
    if missing := [label for label in classes if label not in labels]:
        there = "none, they have no labels" if labels == [-1] else ", ".join(map(str, labels))
        rule = f"has {', '.join(map(str, missing))}, which no training image is; there are {there}"
        raise SettingError("data.classes", list(classes), rule)
    kept = torch.tensor(classes)

    def only(split: Split) -> Split:
        chosen = torch.isin(split.y, kept)
        return Split(split.x[chosen], split.y[chosen])

    val = None if images.val is None else only(images.val)
    return replace(images, train=only(images.train), test=only(images.test), val=val)


def _key(image: Tensor) -> int:
    """A number below 2**63 that pixels ``[C, H, W]`` decide."""
    return int.from_bytes(hashlib.sha256(image.contiguous().numpy().data).digest()[:8], "little") >> 1


def _digest(split: Split) -> str:
    step = max(1, math.ceil(split.x.numel() / DIGESTED))
    x, y = split.x[::step].cpu().contiguous(), split.y.cpu().contiguous()
    found = hashlib.sha256(json.dumps([list(split.x.shape), step]).encode())
    for tensor in (x, y):
        found.update(tensor.numpy().data)
    return found.hexdigest()


def _fits(splits: Mapping[str, Split], device: torch.device) -> bool:
    """Whether all splits, and the pixels that validation and test keep as float32, take less than half of the device's free memory."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    kept = sum(4 * splits[name].x.numel() for name in ("val", "test"))
    return kept + sum(split.x.numel() for split in splits.values()) < free / 2
