"""The LightningModule: it hands chunks of steps to the step function, and keeps count. It holds no mathematics."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loops.progress import _ProcessedTracker
from torch import Tensor

from vaelab.data.chunks import Chunk, ChunkPlan
from vaelab.data.datamodule import ImageDataModule, SplitName
from vaelab.evidence import BoundEstimator, Estimator, accuracy, bound_of, exact
from vaelab.latents import active_units, activity
from vaelab.models import Terms
from vaelab.noise import ImageDraws, Noise, Split
from vaelab.runs import write_atomically
from vaelab.runs.interruption import StopRequest
from vaelab.training.arithmetic import full_float32, products
from vaelab.training.engines import Eager, Engine
from vaelab.training.optimizers import settle, settled
from vaelab.training.per_image import PerImageParts, archive
from vaelab.training.step import REPORT, OptimisationStep, StepSettings
from vaelab.training.together import Seat, by_themselves

#: the fingerprint of a run: the losses of its first steps, and of every so many after them
FIRST_LOSSES, LOSSES_EVERY = 20, 100


class VAEModule(L.LightningModule):
    """A model, its objective and its optimizer, for Lightning's Trainer.

    ``training_step`` receives a :class:`vaelab.data.chunks.Chunk`: several optimizer steps at once, under manual optimisation. ``global_step`` counts optimizer
    steps. Metrics gather in one tensor on the device, which is read once per logging interval.

    Args:
        model: a :class:`vaelab.models.Model`.
        objective: what is maximised.
        optimizer: parameters -> optimizer.
        noise: of the run.
        step_settings: of the optimisation step.
        engine: carries the step out.
        matmul: arithmetic of its products, see :func:`vaelab.training.arithmetic.products`.
        estimator: measures the test set.
        config: the resolved configuration, primitives only; goes into every checkpoint.
        log_every_n_steps: optimizer steps between two entries in the loggers, or an epoch where that is shorter.
        val_check_interval: optimizer steps between two validations; None = at the end of each epoch.

    A checkpoint holds, beside what Lightning puts into it, the ``progress`` within a logging interval, and not the state of Lightning's loops: epoch, position, order and noise
    follow from ``global_step``.

    Attributes:
        stop: whether somebody wants the run to stop.
        fingerprint: takes the losses of single steps, or None.
        fault_file: where the batch goes at which a run of skipped steps began, or None.
        seat: among runs that are trained together, or None.
        given_up: where the run was given up, for the checkpoint (:class:`vaelab.training.pruning.GivenUp`); None where it was not.
    """

    def __init__(
        self,
        model: Any,
        objective: Any,
        optimizer: Callable[..., torch.optim.Optimizer],
        noise: Noise,
        *,
        step_settings: StepSettings = StepSettings(),
        engine: Engine | None = None,
        matmul: str | None = None,
        estimator: Estimator | None = None,
        config: dict[str, Any] | None = None,
        log_every_n_steps: int = 50,
        val_check_interval: int | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        #: the moving average of the weights, where there is one
        self.averaged = (
            copy.deepcopy(model).requires_grad_(False) if step_settings.ema_decay is not None else None
        )
        self.objective = objective
        self.make_optimizer = optimizer
        self.noise = noise
        self.step_settings = step_settings
        self.engine = engine if engine is not None else Eager()
        self.matmul = matmul
        self.estimator = estimator if estimator is not None else BoundEstimator()
        self.config = config if config is not None else {}
        self.log_every_n_steps = log_every_n_steps
        self.val_check_interval = val_check_interval
        self.latest: dict[str, float] = {}  #: last value of every metric, for progress bars
        self.skipped_steps = 0  #: of this fit, as far as logged
        #: where the per-image values of a test go
        self.results: PerImageParts | None = None
        self.stop = StopRequest()
        self.fingerprint: Logger | None = None
        self.fault_file: Path | None = None
        self.seat: Seat | None = None
        self.given_up: dict[str, Any] | None = None
        self._losses: list[
            tuple[int, Tensor]
        ] = []  # of the fingerprint, not yet written: step, and the sum over images of this rank by their number on all
        self._validating = False  # began and has not ended
        self._progress: dict[str, Any] | None = None  # of the checkpoint that the run goes on from
        self._eps: dict[tuple[str, int], Tensor] = {}

    # -- training ------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer([p for p in self.model.parameters() if p.requires_grad])

    def make_step(self, data: ImageDataModule, **of_ranks: Any) -> OptimisationStep:
        """The optimizer step of this module on these data; ``of_ranks`` are the arguments of :class:`OptimisationStep` that say which of several processes this is."""
        return OptimisationStep(
            model=self.model,
            objective=self.objective,
            data=data,
            num_images=data.size("train"),
            noise=self.noise,
            settings=self.step_settings,
            averaged=self.averaged,
            **of_ranks,
        )

    def on_fit_start(self) -> None:
        self.data.move_to(self.device, next(self.model.parameters()).dtype)
        self._step = self.make_step(
            self.data,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
            everywhere=lambda here: self.trainer.strategy.reduce(here, reduce_op="min"),  # pyright: ignore[reportArgumentType]
        )
        self._carry_out = self.engine.bind(self._step, self._count_step)
        self._clear()
        if self._progress is not None:
            self._go_on(self._progress)

    def _count_step(self) -> None:
        """Tell Lightning of a step of the optimizer that it did not see, so that ``global_step`` counts it."""
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def on_train_start(self) -> None:
        self.stop.install()
        for optimizer in self.trainer.optimizers:
            settle(optimizer, self.engine.capturable)

    def on_train_batch_start(self, batch: Chunk, batch_idx: int) -> None:
        """Between two chunks all ranks stop, or none."""
        if self.trainer.world_size > 1:
            asked = torch.tensor(float(self.stop.signum or 0), device=self.device)
            signum = int(self.trainer.strategy.reduce(asked, reduce_op="max"))  # pyright: ignore[reportArgumentType]
            self.stop.signum = signum or None
        self.stop.obey()

    def training_step(self, chunk: Chunk, batch_idx: int) -> None:
        started = time.perf_counter()
        # here and not around the whole fit: Lightning asks torch for one precision of all devices, which there is not then
        with products(self.matmul, self.model):
            self._carry_out_chunk(chunk)
        self._seconds += time.perf_counter() - started
        step = self.trainer.global_step
        if step == self.plan.num_steps or step % self._log_interval == 0:
            self._log_training(step)
        self._announce_validation(step)

    def _carry_out_chunk(self, chunk: Chunk) -> None:
        optimizer, sums = self.optimizers(), self._sums
        carry_out = (
            self._carry_out if self.seat is None else self.seat.carries_out(self._step, chunk, self.stop)
        )
        for step, index in enumerate(chunk.indices, start=chunk.first_step):
            if self.stop.requested and step > chunk.first_step and self.trainer.world_size == 1:
                self.stop.obey()  # within a chunk nothing else is due
            found = carry_out(index, step, optimizer, self.manual_backward)
            sums += found
            if step < FIRST_LOSSES or (step + 1) % LOSSES_EVERY == 0:
                self._losses.append((step + 1, -found[0] / len(index)))
            self._images += len(index)
            self._steps += 1

    @property
    def _log_interval(self) -> int:
        """Optimizer steps between two logs; no more than an epoch."""
        return min(self.log_every_n_steps, self.plan.steps_per_epoch)

    def _announce_validation(self, step: int) -> None:
        """Lightning decides on validation by counting batches, and its batch is our chunk: so it is told at the end of each."""
        if self.val_check_interval is None:
            return  # it validates at the end of an epoch by itself
        due = step % self.val_check_interval == 0 or step == self.plan.num_steps
        self.trainer.val_check_batch = 1 if due else 2**62

    def _go_on(self, progress: dict[str, Any]) -> None:
        """From what a checkpoint says of the logging interval that it lies in."""
        self._sums += progress["sums"][self.global_rank].to(self._sums)
        self._images, self._steps = progress["images"], progress["steps"]
        self.skipped_steps = progress["skipped_steps"]
        self._step.skipped_in_a_row += progress["skipped_in_a_row"]

    def _clear(self) -> None:
        self._sums = torch.zeros(len(REPORT), device=self.device)
        self._images, self._steps, self._seconds = 0, 0, 0.0

    def on_fit_end(self) -> None:
        if self.skipped_steps and self.trainer.is_global_zero:
            rule = "loss or gradient were not finite, or the gradient longer than optimizer.skip_norm"
            print(
                f"{self.skipped_steps} of {self.trainer.global_step} steps were skipped: {rule}", flush=True
            )

    def _log_training(self, step: int) -> None:
        started = time.perf_counter()
        # one tensor, and so one transfer: sums, and what is the same on every rank
        gathered = torch.cat([self._sums, self._step.skipped_in_a_row.view(1).to(self._sums)])
        *totals, in_a_row = self.trainer.strategy.reduce(gathered, reduce_op="sum").tolist()
        self._seconds += time.perf_counter() - started  # a GPU is waited for here
        self._write_losses()
        sums = dict(zip(REPORT, totals, strict=True))
        images, steps, seconds, ranks = self._images, self._steps, self._seconds, self.trainer.world_size
        self._clear()
        if images == 0:
            return
        self.skipped_steps += round(sums["skipped"] / ranks)
        self._give_up_after(round(in_a_row / ranks), step)
        rate, distortion = sums["rate"] / images, sums["distortion"] / images
        self.record(
            {
                "train/loss": -sums["objective"] / images,
                "train/elbo": -(rate + distortion),
                "train/rate": rate,
                "train/distortion": distortion,
                "optim/lr": float(self._optimizer_group("lr")),
                "optim/beta": self.objective.weight(step - 1),
                **(
                    {}
                    if self.step_settings.scaled
                    else {"optim/grad_norm": sums["grad_norm"] / (ranks * steps)}
                ),
                "optim/skipped_steps": sums["skipped"] / ranks,
                "time/images_per_second": images / seconds,
            },
            step,
        )

    def _give_up_after(self, skipped: int, step: int) -> None:
        """End the run where nothing comes of its steps any more.

        Raises:
            FloatingPointError: so many steps in a row were left out.
        """
        if skipped < self.step_settings.max_skipped:
            return
        first = step - skipped
        kept = ""
        if self.fault_file is not None:
            kept = (
                f"; the batch of step {first + 1}, the first of them, is in {self.fault_file.name} of the run"
            )
            if self.trainer.is_global_zero:
                batch = self.data.train_batch(self.data.step_index(first).to(self.device), first)
                columns = {name: getattr(batch, name).cpu().numpy() for name in ("x", "y", "index")}
                write_atomically(self.fault_file, archive({**columns, "step": np.array(first + 1)}))
        too_long = "" if self.step_settings.skip_norm is None else ", or the gradient too long"
        raise FloatingPointError(
            f"the last {skipped} steps were skipped (optimizer.max_skipped={self.step_settings.max_skipped}): loss or gradient were not finite{too_long}; "
            f"a lower optimizer.lr, or optimizer.clip_norm, may help; the weights are those from before{kept}"
        )

    def _write_losses(self) -> None:
        """Append to the fingerprint what has gathered since the last time."""
        if not self._losses:
            return
        steps, losses = zip(*self._losses, strict=True)
        self._losses = []
        means = self.trainer.strategy.reduce(torch.stack(losses), reduce_op="sum").tolist()
        if self.fingerprint is not None:
            for step, loss in zip(steps, means, strict=True):
                self.fingerprint.log_metrics({"loss": loss}, step=step)

    def _optimizer_group(self, key: str) -> Any:
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        return optimizer.param_groups[0][key]

    def record(self, metrics: dict[str, float], step: int) -> None:
        """Hand numbers to every logger, with the count of optimizer steps as the axis."""
        self.latest.update(metrics)
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=step)

    # -- validation ----------------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        self.data.move_to(self.device, next(self.model.parameters()).dtype)

    def on_validation_epoch_start(self) -> None:
        self._validating, self.data.validate_first = True, False
        if self.trainer.state.fn == "fit":
            self.trainer.fit_loop.epoch_loop.max_steps = self.plan.num_steps
        self._val_sums = torch.zeros(5, dtype=torch.float64)
        self._means: list[Tensor] = []

    def validation_step(self, index: Tensor, batch_idx: int) -> None:
        if self.trainer.world_size == 1:
            self.stop.obey()
        batch = self.data.evaluation_batch("val", index)
        with full_float32():
            terms = self.evaluated(batch, self._fixed_noise("val", 1)[:, index].to(batch.x))
            values = bound_of(terms, terms.has_closed_form_kl)
            sums = torch.stack([values.elbo.sum(), values.rate.sum(), values.distortion.sum()]).cpu()
            right = accuracy(self.evaluated, batch).get("accuracy", torch.zeros(0)).sum()
        self._val_sums += torch.cat([sums, torch.tensor([float(len(index)), right], dtype=torch.float64)])
        self._means.append(exact(code_means(terms, len(index))))

    def on_validation_epoch_end(self) -> None:
        means = torch.cat(self._means)
        moments = torch.cat([self._val_sums, means.sum(0), means.square().sum(0)]).to(self._sum_device)
        moments = self.trainer.strategy.reduce(moments, reduce_op="sum").cpu()
        elbo, rate, distortion, n, right = moments[:5].tolist()
        first, second = moments[5:].chunk(2)
        metrics = {"val/elbo": elbo / n, "val/rate": rate / n, "val/distortion": distortion / n}
        if self.model.infers_labels:
            metrics["val/accuracy"] = right / n
        if means.shape[1]:
            metrics["val/active_units"] = float(active_units(activity(first, second, n)).sum())
        self.log_dict(
            metrics, logger=False, sync_dist=True
        )  # for callbacks that watch a metric; equal on all ranks already
        if not self.trainer.sanity_checking:
            self.record(metrics, self.trainer.global_step)
        self._validating = False

    # -- test ----------------------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        self.data.move_to(self.device, next(self.model.parameters()).dtype)

    def test_step(self, index: Tensor, batch_idx: int) -> None:
        assert self.results is not None
        if self.trainer.world_size == 1:
            self.stop.obey()  # in a thread of its own no signal reaches it
        started, split = time.perf_counter(), self.data.tested.split
        made = self.estimator.simulates  # its images share no noise with those of the data
        draws = ImageDraws(self.noise, Split.simulated, index) if made else self._draws(split, index)
        with full_float32():
            columns = self.estimator(self.evaluated, self.data.evaluation_batch(split, index), draws)
        self.results.add(index, columns, time.perf_counter() - started)

    def on_test_epoch_end(self) -> None:
        assert self.results is not None
        self.results.flush()
        self.trainer.strategy.barrier()  # rank 0 reads what the others have written

    # -- what both share -----------------------------------------------------------------------------------------------

    @property
    def evaluated(self) -> Any:
        """The model that is validated, tested and kept: with averaged weights, where there are any."""
        return self.model if self.averaged is None else self.averaged

    @property
    def data(self) -> ImageDataModule:
        datamodule = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(datamodule, ImageDataModule)
        return datamodule

    @property
    def plan(self) -> ChunkPlan:
        assert self.data.plan is not None
        return self.data.plan

    @property
    def _sum_device(self) -> torch.device:
        """Where sums in float64 are reduced: MPS has no float64."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def _fixed_noise(self, split: SplitName, num_samples: int) -> Tensor:
        """The same noise ``[K, N, D]`` at every validation."""
        key = (split, num_samples)
        if key not in self._eps:
            self._eps[key] = self._image_noise(
                split, torch.arange(self.data.size(split)), num_samples, repetition=0
            )
        return self._eps[key]

    def _image_noise(self, split: SplitName, index: Tensor, num_samples: int, repetition: int) -> Tensor:
        shape = (num_samples, self.model.noise_dim)
        return self._draws(split, index).normal("posterior", shape, repetition).transpose(0, 1)

    def _draws(self, split: SplitName, index: Tensor) -> ImageDraws:
        source = Split.test if split == "test" else Split.train
        return ImageDraws(self.noise, source, self.data.noise_index(split, index))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._write_losses()
        trainer = self.trainer
        for logger in (*trainer.loggers, *([] if self.fingerprint is None else [self.fingerprint])):
            logger.save()
        of_ranks = self._sums.new_zeros(trainer.world_size, len(self._sums))
        of_ranks[self.global_rank] = self._sums
        of_ranks = trainer.strategy.reduce(of_ranks, reduce_op="sum")
        assert isinstance(of_ranks, Tensor)
        ended = trainer.global_step >= self.plan.num_steps or (
            trainer.should_stop and trainer.fit_loop._can_stop_early
        )
        checkpoint["optimizer_states"] = [settled(state) for state in checkpoint["optimizer_states"]]
        by_themselves(checkpoint["state_dict"])
        checkpoint["config"] = self.config
        checkpoint["progress"] = {
            "sums": of_ranks.cpu(),
            "images": self._images,
            "steps": self._steps,
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self._step.skipped_in_a_row.cpu(),
            "validating": self._validating,
            "finished": ended and not self._validating and self.given_up is None,
            "given_up": self.given_up,
        }
        del checkpoint["loops"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put Lightning's loops where the run goes on: at the start of an epoch that has the rest of one."""
        progress, step = checkpoint["progress"], checkpoint["global_step"]
        self._progress = progress
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.manual_optimization.optim_step_progress.total
        done.ready = done.completed = step
        self.data.validate_first = progress["validating"]
        if self.data.validate_first:  # also after the last step, where there would be nothing left to do
            loop.epoch_loop.max_steps = self.plan.num_steps + 1
        epochs = self.plan.epoch(step, self.data.validate_first)
        for count in (loop.epoch_progress.total, loop.epoch_progress.current):
            assert isinstance(count, _ProcessedTracker)
            count.ready = count.started = count.processed = count.completed = epochs


def code_means(terms: Terms, num_images: int) -> Tensor:
    """E_q(z|x)[z] ``[B, D]`` over all layers; ``[B, 0]`` unless it is known for each: a count of active units in some layers would pass for one in all."""
    means = [layer.mean for layer in terms.layers]
    known = [mean for mean in means if mean is not None]
    return torch.cat(known, dim=-1) if len(known) == len(means) else torch.zeros(num_images, 0)
