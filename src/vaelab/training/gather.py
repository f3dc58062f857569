"""K samples in parts: the terms of all of them at once, at the memory of a few.

The surrogate of an objective couples all samples of an image, so that it cannot be taken part by part. Its derivatives with respect to the terms can be had without the
networks, and the networks' with respect to their parameters part by part: the chain rule, cut at the terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vaelab.models import Terms
from vaelab.models.terms import Layer

#: whether a term has a sample dimension; ``kl`` tells by its shape
ALONG_SAMPLES = {
    "z": True,
    "log_p": True,
    "log_q": True,
    "log_q_stopped": True,
    "mean": False,
    "stddev": False,
}


def _log_q_label(terms: Terms) -> Tensor:
    assert terms.log_q_label is not None
    return terms.log_q_label


class Leaf:
    """One term of all samples, without history: a leaf that the surrogate is differentiated by.

    Args:
        read: the terms of a part -> this term of the part.
        parts: the terms of all parts, without gradients.
        along_samples: it has a sample dimension in front; otherwise it is the same in each part.
    """

    def __init__(self, read: Callable[[Terms], Tensor], parts: Sequence[Terms], along_samples: bool) -> None:
        self.read = read
        self.along_samples = along_samples
        with torch.no_grad():
            values = [read(part) for part in parts] if along_samples else [read(parts[0])]
        self.sizes = [len(value) for value in values]
        self.value = torch.cat(values).detach().requires_grad_()


class Gathered:
    """Terms of K samples that were computed in parts, without gradients.

    Args:
        parts: the terms of consecutive samples of the same images.

    Attributes:
        terms: of all samples, for an objective.
    """

    def __init__(self, parts: Sequence[Terms]) -> None:
        self.parts = parts
        self.leaves: list[Leaf] = []
        log_px = self.leaf(lambda terms: terms.log_px, along_samples=True)
        layers = tuple(_GatheredLayer(self, number) for number in range(len(parts[0].layers)))
        classifies = parts[0].log_q_label is not None
        label = self.leaf(_log_q_label, along_samples=True) if classifies else None
        self.terms = Terms(log_px=log_px, layers=layers, log_q_label=label)

    def leaf(self, read: Callable[[Terms], Tensor], along_samples: bool) -> Tensor:
        self.leaves.append(Leaf(read, self.parts, along_samples))
        return self.leaves[-1].value

    def coefficients(self, loss: Tensor) -> list[Tensor | None]:
        """The loss's derivative with respect to each term that was asked for; None where it does not depend on it."""
        leaves = [leaf.value for leaf in self.leaves]
        return list(torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True))

    def loss(self, part: Terms, number: int, coefficients: Sequence[Tensor | None]) -> Tensor:
        """What has, for part ``number`` computed anew with gradients, the gradient that is its share of the whole loss's. It may be a constant, where weights are frozen."""
        shares = []
        for leaf, coefficient in zip(self.leaves, coefficients, strict=True):
            if coefficient is None or (number > 0 and not leaf.along_samples):
                continue
            own = coefficient.split(leaf.sizes)[number] if leaf.along_samples else coefficient
            shares.append((own * leaf.read(part)).sum())
        return torch.stack(shares).sum()


class _GatheredLayer(Layer):
    """One stochastic layer of :class:`Gathered`; each term becomes a leaf when it is first asked for."""

    def __init__(self, gathered: Gathered, number: int) -> None:
        self._gathered, self._number = gathered, number
        self._terms: dict[str, Tensor | None] = {}

    def _term(self, name: str) -> Tensor | None:
        if name not in self._terms:
            with torch.no_grad():
                first = getattr(self._gathered.parts[0].layers[self._number], name)
            along = ALONG_SAMPLES.get(name, first is not None and first.dim() == 3)
            self._terms[name] = None if first is None else self._gathered.leaf(self._reader(name), along)
        return self._terms[name]

    def _reader(self, name: str) -> Callable[[Terms], Tensor]:
        return lambda terms: getattr(terms.layers[self._number], name)

    def _known(self, name: str) -> Tensor:
        term = self._term(name)
        assert term is not None
        return term

    @property
    def z(self) -> Tensor:
        return self._known("z")

    @property
    def log_p(self) -> Tensor:
        return self._known("log_p")

    @property
    def log_q(self) -> Tensor:
        return self._known("log_q")

    @property
    def log_q_stopped(self) -> Tensor:
        return self._known("log_q_stopped")

    @property
    def kl(self) -> Tensor | None:
        return self._term("kl")

    @property
    def mean(self) -> Tensor | None:
        return self._term("mean")

    @property
    def stddev(self) -> Tensor | None:
        return self._term("stddev")
