"""Lightning's loop over chunks: what is counted in optimizer steps, and what a chunk must not change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from vaelab.errors import SettingError
from vaelab.experiments.assembly import assemble
from vaelab.experiments.request import Request
from vaelab.experiments.train import Result, train
from vaelab.runs.metrics import read
from vaelab.training import read_checkpoint
from vaelab.training.rates import learning_rate

Compose = Callable[..., dict[str, Any]]
# 200 images in batches of 32: seven steps an epoch, the last of eight images.
SMALL = ("data=digits", "data.train_size=200", "data.val_size=50", "data.batch_size=32", "encoder.hidden=[16]", "decoder.hidden=[16]", "latent_dim=3",
         "trainer=cpu", "trainer.enable_progress_bar=false")  # fmt: skip


class Seen(L.Callback):
    """At which optimizer steps something happened."""

    def __init__(self) -> None:
        self.validations: list[int] = []
        self.chunk_ends: list[int] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validations.append(trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.chunk_ends.append(trainer.global_step)


def run(compose: Compose, *overrides: str) -> tuple[Result, Seen]:
    seen = Seen()
    return train(compose(*SMALL, *overrides), callbacks=[seen]), seen


def weights(result: Result) -> dict[str, torch.Tensor]:
    return read_checkpoint(result.directory / "checkpoints" / "last.ckpt")["state_dict"]


def test_results_do_not_depend_on_the_length_of_chunks(compose: Compose) -> None:
    overrides = ("trainer.max_epochs=2", "data.binarize=dynamic", "estimator=elbo")
    runs = [run(compose, f"engine.chunk_steps={n}", *overrides)[0] for n in (1, 5)]
    one, five = (weights(r) for r in runs)
    assert all(torch.equal(one[name], five[name]) for name in one)
    rows = [
        [
            {k: v for k, v in row.items() if not k.startswith("time/")}
            for row in read(r.directory / "metrics.csv")
        ]
        for r in runs
    ]
    assert [list(a) for a in rows[0]] == [list(b) for b in rows[1]]
    for a, b in zip(*rows, strict=True):
        assert a == pytest.approx(b, rel=1e-6)


def test_global_step_counts_optimizer_steps_and_epochs_end_on_them(compose: Compose) -> None:
    result, seen = run(compose, "trainer.max_epochs=3")
    assert read_checkpoint(result.directory / "checkpoints" / "last.ckpt")["global_step"] == 21
    assert seen.validations == [7, 14, 21]
    assert seen.chunk_ends == [7, 14, 21]
    steps = [row["step"] for row in read(result.directory / "metrics.csv")]
    assert steps == [7, 14, 21]


def test_max_steps_counts_optimizer_steps(compose: Compose) -> None:
    result, seen = run(compose, "trainer.max_epochs=-1", "trainer.max_steps=10", "engine.chunk_steps=4")
    assert read_checkpoint(result.directory / "checkpoints" / "last.ckpt")["global_step"] == 10
    assert seen.chunk_ends == [4, 7, 10]
    assert seen.validations[-1] == 10, "the last weights are validated"


def test_checkpoints_every_n_steps_lie_on_multiples_of_n_and_at_the_end(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(L.Trainer, "save_checkpoint", _noting(saved, L.Trainer.save_checkpoint))
    run(compose, "trainer.max_epochs=2", "checkpoints.every_n_steps=4", "data.val_size=0")
    assert sorted(set(saved)) == [4, 8, 12, 14]


def _noting(saved: list[int], save: Any) -> Any:
    def save_checkpoint(self: L.Trainer, path: Path, *rest: Any, **more: Any) -> None:
        saved.append(self.global_step)
        save(self, path, *rest, **more)

    return save_checkpoint


def test_val_check_interval_counts_optimizer_steps(compose: Compose) -> None:
    _, seen = run(compose, "trainer.max_epochs=2", "trainer.val_check_interval=4")
    assert seen.validations == [4, 8, 12, 14]


def test_log_every_n_steps_counts_optimizer_steps(compose: Compose) -> None:
    result, _ = run(compose, "trainer.max_epochs=1", "trainer.log_every_n_steps=3", "data.val_size=0")
    rows = [row for row in read(result.directory / "metrics.csv") if "train/loss" in row]
    assert [row["step"] for row in rows] == [3, 6, 7]


def test_accumulation_takes_more_images_a_step(compose: Compose) -> None:
    halves, _ = run(compose, "trainer.max_epochs=1", "data.batch_size=16", "optimizer.accumulate=2")
    whole, _ = run(compose, "trainer.max_epochs=1")
    a, b = weights(halves), weights(whole)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


def test_the_best_checkpoint_is_that_of_the_best_validation(compose: Compose) -> None:
    result, _ = run(compose, "trainer.max_epochs=4", "optimizer.lr=0.5")  # so large that training gets worse
    rows = {
        row["step"]: row["val/elbo"] for row in read(result.directory / "metrics.csv") if "val/elbo" in row
    }
    best = max(rows, key=lambda step: rows[step])
    assert best != 28, "the test needs a run whose last validation is not its best"
    assert read_checkpoint(result.directory / "checkpoints" / "best.ckpt")["global_step"] == best
    assert result.score == pytest.approx(rows[best], rel=1e-6)
    assert {card.protocol["selected_by"] for card in result.cards} == {"val/elbo (max)"}
    tested = load_file(result.directory / "model.safetensors")
    for name, weight in read_checkpoint(result.directory / "checkpoints" / "best.ckpt")["state_dict"].items():
        assert torch.equal(tested[name.removeprefix("model.")], weight)


def test_every_validation_has_the_same_noise(compose: Compose) -> None:
    result, _ = run(compose, "trainer.max_epochs=3", "optimizer.lr=1e-30")  # too small to change a weight
    rows = [row["val/elbo"] for row in read(result.directory / "metrics.csv") if "val/elbo" in row]
    assert len(rows) == 3
    assert len(set(rows)) == 1


def test_without_validation_the_last_weights_are_taken(compose: Compose) -> None:
    result, seen = run(compose, "trainer.max_epochs=2", "data.val_size=0")
    assert seen.validations == []
    assert result.score is None
    assert {card.protocol["selected_by"] for card in result.cards} == {"last"}
    assert not (result.directory / "checkpoints" / "best.ckpt").exists()


def test_early_stopping_does_not_count_during_the_warm_up(compose: Compose) -> None:
    worse = (
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=1e6",
        "trainer.max_epochs=8",
    )
    _, at_once = run(compose, *worse)
    _, after = run(compose, *worse, "schedule=linear", "schedule.warmup_epochs=3")
    assert len(at_once.validations) == 2
    assert len(after.validations) == 4


def test_the_warm_up_raises_beta_step_by_step(compose: Compose) -> None:
    overrides = (
        "trainer.max_epochs=2",
        "schedule=linear",
        "schedule.warmup_steps=10",
        "objective.beta=2",
        "trainer.log_every_n_steps=1",
        "data.val_size=0",
    )
    result, _ = run(compose, *overrides)
    betas = [row["optim/beta"] for row in read(result.directory / "metrics.csv") if "optim/beta" in row]
    assert betas == pytest.approx([min(2.0, 0.2 * step) for step in range(14)])
    row = read(result.directory / "metrics.csv")[5]
    assert row["train/loss"] == pytest.approx(
        row["train/distortion"] + row["optim/beta"] * row["train/rate"], rel=1e-5
    )
    assert row["train/elbo"] == pytest.approx(-row["train/distortion"] - row["train/rate"], rel=1e-5)


def test_a_run_is_the_same_twice_and_not_with_another_seed(compose: Compose) -> None:
    first, again, other = (
        weights(run(compose, "trainer.max_epochs=1", f"seed={seed}")[0]) for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_the_averaged_weights_are_tested_and_kept(compose: Compose) -> None:
    result, _ = run(compose, "trainer.max_epochs=2", "optimizer.ema_decay=0.5", "optimizer.schedule=cosine")
    state = read_checkpoint(result.directory / "checkpoints" / "best.ckpt")["state_dict"]
    kept = load_file(result.directory / "model.safetensors")
    assert any(not torch.equal(state[f"model.{name}"], state[f"averaged.{name}"]) for name in kept)
    for name, weight in kept.items():
        assert torch.equal(weight, state[f"averaged.{name}"])
    rates = [row["optim/lr"] for row in read(result.directory / "metrics.csv") if "optim/lr" in row]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1 * rates[0]


def test_pseudo_inputs_start_as_training_images(compose: Compose) -> None:
    config = compose(
        *SMALL, "prior=vamp", "prior.init=data", "prior.num_components=4", "data.binarize=threshold"
    )
    parts = assemble(config)
    assert parts.data.images is not None
    trained_on = (parts.data.images.train.x[:200] > 8).float().flatten(1)
    for image in parts.module.model.prior.pseudo_inputs.flatten(1):
        assert (trained_on - image).abs().amax(1).min() < 0.011  # kept inside the range by a hundredth of it


@pytest.mark.parametrize("override", ["posterior=flow", "posterior.kind=coupling"])
def test_a_part_that_the_model_makes_itself_is_refused(compose: Compose, override: str) -> None:
    request = Request(overrides=("model=ladder", override))
    with pytest.raises(
        SettingError, match="LadderVAE makes its own posterior; it takes decoder, encoder, likelihood, prior"
    ):
        train(compose(*SMALL, "model=ladder", "posterior=flow"), request)


def test_a_shortened_staircase_shortens_the_run_with_it(compose: Compose) -> None:
    whole = ("optimizer.schedule=staircase", "trainer.max_epochs=3280")
    parts = assemble(compose(*SMALL, *whole, "optimizer.schedule_scale=0.001"))
    rate = parts.module.step_settings.learning_rate
    per_epoch = parts.plan.steps_per_epoch
    assert parts.plan.num_steps == round(3.280 * per_epoch)
    assert rate is not None
    long = learning_rate("staircase", 1e-3, 3280 * per_epoch, per_epoch)
    assert long is not None
    assert [rate(step) for step in range(parts.plan.num_steps)] == pytest.approx(
        [long(1000 * step) for step in range(parts.plan.num_steps)]
    )
    asked_for = assemble(compose(*SMALL, *whole, "optimizer.schedule_scale=0.001", "trainer.max_steps=2"))
    assert asked_for.plan.num_steps == 2, "a number of steps is not shortened"
