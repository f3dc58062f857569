"""A run that starts from another one's weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vaelab.errors import SettingError
from vaelab.experiments.assembly import assemble
from vaelab.experiments.parent import Parent, differences, inherited
from vaelab.experiments.train import Result, train
from vaelab.runs import RunDirectory, read_json, read_manifest, read_yaml, write_json
from vaelab.training import read_checkpoint
from vaelab.training.checkpoints import file_digest

Compose = Callable[..., dict[str, Any]]
SMALL = ("data=digits", "data.train_size=200", "data.val_size=50", "encoder.hidden=[16]", "decoder.hidden=[16]", "latent_dim=3",
         "trainer=cpu", "trainer.enable_progress_bar=false", "trainer.max_epochs=1", "estimator=elbo")  # fmt: skip
QUIET = ("trainer.enable_progress_bar=false",)


@pytest.fixture
def first(compose: Compose) -> Result:
    return train(compose(*SMALL, "optimizer.ema_decay=0.5"))


def from_first(compose: Compose, first: Result, *typed: str) -> dict[str, Any]:
    overrides = (f"init_from={first.directory}", *typed)
    parent = read_yaml(RunDirectory.open(first.directory).config_file)
    return inherited(parent, compose(*overrides), overrides)


def test_another_prior_is_fitted_and_nothing_else_moves(compose: Compose, first: Result) -> None:
    config = from_first(compose, first, "prior=mixture", "train_only=prior")
    second = train(config)
    before, after = (load_file(r.directory / "model.safetensors") for r in (first, second))
    for name in before:
        assert torch.equal(before[name], after[name]), name
    fresh = assemble({**config, "init_from": None}).module.model.state_dict()
    moved = [
        name for name in after if name.startswith("prior.") and not torch.equal(after[name], fresh[name])
    ]
    assert len(moved) == len([name for name in after if name.startswith("prior.")]) > 0
    bounds = {card.metric: card.value for card in second.cards}
    distortion = {card.metric: card.value for card in first.cards}["distortion"]
    assert bounds["distortion"] == pytest.approx(distortion, rel=1e-6)  # same q, decoder, noise and pixels


def test_the_parent_is_on_record(compose: Compose, first: Result) -> None:
    config = from_first(compose, first, "prior=normal", "optimizer.lr=1e-4")
    second = train(config)
    run = RunDirectory.open(second.directory)
    assert read_manifest(run)["parent"] == {
        "run": first.directory.name,
        "directory": str(first.directory),
        "weights": file_digest(first.directory / "model.safetensors"),
        "parts": {"loaded": ["encoder", "posterior", "decoder"], "new": ["prior"]},
    }
    assert read_manifest(RunDirectory.open(first.directory))["parent"] is None
    said = (second.directory / "console.log").read_text()
    assert "encoder, posterior, decoder | new: prior" in said
    assert "optimizer.lr: 0.001 -> 0.0001" in said
    third = train(from_first(compose, second, "trainer.max_steps=1"))  # of a child's child
    assert read_yaml(RunDirectory.open(third.directory).config_file)["optimizer"]["lr"] == 1e-4


def test_an_average_of_weights_starts_at_the_parents(compose: Compose, first: Result) -> None:
    config = from_first(compose, first)
    module = assemble(config, Parent.open(str(first.directory))).module
    assert module.averaged is not None
    for name, weight in load_file(first.directory / "model.safetensors").items():
        assert torch.equal(weight, module.model.state_dict()[name])
        assert torch.equal(weight, module.averaged.state_dict()[name])


def test_settings_are_the_parents_but_for_what_is_typed(compose: Compose) -> None:
    parent = compose("data=digits", "latent_dim=7", "prior=mixture", "prior.num_components=4", "optimizer.lr=0.5", "name=old")  # fmt: skip
    overrides = ("latent_dim=64", "prior.num_components=9", "objective=iwae", "tags=[new]", "init_from=x")
    config = inherited(parent, compose("prior=mixture", *overrides), overrides)
    changed = sorted(line.partition(":")[0] for line in differences(parent, config))
    assert changed == ["latent_dim", "objective._target_", "objective.kl", "objective.num_samples", "prior.num_components"]  # fmt: skip
    assert config["latent_dim"] == 64, "a default that is typed is typed"
    assert (config["optimizer"]["lr"], config["name"], config["tags"]) == (0.5, "old", ["new"])
    assert config["init_from"] == "x"


REFUSED: list[tuple[str, tuple[str, ...], str]] = [
    ("train_only", ("train_only=prior",), "parts of the model that have weights: encoder, posterior, decoder"),
    ("train_only", ("train_only=[]",), "null or parts of the model"),
    ("train_only", ("train_only=encodr",), "did you mean 'encoder'"),
    ("init_from", ("latent_dim=5",), "nothing of it would be used: latent_dim"),
    ("init_from", ("data=frey_faces",), "its encoder does not fit these data: frey_faces, where the run had digits"),
    ("train_only", ("likelihood=gaussian", "train_only=encoder"), "the weights of decoder are new and would stay random"),
    ("init_from", ("model=ladder",), "is a VAE: its parts mean something else here"),
    ("experiment", ("experiment=reference",), "type single ones"),
    ("debug", ("debug=fast",), "trainer.max_steps"),
]  # fmt: skip


@pytest.mark.parametrize("setting, typed, rule", REFUSED)
def test_what_cannot_go_on_from_a_run_is_refused(
    compose: Compose, first: Result, setting: str, typed: tuple[str, ...], rule: str, mnist_dir: Path
) -> None:
    before = sorted(first.directory.parent.iterdir())
    with pytest.raises(SettingError, match=rule) as error:
        train({**from_first(compose, first, *typed), "paths": {"log_dir": str(first.directory.parents[1]), "data_dir": str(mnist_dir)}})  # fmt: skip
    assert error.value.setting == setting
    assert sorted(first.directory.parent.iterdir()) == before


@pytest.mark.parametrize("complete", [True, False])
def test_a_run_without_weights_has_none_to_give(first: Result, complete: bool) -> None:
    (first.directory / "model.safetensors").unlink()
    manifest = read_json(first.directory / "manifest.json")
    if not complete:
        write_json(first.directory / "manifest.json", {k: v for k, v in manifest.items() if k != "weights"})
    said = "has lost its model" if complete else "did not complete; vae-resume"
    with pytest.raises(SettingError, match=said) as error:
        Parent.open(str(first.directory))
    assert error.value.setting == "init_from"
    with pytest.raises(SettingError, match="no such run directory") as error:
        Parent.open(str(first.directory) + "x")
    assert error.value.setting == "init_from"


def test_the_moments_of_the_parents_optimizer_go_with_its_weights(compose: Compose) -> None:
    first = train(compose(*SMALL))
    second = train(
        from_first(compose, first, "init_from_optimizer=true", "trainer.max_steps=1", "optimizer.lr=1e-4")
    )
    fresh = train(from_first(compose, first, "trainer.max_steps=1", "optimizer.lr=1e-4"))
    best, *last = (
        read_checkpoint(result.directory / "checkpoints" / name)["optimizer_states"][0]
        for result, name in ((first, "best.ckpt"), (second, "last.ckpt"), (fresh, "last.ckpt"))
    )
    steps = [float(found["state"][0]["step"]) for found in (best, *last)]
    assert steps == [steps[0], steps[0] + 1, 1]
    assert steps[0] > 1
    assert last[0]["param_groups"][0]["lr"] == 1e-4
    beta = last[0]["param_groups"][0]["betas"][0]
    gradient = last[1]["state"][0]["exp_avg"] / (1 - beta)  # the same weights, images and noise
    expected = beta * best["state"][0]["exp_avg"] + (1 - beta) * gradient
    torch.testing.assert_close(last[0]["state"][0]["exp_avg"], expected)


@pytest.mark.parametrize(
    "typed, names",
    [
        (("prior=normal",), "here prior is another"),
        (("train_only=prior", "prior=normal"), "train_only is another"),
        (("optimizer=adamax",), "and not of torch.optim.Adamax"),
    ],
)
def test_moments_of_other_weights_or_of_another_optimizer_are_refused(
    compose: Compose, first: Result, typed: tuple[str, ...], names: str
) -> None:
    with pytest.raises(SettingError, match=names) as caught:
        train(from_first(compose, first, "init_from_optimizer=true", *typed))
    assert caught.value.setting == "init_from_optimizer"


def test_moments_of_a_run_without_checkpoints_are_refused(compose: Compose, first: Result) -> None:
    for path in (first.directory / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(SettingError, match="has no checkpoint any more"):
        train(from_first(compose, first, "init_from_optimizer=true"))
