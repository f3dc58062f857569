"""Losses and gradients that are not finite: they never reach the weights, and a run that gets no further ends with its last good checkpoint."""

from __future__ import annotations

import dataclasses
import errno
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vaelab.errors import RunFailed, SettingError
from vaelab.experiments import recording
from vaelab.experiments.resume import resume
from vaelab.experiments.train import train
from vaelab.objectives import ELBO, ObjectiveValue, Weights
from vaelab.runs import RunDirectory, Status, read_json, read_status
from vaelab.training import OptimisationStep, read_checkpoint

Compose = Callable[..., dict[str, Any]]
#: 20 steps an epoch
SETTINGS = (
    "data=digits", "data.batch_size=60", "latent_dim=2", "trainer=cpu", "encoder.hidden=[16]", "decoder.hidden=[16]", "estimator=elbo",
    "trainer.enable_progress_bar=false", "trainer.max_epochs=2", "trainer.log_every_n_steps=10",
)  # fmt: skip


def nan_of_both(surrogate: Tensor) -> Tensor:
    return surrogate * torch.nan


def infinite_loss_of_a_finite_gradient(surrogate: Tensor) -> Tensor:
    return surrogate + torch.inf


def spoil(
    monkeypatch: pytest.MonkeyPatch, steps: Iterable[int], how: Callable[[Tensor], Tensor] = nan_of_both
) -> None:
    """The loss of these steps, counted from 0."""
    at, bound, chosen = ELBO.at, ELBO.bound, set(steps)
    now: list[int] = []

    def noted(self: ELBO, step: int) -> Weights:
        now[:] = [step]
        return at(self, step)

    def spoilt(self: ELBO, terms: Any, weights: Weights, num_images: int) -> ObjectiveValue:
        found = bound(self, terms, weights, num_images)
        if now[0] not in chosen:
            return found
        return dataclasses.replace(found, value=how(found.value), surrogate=how(found.surrogate))

    monkeypatch.setattr(ELBO, "at", noted)
    monkeypatch.setattr(ELBO, "bound", spoilt)


@pytest.mark.parametrize("how", [nan_of_both, infinite_loss_of_a_finite_gradient])
def test_a_step_that_is_not_finite_leaves_weights_and_moments_alone(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, how: Callable[[Tensor], Tensor]
) -> None:
    spoil(monkeypatch, [5], how)
    states: dict[int, list[Tensor]] = {}
    carry_out = OptimisationStep.__call__

    def watched(self: OptimisationStep, index: Any, number: int, optimizer: Any, *rest: Any) -> Tensor:
        report = carry_out(self, index, number, optimizer, *rest)
        moments = [state["exp_avg"].clone() for state in optimizer.state.values()]
        states[number] = [p.detach().clone() for p in self.parameters] + moments
        assert report[-1] == (number == 5)
        return report

    monkeypatch.setattr(OptimisationStep, "__call__", watched)
    train(compose(*SETTINGS))
    assert all(torch.equal(a, b) for a, b in zip(states[4], states[5], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(states[5], states[6], strict=True))


def test_a_run_that_gets_no_further_fails_with_what_was_good(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, range(23, 100))
    with pytest.raises(RunFailed, match=r"the last 7 steps were skipped \(optimizer\.max_skipped=7\)"):
        train(compose(*SETTINGS, "optimizer.max_skipped=7"))
    (path,) = (tmp_path / "logs" / "vae").iterdir()
    run = RunDirectory(path)
    assert read_status(run.status_file).status is Status.FAILED
    assert not run.weights_file.exists()
    checkpoint = read_checkpoint(run.last_checkpoint)
    assert checkpoint["global_step"] == 20
    assert all(bool(value.isfinite().all()) for value in checkpoint["state_dict"].values())
    with np.load(run.skipped_batch_file) as batch:
        assert int(batch["step"]) == 24
        assert batch["x"].shape == (60, 1, 8, 8)
        assert len(set(batch["index"].tolist())) == 60
    monkeypatch.undo()
    assert resume(path).cards, "what made it fail is gone"
    assert not run.skipped_batch_file.exists()


def test_steps_in_a_row_are_counted_over_an_interruption(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight before the end of the epoch, four after it: neither alone would be enough."""
    spoil(monkeypatch, range(12, 24))
    settings = (*SETTINGS, "optimizer.max_skipped=12", "trainer.log_every_n_steps=8")
    carry_out = OptimisationStep.__call__

    def dying(self: OptimisationStep, index: Any, number: int, *arguments: Any) -> Tensor:
        if number == 20:
            raise RuntimeError("killed")
        return carry_out(self, index, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(OptimisationStep, "__call__", dying)
        with pytest.raises(RunFailed, match="killed"):
            train(compose(*settings))
    (path,) = (tmp_path / "logs" / "vae").iterdir()
    with pytest.raises(RunFailed, match="the last 12 steps were skipped"):
        resume(path)


def test_now_and_then_is_no_reason_to_stop(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, range(0, 40, 2))
    assert train(compose(*SETTINGS, "optimizer.max_skipped=2")).cards


def test_the_limit_is_a_positive_integer(compose: Compose) -> None:
    with pytest.raises(SettingError, match=r"optimizer\.max_skipped=0: must be a positive integer"):
        train(compose(*SETTINGS, "optimizer.max_skipped=0"))


def test_a_run_is_complete_only_once_its_whole_record_says_so(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, seen = recording.write_status, []

    def writing(path: Path, status: Status, **more: Any) -> Any:
        if status is Status.COMPLETED:
            seen.append(read_json(path.with_name("manifest.json"))["status"])
        return write(path, status, **more)

    monkeypatch.setattr(recording, "write_status", writing)
    train(compose("data=digits", "debug=fast", "trainer=cpu"))
    assert seen == ["completed"]


def test_a_full_disk_while_stopping_is_a_failure(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)

    def stopping() -> None:
        with recording.recorded(run) as ending:
            ending.stop.signum = signal.SIGTERM
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunFailed, match="No space left") as caught:
        stopping()
    assert caught.value.exit_status == 1
    assert read_status(run.status_file).status is Status.FAILED
