"""One optimizer step. Everything that touches the weights is here, whatever the engine that calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from vaelab.batch import Batch, rows_before
from vaelab.errors import SettingError, integer, number
from vaelab.models import Terms
from vaelab.noise import Noise, Stream
from vaelab.objectives import ObjectiveValue, Weights
from vaelab.training.gather import Gathered


@dataclass(frozen=True)
class StepSettings:
    """What ``optimizer`` says beside the optimizer itself.

    Attributes:
        accumulate: minibatches an optimizer step; their gradients are summed as if they were one batch. What an objective takes from a batch as a whole (beta_tc, dip, mmd) is averaged over them.
        clip_norm: largest norm of the gradient of the mean loss; longer gradients are scaled down to it. None = no clipping.
        samples_at_once: of the K samples of an image, how many the networks see at once; the gradient is that of all K. None = all.
        skip_norm: a step whose gradient is longer is left out, as one that is not finite is (Child 2021). None = none.
        max_skipped: so many steps left out one after the other end the run, as nothing comes of the rest.
        ema_decay: of the exponential moving average of the weights, which are then the ones that are validated, tested and kept. None = no average.
        learning_rate: step -> learning rate; None = that of the optimizer throughout.
        scaled: the loss is scaled for float16 (``trainer.precision=16-mixed``), so the gradient's norm is not known here.
    """

    accumulate: int = 1
    clip_norm: float | None = None
    scaled: bool = False
    samples_at_once: int | None = None
    skip_norm: float | None = None
    max_skipped: int = 100
    ema_decay: float | None = None
    learning_rate: Callable[[int], float] | None = None

    def __post_init__(self) -> None:
        integer("optimizer.accumulate", self.accumulate, 1)
        integer("optimizer.max_skipped", self.max_skipped, 1)
        if self.samples_at_once is not None:
            integer("optimizer.samples_at_once", self.samples_at_once, 1, " or null")
        if self.clip_norm is not None:
            number("optimizer.clip_norm", self.clip_norm, "must be null or a number > 0", lambda n: n > 0)
        if self.skip_norm is not None:
            number("optimizer.skip_norm", self.skip_norm, "must be null or a number > 0", lambda n: n > 0)
        if self.ema_decay is not None:
            rule = "must be null or a number from 0 and below 1"
            number("optimizer.ema_decay", self.ema_decay, rule, lambda d: 0 <= d < 1)
        if self.clip_norm is not None and self.skip_norm is not None and self.skip_norm <= self.clip_norm:
            rule = f"must be above optimizer.clip_norm={self.clip_norm}, or nothing is ever clipped"
            raise SettingError("optimizer.skip_norm", self.skip_norm, rule)
        for name in ("clip_norm", "skip_norm"):
            if (norm := getattr(self, name)) is not None and self.scaled:
                raise SettingError(
                    f"optimizer.{name}", norm, "cannot go with trainer.precision=16-mixed; use bf16-mixed"
                )


#: what a step reports, in this order: sums over the images of this rank, then the gradient's norm, then 1 for a step that was skipped
REPORT = ("objective", "rate", "distortion", "grad_norm", "skipped")


class StepData(Protocol):
    """What the step needs of the data; see :class:`vaelab.data.ImageDataModule`."""

    @property
    def is_on_device(self) -> bool: ...

    def step_noise(
        self, step: int, num_images: int, out: Mapping[str, Tensor] | None = ...
    ) -> dict[str, Tensor]: ...

    def with_noise(self, index: Tensor, noise: Mapping[str, Tensor], rows: slice = ...) -> Batch: ...

    def first_labelled(self, num_images: int) -> int | None: ...


@dataclass(frozen=True)
class StepNoise:
    """The random numbers of a step.

    Attributes:
        pixels: what the pixels take, by purpose, uniform ``[B, C, H, W]``, over all ranks.
        eps: of the posterior, standard normal ``[K, B, D]``, float32, over all ranks.
    """

    pixels: dict[str, Tensor]
    eps: Tensor


@dataclass(frozen=True)
class Scheduled:
    """What a step is told of its number: numbers, or scalar tensors on the device where one recording is carried out for all steps.

    Attributes:
        weights: of the objective.
        learning_rate: None = that of the optimizer throughout.
        averaging: how far the averaged weights move towards the weights, from 0 to 1; None without averages.
    """

    weights: Weights
    learning_rate: float | Tensor | None
    averaging: float | Tensor | None


class OptimisationStep:
    """Forward, backward, check, clip, step.

    ``step(index, number, optimizer, backward)`` is all of it. What depends on the number of the step alone, :meth:`noise_of` and :meth:`scheduled`, can be had beforehand;
    :meth:`carry_out` is the rest, which is the same for all steps.

    The loss is minus the objective's surrogate, averaged over all images of the step on all ranks, plus its penalty. A step whose loss or gradient is not finite leaves
    weights and optimizer as they were, and is counted.

    Args:
        model: (batch, noise) -> :class:`vaelab.models.Terms`.
        objective: terms -> :class:`vaelab.objectives.ObjectiveValue`.
        data: makes the batch: ``step_noise`` and ``with_noise`` of :class:`vaelab.data.ImageDataModule`.
        num_images: size of the training set.
        noise: of the run.
        settings: everything else that touches weights.
        rank, world_size: which of how many processes this is.
        averaged: a copy of the model that takes the moving average of its weights, or None.
        everywhere: 1 or 0 on this rank -> 1 where it is 1 on all of them, else 0 ``[]``.

    Attributes:
        skipped_in_a_row: steps left out since the last one that counted ``[]``, on the device.
    """

    def __init__(
        self,
        model: Any,
        objective: Any,
        data: StepData,
        num_images: int,
        noise: Noise,
        settings: StepSettings,
        rank: int = 0,
        world_size: int = 1,
        averaged: Any = None,
        everywhere: Callable[[Tensor], Tensor] = lambda here: here,
    ) -> None:
        self.model = model
        self.averages = (
            list(zip(averaged.parameters(), model.parameters(), strict=True)) if averaged is not None else []
        )
        self.objective = objective
        self.data = data
        self.num_images = num_images
        self.noise = noise
        self.settings = settings
        self.rows = slice(rank, None, world_size)  # of the global batch
        self.world_size = world_size
        self.everywhere = everywhere
        #: adds the gradient of a part of the batch, and returns the sums over its images; an engine may put another one here
        self.gradient = self._gradient
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.skipped_in_a_row = torch.zeros((), device=self.parameters[0].device)
        self.inference = [p for p in model.inference_parameters() if p.requires_grad]
        self.generative = [p for p in model.generative_parameters() if p.requires_grad]

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
        noise = self.noise_of(step, len(index), index.device)
        return self.carry_out(index, noise, self.scheduled(step), optimizer, backward)

    def noise_of(
        self, step: int, num_images: int, device: torch.device, out: StepNoise | None = None
    ) -> StepNoise:
        """The random numbers of a step of so many images; into ``out``, where there are some of an earlier step."""
        shape = (self.objective.num_samples, num_images, self.model.noise_dim)
        into = (None, None) if out is None else (out.pixels, out.eps)
        pixels = self.data.step_noise(step, num_images, into[0])
        return StepNoise(pixels, self.noise.step_normal(Stream.posterior, step, shape, device, out=into[1]))

    def scheduled(self, step: int) -> Scheduled:
        """What the schedules make of a step."""
        rate, decay = self.settings.learning_rate, self.settings.ema_decay
        # a longer way at first, so that the initial weights are forgotten
        averaging = None if decay is None else 1 - min(decay, (1 + step) / (10 + step))
        return Scheduled(self.objective.at(step), None if rate is None else rate(step), averaging)

    def carry_out(
        self,
        index: Tensor,
        noise: StepNoise,
        scheduled: Scheduled,
        optimizer: Any,
        backward: Callable[[Tensor], None],
    ) -> Tensor:
        """A step, with everything given that its number decides; otherwise as the step itself."""
        num_images = len(index)
        batch, eps = self.inputs(index, noise)

        self._begun = False
        self._backward = backward
        sums = []
        number = min(
            self.settings.accumulate, max(1, num_images // self.world_size)
        )  # the same on every rank
        for part, part_eps in _parts(batch, eps, number):
            sums.append(self._part(part, part_eps, scheduled.weights, num_images, number))
        total = sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)
        return self.conclude(total, scheduled, optimizer)

    def inputs(self, index: Tensor, noise: StepNoise) -> tuple[Batch, Tensor]:
        """What the model is given on this rank: the images, and the noise of the posterior ``[K, B, D]``."""
        batch = self.data.with_noise(index, noise.pixels, self.rows)
        first = rows_before(self.data.first_labelled(len(index)), len(index), self.rows)
        batch = replace(batch, first_labelled=first)
        eps = noise.eps.to(batch.x.dtype)
        return batch, eps[:, self.rows] if self.world_size > 1 else eps

    def conclude(self, total: Tensor, scheduled: Scheduled, optimizer: Any) -> Tensor:
        """The rest of a step, once the gradients are there: check, clip, step, average.

        Args:
            total: the sums over the images of this rank.

        Returns:
            The numbers named by :data:`REPORT`.
        """
        if scheduled.learning_rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = scheduled.learning_rate
        norm, skipped = self._update(optimizer, self.everywhere(total[0].isfinite().float()) > 0)
        self.skipped_in_a_row.add_(1).mul_(skipped)
        self._average(scheduled.averaging)
        return torch.cat([total, norm.view(1), skipped.view(1)])

    def begin_gradients(self) -> None:
        """Forget those of the step before, at the first backward pass of this one: not earlier, as it takes over their memory, warm."""
        if not self._begun:
            self._forget_gradients()
            self._begun = True

    def _accumulate(self, loss: Tensor) -> None:
        self.begin_gradients()
        self._backward(loss)

    def _part(self, batch: Batch, eps: Tensor, weights: Weights, num_images: int, number: int) -> Tensor:
        """Forward and backward of one of ``number`` parts of the batch. Returns the sums over its images."""
        samples = eps.split(self.settings.samples_at_once or len(eps))
        if len(samples) == 1:
            return self.gradient(batch, eps, weights, num_images, number)
        with torch.no_grad():
            gathered = Gathered([self.model(batch, some) for some in samples])
        value = self.objective.bound(gathered.terms, weights, self.num_images)
        coefficients = [
            None if loss is None else gathered.coefficients(loss)
            for loss in self._losses(value, num_images, number)
        ]
        for place, some in enumerate(samples):
            terms = self.model(batch, some)
            loss = self.joined(*(None if c is None else gathered.loss(terms, place, c) for c in coefficients))
            if loss.requires_grad:  # not so where the weights of all that this part holds are frozen
                self._accumulate(loss)
        return _report(value, gathered.terms)

    def _gradient(self, batch: Batch, eps: Tensor, weights: Weights, num_images: int, number: int) -> Tensor:
        """Add the gradient of one of ``number`` parts of the batch. Returns the sums over its images."""
        loss, inference, report = self.losses(batch, eps, weights, num_images, number)
        self._accumulate(self.joined(loss, inference))
        return report

    def losses(
        self, batch: Batch, eps: Tensor, weights: Weights, num_images: int, number: int
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """What is minimised by one of ``number`` parts of the batch; and for the parameters of q, where that is something else; and the sums over its images."""
        terms = self.model(batch, eps)
        value = self.objective.bound(terms, weights, self.num_images)
        return *self._losses(value, num_images, number), _report(value, terms)

    def _losses(self, value: ObjectiveValue, num_images: int, number: int) -> tuple[Tensor, Tensor | None]:
        """What is minimised; and for the parameters of q, where that is something else."""
        # DDP averages over ranks, hence the factor: the gradient is that of the mean over the images of all ranks.
        scale = -self.world_size / num_images
        loss = value.surrogate.sum() * scale
        if value.penalty is not None:
            loss = loss + value.penalty / number
        inference = value.inference_surrogate
        return loss, None if inference is None else inference.sum() * scale

    def joined(self, loss: Tensor | None, inference: Tensor | None) -> Tensor:
        """One loss with the gradient of ``loss`` for the parameters of p and that of ``inference`` for those of q, for a single backward pass (DDP takes no other)."""
        assert loss is not None
        if inference is None:
            return loss
        shares = []
        for own, parameters in ((loss, self.generative), (inference, self.inference)):
            if not parameters:  # frozen
                continue
            gradients = torch.autograd.grad(own, parameters, retain_graph=True, allow_unused=True)
            shares += [(p * g).sum() for p, g in zip(parameters, gradients, strict=True) if g is not None]
        return torch.stack(shares).sum()

    @torch.no_grad()
    def _average(self, share: float | Tensor | None) -> None:
        """Move the averages towards the weights, by this share of the way."""
        if self.averages and share is not None:
            averages, weights = zip(*self.averages, strict=True)
            by = [share] * len(averages) if isinstance(share, Tensor) else share
            torch._foreach_lerp_(averages, weights, by)  # pyright: ignore[reportPrivateImportUsage]

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def _update(self, optimizer: Any, finite: Tensor) -> tuple[Tensor, Tensor]:
        """Check, clip, step. Returns the norm of the gradient before clipping, 0 if it is not finite or too long, and 1 if so, else 0.

        Args:
            finite: whether the loss is ``[]``; where it is not, the gradient counts as infinitely long.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        norm = torch.where(finite, norm, torch.inf)
        longest = torch.inf if self.settings.skip_norm is None else self.settings.skip_norm
        if self.settings.clip_norm is not None:
            clip_grads_with_norm_(self.parameters, self.settings.clip_norm, norm)
        if self.settings.scaled or (norm.device.type == "cuda" and optimizer.param_groups[0].get("fused")):
            # Asking whether the norm is finite would wait for the device; a fused optimizer takes the answer as a tensor, and does nothing where it says so.
            # A scaler of the precision plugin looks for itself, at the gradient alone.
            counts = norm < longest  # false for NaN too
            if self.settings.scaled:
                torch._foreach_mul_(gradients, torch.where(finite, 1.0, torch.nan))  # pyright: ignore[reportPrivateImportUsage]
            else:
                optimizer.optimizer.found_inf = (~counts).float()
            optimizer.step()
            return torch.where(counts, norm, 0.0), (~counts).to(norm.dtype)
        if norm.item() < longest:
            optimizer.step()
            return norm, norm.new_zeros(())
        self._forget_gradients()  # an optimizer passes over parameters without a gradient
        optimizer.step()
        return norm.new_zeros(()), norm.new_ones(())


@torch.no_grad()
def _report(value: ObjectiveValue, terms: Terms) -> Tensor:
    """Sums over the images: objective, rate, distortion."""
    reported = value.value if value.penalty is None else value.value - value.penalty
    return torch.stack([reported, terms.rate(terms.has_closed_form_kl), terms.distortion]).sum(1)


def _parts(batch: Batch, eps: Tensor, number: int) -> list[tuple[Batch, Tensor]]:
    if number == 1:
        return [(batch, eps)]
    split = eps.tensor_split(number, dim=1)
    ends = accumulate((part.shape[1] for part in split), initial=0)
    return [(batch[slice(*place)], part) for place, part in zip(pairwise(ends), split, strict=True)]
