"""What is said of a trained model as a whole, not image by image: the second kind of entry of the group ``estimator``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vaelab.data.datamodule import ImageDataModule, SplitName
from vaelab.evidence.estimator import Number
from vaelab.evidence.progress import Progress
from vaelab.noise import Noise


@dataclass(frozen=True)
class Subject:
    """What a diagnostic looks at.

    Attributes:
        model: a :class:`vaelab.models.Model` with its weights, in evaluation mode, on the device of the evaluation.
        data: set up, with its batches on that device.
        noise: of the run, or of the evaluation.
        split: ``test`` or ``val``.
        index: the images of that split ``[N]``, int64.
        protocol: of the run, as on its cards.
        arithmetic: inside it the model computes in the precision of the run; a new context at each call.
    """

    model: Any
    data: ImageDataModule
    noise: Noise
    split: SplitName
    index: Tensor
    protocol: Mapping[str, Any]
    arithmetic: Callable[[], AbstractContextManager[Any]]


class Instrument(Protocol):
    """What a diagnostic measures with beside the model, known by its digest."""

    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class Findings:
    """What a diagnostic has found.

    Attributes:
        numbers: from which number cards are made.
        pictures: name of each -> the picture.
        files: name of each -> its text: what no card can hold.
        missing: name of a number, a picture or a file that could not be had -> why.
    """

    numbers: Sequence[Number]
    pictures: Mapping[str, Figure] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


class Diagnostic(ABC):
    """Looks at a trained model on one device. Its settings are its fields.

    Attributes:
        name: in ``estimator=NAME`` and on cards.
    """

    name: ClassVar[str]

    @abstractmethod
    def check(self, subject: Subject, options: Mapping[str, Any]) -> None:
        """Refuse, by a SettingError, what cannot be looked at, before anything is computed.

        Args:
            subject: what is looked at.
            options: of :func:`vaelab.experiments.evaluate.evaluate`; one that would have no effect is refused.
        """

    def instrument(self, subject: Subject, progress: Progress | None = None) -> Instrument | None:
        """What is measured with; the values depend on its digest."""
        return None

    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """Of the run's protocol, what two numbers have to share; what is particular to one number is among its settings."""
        return dict(protocol)

    @abstractmethod
    def __call__(
        self, subject: Subject, instrument: Any = None, progress: Progress | None = None
    ) -> Findings:
        """Look.

        Args:
            subject: what is looked at.
            instrument: from :meth:`instrument`.
            progress: is told how far it is.

        Raises:
            SettingError: of one of the fields, under its name, where that does not go with the model or the data.
        """


def without(protocol: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """``protocol`` without the keys ``names``."""
    return {key: value for key, value in protocol.items() if key not in names}


def on_device(model: Any, data: ImageDataModule, trainer: Any) -> Callable[[], AbstractContextManager[Any]]:
    """Move ``model`` and the batches of ``data`` to the device of ``trainer``, in its precision.

    Returns:
        see :attr:`Subject.arithmetic`.
    """
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    precision.convert_module(model).to(device)
    data.move_to(device, next(model.parameters()).dtype)

    @contextmanager
    def arithmetic() -> Iterator[None]:
        with torch.no_grad(), precision.test_step_context():
            yield

    return arithmetic
