"""One optimizer step. Everything that touches the weights is here, whatever the engine that calls it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from vaelab.batch import Batch
from vaelab.errors import SettingError, integer, number
from vaelab.noise import Noise, Stream


@dataclass(frozen=True)
class StepSettings:
    """What ``optimizer`` says beside the optimizer itself.

    Attributes:
        accumulate: minibatches an optimizer step; their gradients are summed as if they were one batch.
        clip_norm: largest norm of the gradient of the mean loss; longer gradients are scaled down to it. None = no clipping.
        scaled: the loss is scaled for float16 (``trainer.precision=16-mixed``), so the gradient's norm is not known here.
    """

    accumulate: int = 1
    clip_norm: float | None = None
    scaled: bool = False

    def __post_init__(self) -> None:
        integer("optimizer.accumulate", self.accumulate, 1)
        if self.clip_norm is not None:
            number("optimizer.clip_norm", self.clip_norm, "must be null or a number > 0", lambda n: n > 0)
        if self.clip_norm is not None and self.scaled:
            raise SettingError(
                "optimizer.clip_norm",
                self.clip_norm,
                "cannot go with trainer.precision=16-mixed; use bf16-mixed",
            )


#: what a step reports, in this order: sums over the images of this rank, then the gradient's norm, then 1 for a step that was skipped
REPORT = ("objective", "rate", "distortion", "grad_norm", "skipped")


class OptimisationStep:
    """Forward, backward, check, clip, step.

    The loss is minus the objective's surrogate, averaged over all images of the step on all ranks, plus its penalty. A step whose gradient is not finite leaves
    weights and optimizer as they were, and is counted.

    Args:
        model: (batch, noise) -> :class:`vaelab.models.Terms`.
        objective: terms -> :class:`vaelab.objectives.ObjectiveValue`.
        train_batch: (indices over all ranks, step, rows of this rank) -> batch.
        num_images: size of the training set.
        noise: of the run.
        settings: accumulation and clipping.
        rank, world_size: which of how many processes this is.
    """

    def __init__(
        self,
        model: Any,
        objective: Any,
        train_batch: Callable[[Tensor, int, slice], Batch],
        num_images: int,
        noise: Noise,
        settings: StepSettings,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.model = model
        self.objective = objective
        self.train_batch = train_batch
        self.num_images = num_images
        self.noise = noise
        self.settings = settings
        self.rows = slice(rank, None, world_size)  # of the global batch
        self.world_size = world_size
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def __call__(
        self, index: Tensor, step: int, optimizer: Any, backward: Callable[[Tensor], None]
    ) -> Tensor:
        """Carry out step ``step`` on the images at ``index [B]`` (over all ranks).

        Args:
            optimizer: with ``step``.
            backward: takes the loss of a part of the batch; called ``accumulate`` times.

        Returns:
            The numbers named by :data:`REPORT`, float32, on the device of the batch.
        """
        num_images = len(index)
        batch = self.train_batch(index, step, self.rows)
        shape = (self.objective.num_samples, num_images, self.model.noise_dim)
        eps = self.noise.step_normal(Stream.posterior, step, shape, index.device).to(batch.x.dtype)
        if self.world_size > 1:
            eps = eps[:, self.rows]

        sums: list[Tensor] = []
        number = min(
            self.settings.accumulate, max(1, num_images // self.world_size)
        )  # the same on every rank
        for part, part_eps in _parts(batch, eps, number):
            terms = self.model(part, part_eps)
            value = self.objective(terms, step, self.num_images)
            # DDP averages over ranks, hence the factor: the gradient is that of the mean over the images of all ranks.
            loss = value.surrogate.sum() * (-self.world_size / num_images)
            if value.penalty is not None:
                loss = loss + value.penalty / number
            if not sums:  # not earlier: the backward pass takes over the memory of the old gradients, warm
                self._forget_gradients()
            backward(loss)
            with torch.no_grad():
                reported = value.value if value.penalty is None else value.value - value.penalty
                sums.append(
                    torch.stack([reported, terms.rate(terms.has_closed_form_kl), terms.distortion]).sum(1)
                )
        total = sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)
        norm, skipped = self._update(optimizer)
        return torch.cat([total, norm.view(1), skipped.view(1)])

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _update(self, optimizer: Any) -> tuple[Tensor, Tensor]:
        """Check, clip, step. Returns the norm of the gradient before clipping, 0 if it is not finite, and 1 if so, else 0."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        if self.settings.clip_norm is not None:
            clip_grads_with_norm_(self.parameters, self.settings.clip_norm, norm)
        if self.settings.scaled or (norm.device.type == "cuda" and optimizer.param_groups[0].get("fused")):
            # Asking whether the norm is finite would wait for the device; a fused optimizer takes the answer as a tensor, and does nothing where it says so.
            # A scaler of the precision plugin looks for itself.
            finite = norm < torch.inf  # false for NaN too
            if not self.settings.scaled:
                optimizer.optimizer.found_inf = (~finite).float()
            optimizer.step()
            return torch.where(finite, norm, 0.0), (~finite).to(norm.dtype)
        if norm.item() < torch.inf:
            optimizer.step()
            return norm, norm.new_zeros(())
        self._forget_gradients()  # an optimizer passes over parameters without a gradient
        optimizer.step()
        return norm.new_zeros(()), norm.new_ones(())


def _parts(batch: Batch, eps: Tensor, number: int) -> list[tuple[Batch, Tensor]]:
    if number == 1:
        return [(batch, eps)]
    split = [t.tensor_split(number) for t in (batch.x, batch.y, batch.index)]
    return [
        (Batch(x, y, index), part_eps)
        for x, y, index, part_eps in zip(*split, eps.tensor_split(number, dim=1), strict=True)
    ]
