"""How optimizer steps are carried out. What a step is says ``step.py``, whatever the engine."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from vaelab.errors import SettingError, choice
from vaelab.training.compiled import CompiledGradient
from vaelab.training.recording import Record, RecordedStep, record_on_gpu
from vaelab.training.step import OptimisationStep, StepSettings

#: (indices ``[B]``, number of the step, optimizer, backward) -> the numbers of :data:`vaelab.training.step.REPORT`
CarryOut = Callable[[Tensor, int, Any, Callable[[Tensor], None]], Tensor]


class Engine(ABC):
    """Makes of a step what carries it out.

    Progress, checkpoints, schedules, noise and the policy on steps that are not finite are the same under each: they belong to the step and to the loop around it.
    """

    name: ClassVar[str]
    #: whether an optimizer keeps all that it knows on the device, the count of its steps among it
    capturable: ClassVar[bool] = False
    #: whether a step has to be the same operations on the same shapes as any other of as many images
    fixed: ClassVar[bool] = True

    @abstractmethod
    def check(self, device: torch.device, processes: int, settings: StepSettings, optimizer: Any) -> None:
        """Refuse what it cannot do.

        Args:
            device: of the model.
            processes: that train together.
            settings: of the step.
            optimizer: class of the optimizer.

        Raises:
            SettingError: by the name of the setting.
        """

    @abstractmethod
    def bind(self, step: OptimisationStep, count: Callable[[], None]) -> CarryOut:
        """What carries out ``step``.

        Args:
            step: of the model on its device.
            count: called once for each step of the optimizer that the optimizer itself is not asked for.
        """


class Eager(Engine):
    """The step as it stands, operation by operation."""

    name = "eager"
    fixed = False

    def check(self, device: torch.device, processes: int, settings: StepSettings, optimizer: Any) -> None:
        """It does everything."""

    def bind(self, step: OptimisationStep, count: Callable[[], None]) -> CarryOut:
        return step


class Compiled(Engine):
    """Forward and backward pass of a step as one compiled function (``torch.compile``): a minute of a compiler's time, for fewer and larger operations."""

    name = "compiled"

    def check(self, device: torch.device, processes: int, settings: StepSettings, optimizer: Any) -> None:
        _one_process(self.name, processes)
        if settings.samples_at_once is not None:
            rule = "passes over the samples twice, which is not compiled; use engine=eager"
            raise SettingError("optimizer.samples_at_once", settings.samples_at_once, rule)
        _not_scaled(self.name, settings)

    def bind(self, step: OptimisationStep, count: Callable[[], None]) -> CarryOut:
        step.gradient = CompiledGradient(step)
        return step


class Graph(Engine):
    """The whole step, optimizer and binarisation included, as one CUDA graph: recorded once, then started by a single call a step.

    Its noise is that of every other engine, made into the recording's own memory before it is started.
    """

    name = "graph"
    capturable = True
    record: Record = staticmethod(record_on_gpu)

    def check(self, device: torch.device, processes: int, settings: StepSettings, optimizer: Any) -> None:
        if device.type != "cuda":
            rule = f"needs an NVIDIA GPU, and this run would compute on {device.type}; use engine=eager or engine=compiled"
            raise SettingError("engine", self.name, rule)
        _one_process(self.name, processes)
        _not_scaled(self.name, settings)
        if not {"fused", "capturable"} <= set(inspect.signature(optimizer).parameters):
            rule = "has no fused form, by which a recorded step could leave out an update; use optimizer=adam or adamw, or engine=eager"
            raise SettingError("optimizer", optimizer.__name__, rule)

    def bind(self, step: OptimisationStep, count: Callable[[], None]) -> CarryOut:
        if not step.data.is_on_device:
            raise RuntimeError("engine=graph needs the images in the GPU's memory, where there is no room for them; use engine=eager")  # fmt: skip
        return RecordedStep(step, count, self.record)


ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (Eager, Compiled, Graph)}


def engine_of(name: str) -> Engine:
    """The engine of this name.

    Raises:
        SettingError: there is none.
    """
    return ENGINES[choice("engine.name", name, ENGINES)]()


def check_products(kind: str | None, device: torch.device) -> None:
    """Refuse an arithmetic (``engine.matmul``) that this kind of device has not got."""
    choice("engine.matmul", kind, (None, "auto", "fp32", "tf32", "bf16"))
    if kind == "tf32" and device.type != "cuda":
        raise SettingError("engine.matmul", kind, "is an arithmetic of GPUs; on a CPU use bf16")
    if kind == "bf16" and device.type != "cpu":
        rule = "is for CPUs; on a GPU use engine.matmul=tf32, or trainer.precision=bf16-mixed"
        raise SettingError("engine.matmul", kind, rule)


def _one_process(engine: str, processes: int) -> None:
    if processes > 1:
        rule = f"is for one device, and this run has {processes}; use engine=eager"
        raise SettingError("engine", engine, rule)


def _not_scaled(engine: str, settings: StepSettings) -> None:
    if settings.scaled:
        rule = (
            f"is not for engine={engine}, as the scale of its loss changes outside the step; use bf16-mixed"
        )
        raise SettingError("trainer.precision", "16-mixed", rule)
