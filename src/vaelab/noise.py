"""Every random number of a run, as a function of what it is for.

A number depends on ``(seed, stream, step)`` in training and on ``(seed, stream, image index, repetition)`` in evaluation, and on
nothing else: not on what was drawn before, on the size of a chunk, on the number of devices or on an interruption.

Evaluation and order come from NumPy's Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a counter-based generator: seed and
stream are its key, image and repetition its counter, so that no two purposes can share a number; always on the CPU, whatever the device of the run. The noise of
a training step comes from torch's generator of the device, seeded for that step: an order of magnitude faster, and different on different kinds of device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from vaelab.errors import SettingError


class Stream(IntEnum):
    """What a random number is for. The values are part of every recorded number: never renumber, only add."""

    posterior = 0
    binarize = 1
    dequantize = 2
    order = 3
    prior = 4
    adaptation = 5
    annealing = 6
    simulation = 7
    pixels = 8  # of images drawn from p(x|z)
    labels = 9  # which training images are labelled
    labelled = 10  # the order in which these are seen
    subset = 12  # which training images there are
    repetition = 13  # of a whole computation
    geometry = 14  # shifts and turns of the images that it is trained on
    mutate = 20  # of training pixels
    bootstrap = 21  # which images a resample takes


class Split(IntEnum):
    """Which set an image index counts in. Validation images keep their index in the training set."""

    train = 0
    test = 1
    simulated = 2
    elsewhere = 3  # images that are not of the run's data


# The last word of the counter tells the kinds of key apart.
_STEP, _IMAGE, _EPOCH, _REPETITION = 0, 1, 2, 3

#: numbers that are worth a thread of their own
A_THREADS_WORTH = 100_000


class Noise:
    """The random numbers of one run.

    Args:
        seed: ``0 <= seed < 2**63``.

    Raises:
        SettingError: the seed is not such a number.

    >>> a, b = Noise(0), Noise(0)
    >>> _ = a.step_normal(Stream.posterior, 3, (2, 2))   # what was drawn before does not matter
    >>> torch.equal(a.step_normal(Stream.posterior, 7, (2, 2)), b.step_normal(Stream.posterior, 7, (2, 2)))
    True
    """

    def __init__(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise SettingError("seed", seed, "must be an integer from 0 to 2**63 - 1")
        self.seed = seed
        self._bases: dict[Stream, tuple[int, int]] = {}

    def _philox(self, stream: Stream, counter: Sequence[int]) -> np.random.Philox:
        return np.random.Philox(
            key=np.array([self.seed, stream], np.uint64), counter=np.array(counter, np.uint64)
        )

    def step_seed(self, stream: Stream, step: int) -> int:
        """Seed of torch's generator for one step: different for every step below 2**32 of a stream.

        torch's generator on the CPU looks at the lower 32 bits of a seed only, which is why they are a permutation of the step numbers and not a hash of them.
        """
        if stream not in self._bases:
            words = self._philox(stream, [0, 0, 0, _STEP]).random_raw(2)
            self._bases[stream] = int(words[0]) & 0x7FFFFFFF, int(words[1]) & 0xFFFFFFFF
        high, low = self._bases[stream]
        return high << 32 | _permute((low + step) & 0xFFFFFFFF)

    def _generator(self, stream: Stream, step: int, device: torch.device | str) -> torch.Generator:
        return torch.Generator(device=device).manual_seed(self.step_seed(stream, step))

    def step_normal(
        self,
        stream: Stream,
        step: int,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        out: Tensor | None = None,
    ) -> Tensor:
        """Standard normal numbers of an optimizer step, for the whole global batch: a rank takes its rows. Written into ``out``, if it is given."""
        generator = self._generator(stream, step, device)
        return torch.randn(*shape, generator=generator, device=device, dtype=dtype, out=out)

    def step_uniform(
        self,
        stream: Stream,
        step: int,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        out: Tensor | None = None,
    ) -> Tensor:
        """Uniform numbers in [0, 1) of an optimizer step, float32, for the whole global batch. Written into ``out``, if it is given."""
        generator = self._generator(stream, step, device)
        return torch.rand(*shape, generator=generator, device=device, dtype=torch.float32, out=out)

    def image_normal(
        self,
        stream: Stream,
        split: Split,
        index: Tensor,
        shape: Sequence[int],
        repetition: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Standard normal numbers ``[B, *shape]`` of the images at ``index [B]``, on the CPU whatever the device of the run.

        A call of fewer numbers gives the first ones of a longer call with the same stream, image and repetition: two calls are independent only where one of these differs.
        """
        out = np.empty((len(index), *shape), _numpy(dtype))

        def fill(first: int, last: int) -> None:
            rows = self._image_generators(stream, split, index[first:last], repetition)
            for row, generator in enumerate(rows, first):
                generator.standard_normal(dtype=out.dtype.type, out=out[row])

        _in_threads(fill, len(index), out.size)
        return torch.from_numpy(out)

    def image_uniform(
        self, stream: Stream, split: Split, index: Tensor, shape: Sequence[int], repetition: int = 0
    ) -> Tensor:
        """Uniform numbers in [0, 1), float32, ``[B, *shape]``, of the images at ``index [B]``, on the CPU."""
        out = np.empty((len(index), *shape), np.float32)
        for row, generator in enumerate(self._image_generators(stream, split, index, repetition)):
            generator.random(dtype=np.float32, out=out[row])
        return torch.from_numpy(out)

    def _image_generators(
        self, stream: Stream, split: Split, index: Tensor, repetition: int
    ) -> Iterator[np.random.Generator]:
        # One generator whose counter is moved: making 10,000 of them costs ten times as much.
        philox = self._philox(stream, [0, 0, 0, 0])
        generator, state = np.random.Generator(philox), philox.state
        for image in index.tolist():
            state["state"]["counter"] = np.array([0, (split << 32) | repetition, image, _IMAGE], np.uint64)
            philox.state = state
            yield generator

    def step_pixels(
        self,
        purpose: str,
        step: int,
        shape: Sequence[int],
        device: torch.device | str,
        out: Tensor | None = None,
    ) -> Tensor:
        """:meth:`step_uniform` for ``purpose`` = ``binarize``, ``dequantize`` or ``mutate``."""
        return self.step_uniform(Stream[purpose], step, shape, device, out)

    def image_pixels(self, purpose: str, split: str, index: Tensor, shape: Sequence[int]) -> Tensor:
        """:meth:`image_uniform` for ``purpose`` = ``binarize`` or ``dequantize``, ``split`` the name of a :class:`Split`."""
        return self.image_uniform(Stream[purpose], Split[split], index, shape)

    def order(self, epoch: int, num_images: int, purpose: str = "order") -> Tensor:
        """The order in which an epoch visits the images: a permutation of ``0 .. num_images - 1``, int64; another one for each ``purpose``, the name of a :class:`Stream`.

        Sorted random words, not a shuffle: the words of Philox are fixed for good, the algorithm behind a library's shuffle is not.
        """
        return self._permutation(Stream[purpose], epoch, num_images)

    def subset(self, num_images: int) -> Tensor:
        """A permutation of ``0 .. num_images - 1``, int64, whose first n are the training images where n are drawn."""
        return self._permutation(Stream.subset, 0, num_images)

    def _permutation(self, stream: Stream, epoch: int, length: int) -> Tensor:
        words = self._philox(stream, [0, epoch, 0, _EPOCH]).random_raw(length)
        return torch.from_numpy(np.argsort(words, kind="stable"))

    def repetition(self, number: int) -> Noise:
        """The random numbers of a repetition of a whole computation: those of a seed of its own."""
        words = self._philox(Stream.repetition, [0, number, 0, _REPETITION]).random_raw(1)
        return Noise(int(words[0]) >> 1)

    @contextmanager
    def initialisation(self) -> Iterator[None]:
        """Inside, torch's global generator is seeded for the initial weights; outside, it is as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            yield


@dataclass(frozen=True)
class ImageDraws:
    """The random numbers of B images in evaluation, handed to estimators that need more than one call: a :class:`vaelab.evidence.Draws`.

    Attributes:
        noise: of the run, or of the evaluation.
        split: the set that ``keys`` count in.
        keys: index of each image ``[B]``, int64.
        dtype: of the normal numbers; uniform ones are float32.

    >>> draws = ImageDraws(Noise(0), Split.test, torch.arange(3))
    >>> torch.equal(draws[1:].normal("annealing", (4, 2)), draws.normal("annealing", (4, 2))[1:])
    True
    """

    noise: Noise
    split: Split
    keys: Tensor
    dtype: torch.dtype = torch.float32

    # Both kinds are made of the same random words: one has the lower half of the repetitions, the other the upper.
    def normal(self, purpose: str, shape: Sequence[int], repetition: int = 0) -> Tensor:
        """Standard normal numbers ``[B, *shape]`` on the CPU, ``purpose`` the name of a :class:`Stream`, ``0 <= repetition < 2**31``."""
        return self.noise.image_normal(Stream[purpose], self.split, self.keys, shape, repetition, self.dtype)

    def uniform(self, purpose: str, shape: Sequence[int], repetition: int = 0) -> Tensor:
        """Uniform numbers in [0, 1) ``[B, *shape]``, float32, on the CPU; otherwise as :meth:`normal`, of which they are independent."""
        return self.noise.image_uniform(Stream[purpose], self.split, self.keys, shape, 2**31 + repetition)

    def __getitem__(self, images: slice) -> ImageDraws:
        """The random numbers of some of the images."""
        return replace(self, keys=self.keys[images])


def _in_threads(fill: Callable[[int, int], None], num_rows: int, size: int) -> None:
    """``fill(first, last)`` of all rows, side by side where there are numbers enough: numpy draws without holding the interpreter's lock."""
    count = min(torch.get_num_threads(), num_rows, size // A_THREADS_WORTH)
    if count <= 1:
        fill(0, num_rows)
        return
    ends = [num_rows * i // count for i in range(count + 1)]
    with ThreadPoolExecutor(count) as pool:
        for _ in pool.map(fill, ends[:-1], ends[1:]):
            pass  # raises what was raised


def _numpy(dtype: torch.dtype) -> type[np.float32] | type[np.float64]:
    return {torch.float32: np.float32, torch.float64: np.float64}[dtype]


def _permute(word: int) -> int:
    """A permutation of the 32-bit integers that scatters neighbours (the finaliser of MurmurHash3, Appleby 2011)."""
    word ^= word >> 16
    word = word * 0x85EBCA6B & 0xFFFFFFFF
    word ^= word >> 13
    word = word * 0xC2B2AE35 & 0xFFFFFFFF
    return word ^ word >> 16
