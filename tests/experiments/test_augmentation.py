"""``vae-evaluate estimator=augmentation`` on small runs of the digits."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaelab.batch import Batch
from vaelab.data.datasets import load
from vaelab.errors import SettingError
from vaelab.experiments import augmentation as room
from vaelab.experiments.evaluate import evaluate
from vaelab.experiments.train import Result, train
from vaelab.loading import load_model
from vaelab.noise import Noise, Stream
from vaelab.runs import Card
from vaelab.runs.cards import comparable
from vaelab.tasks.augmentation import ARMS, GAINS

SMALL = ("data=digits", "trainer=cpu", "trainer.max_epochs=1", "latent_dim=3", "encoder.hidden=[16]", "decoder.hidden=[16]", "estimator.num_samples=2",
         "trainer.enable_progress_bar=false", "logger=none", "data.train_size=40", "data.val_size=30", "data.train_subset=random")  # fmt: skip
ASKED = ("estimator=augmentation", "estimator.repetitions=2", "estimator.steps=8", "estimator.batch_size=8")

Trained = Callable[..., Result]
Ask = Callable[..., list[Card]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """(overrides) -> a run with them, trained once."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    logs, made = tmp_path_factory.mktemp("logs"), {}

    def _trained(*overrides: str) -> Result:
        if overrides not in made:
            configs = Path(__file__).resolve().parents[2] / "configs"
            paths = (f"paths.log_dir={logs}", f"paths.data_dir={logs}/data")
            with initialize_config_dir(str(configs), version_base="1.3"):
                cfg = compose("train", overrides=[*SMALL, *paths, *overrides])
            config: Any = OmegaConf.to_container(cfg, resolve=True)
            with pytest.MonkeyPatch.context() as patch:  # drawing takes longer than training
                patch.setattr("vaelab.experiments.train.draw_pictures", lambda *args: [])
                made[overrides] = train(config)
        return made[overrides]

    return _trained


@pytest.fixture
def ask(compose: Callable[..., dict[str, Any]], tmp_path: Path) -> Ask:
    """(run, overrides of vae-evaluate) -> the cards."""

    def _ask(run: Result, *overrides: str, **more: Any) -> list[Card]:
        options = compose(
            f"run={run.directory}",
            f"paths.data_dir={tmp_path}/data",
            *ASKED,
            *overrides,
            config_name="evaluate",
        )
        return evaluate({**options, **more})

    return _ask


def by_metric(cards: list[Card]) -> dict[str, Card]:
    return {card.metric: card for card in cards}


def test_cards_pictures_and_files(trained: Trained, ask: Ask) -> None:
    run = trained("model=conditional")
    cards = by_metric(ask(run))
    assert [*cards] == [*(f"accuracy_{arm}" for arm in ARMS), *GAINS]
    for card in cards.values():
        assert (card.units, card.num_samples, card.num_images, card.split) == ("accuracy", 2, 360, "test")
        assert card.se_images is not None
        assert card.se_mc is not None
        assert card.protocol["num_train"] == 40
        assert "likelihood" not in card.protocol
    gain = cards["accuracy_augmented"].value - cards["accuracy_real"].value
    assert cards["gain"].value == pytest.approx(gain, abs=1e-12)
    assert cards["gain"].protocol["share"] == 0.5
    (folder,) = (run.directory / "evaluations").glob("augmentation_*")
    assert {path.name for path in folder.iterdir()} == {
        "accuracies.csv",
        "accuracies.png",
        "images.png",
        "cards.json",
    }
    rows = list(csv.DictReader((folder / "accuracies.csv").read_text().splitlines()))
    for arm in ARMS:
        mean = sum(float(row[arm]) for row in rows) / len(rows)
        assert cards[f"accuracy_{arm}"].value == pytest.approx(mean, abs=1e-12)


def test_again_it_is_the_same_and_with_another_seed_it_is_not(trained: Trained, ask: Ask) -> None:
    run = trained("model=conditional")
    first, again = ask(run, split="val"), ask(run, split="val", force=True)
    assert [card.value for card in first] == [card.value for card in again]
    assert first[0].num_images == 30
    assert [card.value for card in ask(run, split="val", seed=5)] != [card.value for card in first]


