"""The optimizer steps of several runs as one: one batched matrix product where each run by itself would have its own.

Forward and backward are :func:`torch.func.vmap` of what :class:`vaelab.training.step.OptimisationStep` computes by itself, over weights, images and noise; everything
else (noise, schedules, check, clipping, optimizer, average) is that step's own, member by member.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from vaelab.batch import Batch
from vaelab.objectives import Weights
from vaelab.training.optimizers import give
from vaelab.training.step import OptimisationStep


@dataclass(frozen=True)
class MemberStep:
    """One step of one member.

    Attributes:
        step: of the run.
        number: of the step.
        index: of its images ``[B]``.
        optimizer: with ``step``.
        backward: of the run by itself, for a stack of one.
    """

    step: OptimisationStep
    number: int
    index: Tensor
    optimizer: Any
    backward: Callable[[Tensor], None]


class StackedStep:
    """Carries out steps of M members, of as many images each, whose models and objectives differ in nothing but weights of the networks and of the bound.

    Where it turns out that they cannot be stacked, they are carried out one by one.

    The parameters of each member become views of stacked ones ``[M, ...]``, so that what is done with a member by itself is done with the same numbers.
    """

    def __init__(self) -> None:
        self.apart: str | None = None  #: why the steps are carried out one by one after all
        self._begun = False
        self._steps: tuple[OptimisationStep, ...] = ()
        self._trained: dict[str, Tensor] = {}
        self._fixed: dict[str, Tensor] = {}
        self._parameters: list[dict[str, nn.Parameter]] = []  # of each member, those that are trained
        self._used: frozenset[str] = frozenset()

    def __call__(self, members: Sequence[MemberStep]) -> list[Tensor]:
        """What each member's step reports, as :meth:`vaelab.training.step.OptimisationStep.__call__` does."""
        if len(members) == 1 or self.apart is not None:
            self._steps = ()
            return [one.step(one.index, one.number, one.optimizer, one.backward) for one in members]
        steps = tuple(one.step for one in members)
        if steps != self._steps:
            self._put_together(members)
        scheduled = [one.step.scheduled(one.number) for one in members]
        inputs = [
            one.step.inputs(one.index, one.step.noise_of(one.number, len(one.index), one.index.device))
            for one in members
        ]
        try:
            gradients, totals = self._gradients(inputs, [at.weights for at in scheduled])
        except Exception as error:
            if self._begun:
                raise
            # a part of somebody's own that cannot be stacked says so with its first step, which has changed nothing yet
            self.apart = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return self(members)
        self._begun = True
        reports = []
        for place, (one, at) in enumerate(zip(members, scheduled, strict=True)):
            for name, parameter in self._parameters[place].items():
                if name in self._used:
                    give(parameter, gradients[name][place])
                else:
                    parameter.grad = None
            reports.append(one.step.conclude(totals[place], at, one.optimizer))
        return reports

    def _put_together(self, members: Sequence[MemberStep]) -> None:
        """Stack the weights of these members."""
        first = members[0]
        models = [one.step.model for one in members]
        parameters = [dict(model.named_parameters()) for model in models]
        self._trained, self._fixed = {}, {}
        for name, parameter in parameters[0].items():
            stacked = torch.stack([own[name].detach() for own in parameters])
            for place, own in enumerate(parameters):
                own[name].data = stacked[place]
            (self._trained if parameter.requires_grad else self._fixed)[name] = stacked
        self._parameters = [
            {name: p for name, p in own.items() if name in self._trained} for own in parameters
        ]
        buffers = [dict(model.named_buffers()) for model in models]
        self._fixed |= {name: torch.stack([own[name] for own in buffers]) for name in buffers[0]}
        self._used = frozenset(self._with_gradient(first))
        self._steps = tuple(one.step for one in members)

    def _with_gradient(self, member: MemberStep) -> tuple[str, ...]:
        """The parameters that the loss depends on: an optimizer passes over the others, where by a gradient of zeros it would still shrink them."""
        step = member.step
        batch, eps = step.inputs(
            member.index, step.noise_of(member.number, len(member.index), member.index.device)
        )
        loss, inference, _ = step.losses(
            batch, eps, step.scheduled(member.number).weights, len(member.index), 1
        )
        trained = {name: p for name, p in step.model.named_parameters() if p.requires_grad}
        found = [False] * len(trained)
        for one in (loss, inference):
            if one is not None:
                gradients = torch.autograd.grad(
                    one, list(trained.values()), retain_graph=True, allow_unused=True
                )
                found = [known or g is not None for known, g in zip(found, gradients, strict=True)]
        return tuple(name for name, is_used in zip(trained, found, strict=True) if is_used)

    def _gradients(
        self, inputs: Sequence[tuple[Batch, Tensor]], weights: Sequence[Weights]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients ``[M, ...]`` of the trained parameters, and the sums over the images of each member ``[M, 3]``."""
        step = self._steps[0]
        losses_of = _Losses(step)
        of_q = {id(p) for p in step.inference}
        inferred = {name for name, p in step.model.named_parameters() if id(p) in of_q}
        x, y, index, eps = (
            torch.stack(each)
            for each in zip(*((batch.x, batch.y, batch.index, eps) for batch, eps in inputs), strict=True)
        )
        first_labelled = inputs[0][
            0
        ].first_labelled  # the same in each: it follows from settings that they share
        kl, kl_dim = _stacked([at.kl for at in weights], x)
        capacity, capacity_dim = _stacked([at.capacity for at in weights], x)

        def one(
            trained: dict[str, Tensor], fixed: dict[str, Tensor], x: Tensor, y: Tensor, index: Tensor, eps: Tensor,
            kl: Any, capacity: float | Tensor | None,
        ) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
            def losses(trained: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
                at = {f"model.{name}": value for name, value in (trained | fixed).items()}
                given = (Batch(x, y, index, first_labelled), eps, Weights(kl, capacity))
                loss, inference, report = functional_call(losses_of, at, given)
                return ((loss,) if inference is None else (loss, inference)), report

            found, pull, report = vjp(losses, trained, has_aux=True)  # pyright: ignore[reportAssignmentType]
            unit, none = torch.ones_like(found[0]), torch.zeros_like(found[0])
            if len(found) == 1:
                return pull((unit,))[0], report
            of_p, of_q = pull((unit, none))[0], pull((none, unit))[0]
            return {name: (of_q if name in inferred else of_p)[name] for name in trained}, report

        dims = (0, 0, 0, 0, 0, 0, kl_dim, capacity_dim)
        return vmap(one, in_dims=dims)(self._trained, self._fixed, x, y, index, eps, kl, capacity)


class _Losses(nn.Module):
    """What a step computes of a batch. A module that has the model as a part: some terms are computed only when they are asked for, and have to be with the same weights."""

    def __init__(self, step: OptimisationStep) -> None:
        super().__init__()
        self.model = step.model
        self._step = step

    def forward(self, batch: Batch, eps: Tensor, weights: Weights) -> tuple[Tensor, Tensor | None, Tensor]:
        return self._step.losses(batch, eps, weights, len(batch.index), 1)


def _stacked(
    values: Sequence[float | Tensor | None], like: Tensor
) -> tuple[float | Tensor | None, int | None]:
    """A number where all members have the same one, which objectives may take a shorter way with; otherwise a tensor ``[M]``. And its dimension for vmap."""
    if len({float(value) if value is not None else None for value in values}) == 1:
        return values[0], None
    return torch.tensor([float(v) for v in values if v is not None], dtype=like.dtype, device=like.device), 0


def take_apart(model: nn.Module) -> None:
    """Give a model memory of its own for what it has had as views of stacked weights."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
