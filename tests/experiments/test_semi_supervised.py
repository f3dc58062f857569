"""Runs with few labels: their record, their interruption, what is refused, and what they are good for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vaelab
from vaelab.errors import SettingError
from vaelab.experiments.evaluate import evaluate
from vaelab.experiments.measured import open_measured
from vaelab.experiments.parent import inherited
from vaelab.experiments.train import train
from vaelab.runs import RunDirectory, read_cards, read_manifest
from vaelab.runs.metrics import read

Compose = Callable[..., dict[str, Any]]
SMALL = (
    "data=digits", "data.binarize=threshold", "latent_dim=4", "encoder.hidden=[32]", "decoder.hidden=[32]", "trainer=cpu", "logger=none",
    "callbacks=none", "trainer.enable_progress_bar=false", "estimator.num_samples=3", "estimator.repetitions=2",
)  # fmt: skip
FEW = ("data.num_labels=50", "data.labelled_per_batch=10", "data.batch_size=60")
M2 = (*SMALL, *FEW, "model=semi_supervised", "objective=semi_supervised")


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelab.experiments.train.draw_pictures", lambda *args, **kwargs: [])


def test_a_run_says_which_labels_it_was_told_and_how_often_it_is_right(
    compose: Compose, tmp_path: Path
) -> None:
    config = compose(*M2, "trainer.max_epochs=2", f"paths.log_dir={tmp_path}")
    run = RunDirectory(train(config).directory)
    labels = read_manifest(run)["data"]["labels"]
    assert {key: labels[key] for key in ("num_labels", "label_seed")} == {
        "num_labels": 50,
        "label_seed": None,
    }
    assert len(labels["images"]) == 64
    (card,) = [card for card in read_cards(run.evaluation_file) if card.metric == "accuracy"]
    share = card.value
    assert (card.units, card.num_images, card.estimator) == ("accuracy", 360, "classifier")
    assert card.se_images == pytest.approx((share * (1 - share) / 359) ** 0.5)
    rows = read(run.metrics_file)
    assert len([row["val/accuracy"] for row in rows if "val/accuracy" in row]) == 2
    assert all(0 <= row["val/active_units"] <= 4 for row in rows if "val/active_units" in row)
    assert {path.name for path in run.figures.iterdir()} >= {"analogies.png", "samples.png"}
    model: Any = vaelab.load(run.path)
    assert model.classify(torch.zeros(2, 1, 8, 8)).exp().sum(-1).tolist() == pytest.approx([1, 1])


def test_of_a_classifier_alone_its_accuracy_is_all_that_is_measured_and_drawn(
    compose: Compose, tmp_path: Path
) -> None:
    alone = ("objective=classification", "data.labelled_per_batch=60", "trainer.max_epochs=1")
    run = RunDirectory(train(compose(*M2, *alone, f"paths.log_dir={tmp_path}")).directory)
    assert [card.metric for card in read_cards(run.evaluation_file)] == ["accuracy"]
    assert [path.name for path in run.figures.iterdir()] == ["learning_curves.png"]
    assert read(run.metrics_file)[-1]["step"] == 20  # an epoch of all 1,200 images
    with pytest.raises(SettingError, match=r"run=.*has not learned p\(x\)"):
        open_measured(
            {"run": str(run.path), "checkpoint": "selected", "seed": None, "paths": compose()["paths"]}
        )
    for name in ("latents", "sample_quality", "augmentation"):
        with pytest.raises(SettingError, match=rf"estimator={name}: .*has not learned p\(x\)"):
            evaluate(compose(f"run={run.path}", f"estimator={name}", config_name="evaluate"))
    assert [card.metric for card in read_cards(run.evaluation_file)] == ["accuracy"]


@pytest.mark.parametrize(
    "overrides, setting, rule",
    [
        (("model=vae", "objective=elbo"), "data.num_labels", "does not infer labels"),
        (("model=conditional", "objective=elbo"), "data.num_labels", "does not infer labels"),
        (("objective=iwae",), "objective", "sums over classes"),
        (("objective=stl",), "objective", "sums over classes"),
        (("prior=vamp",), "prior", "it is q(z|x, y)"),
        (("data.num_labels=55",), "data.num_labels", "multiple of 10"),
        (("score.name=val/accuracy", "model=vae", "objective=elbo", "data.num_labels=null", "data.labelled_per_batch=null"), "score.name", "needs a model with q"),
        (("model=vae", "data.num_labels=null", "data.labelled_per_batch=null"), "objective", "needs a model with q"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_before_anything_is_written(
    compose: Compose, tmp_path: Path, overrides: tuple[str, ...], setting: str, rule: str
) -> None:
    with pytest.raises(SettingError) as error:
        train(compose(*M2, *overrides, f"paths.log_dir={tmp_path}"))
    assert error.value.setting == setting
    assert rule in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_pictures")
def test_m1_m2_begins_with_the_vae_of_a_run_and_leaves_it_as_it_is(compose: Compose, tmp_path: Path) -> None:
    first = train(compose(*SMALL, "trainer.max_epochs=1", f"paths.log_dir={tmp_path}/m1")).directory
    typed = (
        "model=m1_m2",
        "model.hidden=[16]",
        "objective=semi_supervised",
        *FEW,
        f"init_from={first}",
        "train_only=second",
    )
    config = compose(*SMALL, *typed, f"paths.log_dir={tmp_path}/m2")
    parent = json.loads(json.dumps(compose(*SMALL, "trainer.max_epochs=1")))
    second = train(inherited(parent, config, typed)).directory
    one, two = vaelab.load(first).state_dict(), vaelab.load(second).state_dict()
    m1 = {name for name in two if not name.startswith("second.")}
    assert {name.partition(".")[0] for name in m1} >= {"encoder", "posterior", "decoder"}
    assert all(torch.equal(one[name], two[name]) for name in m1)
    metrics = {card.metric for card in read_cards(RunDirectory(second).evaluation_file)}
    assert metrics == {"elbo", "rate", "distortion", "nll", "accuracy"}
    assert read_manifest(RunDirectory(second))["parent"]["parts"]["new"] == ["second"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_m2_is_right_more_often_than_its_classifier_alone_on_the_same_labels(
    compose: Compose, tmp_path: Path
) -> None:
    settings = (
        "data.num_labels=20",
        "data.val_size=0",
        "encoder.hidden=[64]",
        "decoder.hidden=[64]",
        "latent_dim=8",
    )
    differences = []
    for seed in range(3):
        right = {}
        for name, own in {
            "m2": ("data.labelled_per_batch=10", "trainer.max_epochs=60"),
            "alone": ("data.labelled_per_batch=60", "objective=classification", "trainer.max_steps=600"),
        }.items():
            run = train(
                compose(*M2, *settings, *own, f"seed={seed}", f"paths.log_dir={tmp_path}/{name}")
            ).directory
            cards = read_cards(RunDirectory(run).evaluation_file)
            right[name] = next(card.value for card in cards if card.metric == "accuracy")
        differences.append(right["m2"] - right["alone"])
    assert sum(differences) / len(differences) > 0.02, differences