def test_the_images_are_those_of_the_run_and_the_models_are_of_their_classes(
    trained: Trained, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class Enough(Exception):
        pass

    def noted(*given: Any, **settings: Any) -> None:
        seen.update(zip(("x", "y", "test_x", "test_y", "generate", "noise"), given, strict=True))
        raise Enough

    monkeypatch.setattr(room, "augmentation_gain", noted)
    digits = load("digits", "nowhere", download=False)
    chosen, index = Noise(0).subset(len(digits.train.x) - 30)[:40], torch.tensor([4, 1, 30])
    for source, binarize in (("prior", "none"), ("prior", "threshold"), ("posterior", "threshold")):
        run = trained("model=conditional", f"data.binarize={binarize}")
        with pytest.raises(Enough):
            ask(run, f"estimator.source={source}", force=True)
        assert torch.equal(seen["x"], digits.train.x[chosen] / 16)  # grey, whatever the model sees
        assert torch.equal(seen["y"], digits.train.y[chosen])
        assert torch.equal(seen["test_x"], digits.test.x / 16)
        assert torch.equal(seen["test_y"], digits.test.y)
        model: Any = load_model(run.directory)
        y = seen["y"][index]
        with torch.no_grad():
            if source == "prior":
                expected = model.sample(Noise(7).step_normal(Stream.prior, 2, (3, 3)), y).mean
            else:
                batch = Batch((seen["x"][index] > 0.5).float(), y, index)
                eps = Noise(7).step_normal(Stream.posterior, 2, (1, 3, 3))
                expected = model.reconstruct(batch, eps).mean[0]
        torch.testing.assert_close(seen["generate"](index, Noise(7), 2), expected)


def test_a_model_without_labels_gives_its_reconstructions(trained: Trained, ask: Ask) -> None:
    run = trained()
    with pytest.raises(SettingError, match=r"estimator\.source=prior: samples of this model have no label"):
        ask(run)
    assert not list((run.directory / "evaluations").glob("augmentation_*"))
    without = by_metric(ask(run, "estimator.source=posterior"))
    given = by_metric(ask(trained("model=conditional"), "estimator.source=posterior"))
    assert not comparable(without["gain"], given["gain"])  # no difference that forbids it
    # the classifiers of real images have nothing of either model
    assert without["accuracy_real"].value == given["accuracy_real"].value


def test_a_run_of_few_labels_has_classifiers_of_those_alone(trained: Trained, ask: Ask) -> None:
    few = ("data.num_labels=10", "data.labelled_per_batch=5", "data.batch_size=20")
    run = trained("model=semi_supervised", "objective=semi_supervised", *few)
    cards = by_metric(ask(run, "estimator.repetitions=1", "estimator.steps=1"))
    assert {card.protocol["num_train"] for card in cards.values()} == {10}


def test_one_repetition_says_what_it_does_not_know(trained: Trained, ask: Ask) -> None:
    (card, *_) = ask(trained("model=conditional"), "estimator.repetitions=1")
    assert card.se_mc is None
    assert "one repetition" in (card.warning or "")


@pytest.mark.parametrize(
    "overrides, more, message",
    [
        (("estimator.source=data",), {}, r"estimator\.source=data: must be one of prior, posterior"),
        (("estimator.share=1.5",), {}, r"estimator\.share=1\.5: must be a number from 0 to 1"),
        (("estimator.repetitions=0",), {}, r"estimator\.repetitions=0: must be a positive integer"),
        (("estimator.steps=0",), {}, r"estimator\.steps=0: must be a positive integer"),
        (("estimator.batch_size=null",), {}, r"estimator\.batch_size=null: must be a positive integer"),
        (("estimator.shift=0.6",), {}, r"estimator\.shift=0\.6: must be a number from 0 to 0\.5"),
        (("estimator.angle=-1",), {}, r"estimator\.angle=-1: must be a number from 0 to 180"),
        ((), {"binarize": "dynamic"}, r"binarize=dynamic: has no effect on samples of the prior"),
    ],
)
def test_what_cannot_be_followed_is_refused_and_nothing_is_written(
    trained: Trained, ask: Ask, overrides: tuple[str, ...], more: dict[str, Any], message: str
) -> None:
    run = trained("model=conditional")
    before = {path: path.stat().st_mtime_ns for path in run.directory.rglob("*")}
    with pytest.raises(SettingError, match=message):
        ask(run, *overrides, **more)
    assert {path: path.stat().st_mtime_ns for path in run.directory.rglob("*")} == before


@pytest.mark.parametrize(
    "wrong, message",
    [
        ("labels", "has no label for a training image"),
        ("classes", "has a single class"),
        ("size", "at least 8 x 8 pixels"),
    ],
)
def test_data_that_no_classifier_can_be_trained_on_are_refused(
    trained: Trained, ask: Ask, tmp_path: Path, wrong: str, message: str
) -> None:
    rng, size = np.random.default_rng(0), 7 if wrong == "size" else 8
    x = rng.integers(0, 256, (60, size, size), dtype=np.uint8)
    labels: dict[str, Any] = {} if wrong == "labels" else {"train_labels": np.arange(30) % 3, "val_labels": np.arange(10) % 3, "test_labels": np.arange(20) % 3}  # fmt: skip
    if wrong == "classes":
        labels = {name: values * 0 for name, values in labels.items()}
    np.savez(tmp_path / "mine.npz", train=x[:30], val=x[30:40], test=x[40:], **labels)
    run = trained(
        "data=arrays",
        f"data.path={tmp_path}/mine.npz",
        "data.train_size=20",
        "data.val_size=null",
        "trainer.max_steps=1",
    )
    with pytest.raises(SettingError, match=rf"data=.*{message}"):
        ask(run, "estimator.source=posterior")
