"""A run in 64 bits stays in them: its weights are nowhere rounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vaelab
from vaelab.commands import entry
from vaelab.commands import evaluate as command
from vaelab.experiments.evaluate import evaluate
from vaelab.experiments.sample import sample
from vaelab.experiments.train import Result, train
from vaelab.networks import MLPEncoder
from vaelab.runs.directory import find_runs
from vaelab.training import read_checkpoint

Compose = Callable[..., dict[str, Any]]
Weights = dict[str, Tensor]
SMALL = ("data=digits", "latent_dim=2", "encoder.hidden=[8]", "decoder.hidden=[8]", "trainer=cpu", "trainer.max_steps=3", "trainer.precision=64-true",
         "data.binarize=threshold", "estimator=elbo", "trainer.enable_progress_bar=false")  # fmt: skip


@pytest.fixture
def finished(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> Result:
    with monkeypatch.context() as patch:
        patch.setattr("vaelab.experiments.train.draw_pictures", lambda *args: [])
        return train(
            compose(
                *SMALL, "prior=vamp", "prior.num_components=5", "prior.init=data", "decoder.output_bias=data"
            )
        )


def trained(run: Result) -> Weights:
    """The selected weights; not all of them would survive 32 bits."""
    state = read_checkpoint(run.directory / "checkpoints" / "best.ckpt")["state_dict"]
    weights = {name.removeprefix("model."): value for name, value in state.items()}
    assert any(not torch.equal(value, value.float().double()) for value in weights.values())
    return weights


def assert_equal(weights: Weights, expected: Weights) -> None:
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        assert value.dtype == torch.float64
        assert torch.equal(value, expected[name]), name


def test_load(finished: Result) -> None:
    assert_equal(vaelab.load(finished.directory).state_dict(), trained(finished))


def test_evaluation_and_samples(finished: Result, compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, seen = MLPEncoder.forward, list[Tensor]()

    def noted(self: Any, *args: Any, **context: Any) -> Tensor:
        seen.append(self.layers[0].weight.detach())
        return forward(self, *args, **context)

    monkeypatch.setattr(MLPEncoder, "forward", noted)
    expected = trained(finished)["encoder.layers.0.weight"]
    run = f"run={finished.directory}"
    for checkpoint in ("selected", "last"):
        seen.clear()
        cards = evaluate(compose(run, "estimator=elbo", f"checkpoint={checkpoint}", config_name="evaluate"))
        assert len(seen) > 0
        # with one epoch both are the same weights
        assert all(torch.equal(weight, expected) for weight in seen)
        assert {card.num_images for card in cards} == {360}
    with (
        np.load(finished.directory / "per_image.npz") as before,
        np.load(next((finished.directory / "evaluations").glob("*/per_image.npz"))) as after,
    ):
        np.testing.assert_allclose(after["elbo"], before["elbo"], rtol=1e-12)
    sample(compose(run, "num_samples=3", "what=[npz]", config_name="sample"))


def test_a_run_that_starts_from_it(
    finished: Result, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaelab.experiments.assembly import assemble
    from vaelab.experiments.parent import Parent

    config = {
        **compose(
            *SMALL, "prior=vamp", "prior.num_components=5", "prior.init=data", "decoder.output_bias=data"
        )
    }
    parts = assemble(config, Parent.open(str(finished.directory)))
    assert_equal(parts.module.model.state_dict(), trained(finished))


def test_weights_from_elsewhere(
    finished: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [f"config={finished.directory}/config.yaml", f"weights={finished.directory}/model.safetensors"]
    asked = [
        *files,
        f"paths.log_dir={tmp_path}/elsewhere",
        "num_images=20",
        "trainer.accelerator=cpu",
        "estimator=elbo",
    ]
    assert entry.run("evaluate", command.task, argv=asked) == 0, capsys.readouterr().err
    (run,) = find_runs(tmp_path / "elsewhere")
    assert_equal(vaelab.load(run.path).state_dict(), trained(finished))
