"""A run without its checkpoints is measured, drawn, loaded and started from as before: its record says which weights model.safetensors has."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vaelab
from vaelab.commands.runs import main
from vaelab.errors import SettingError
from vaelab.experiments.evaluate import evaluate
from vaelab.experiments.sample import sample
from vaelab.experiments.train import train
from vaelab.runs import Card, read_cards
from vaelab.runs.cards import comparable
from vaelab.runs.files import file_digest

Compose = Callable[..., dict[str, Any]]
TRAIN = ("data=digits", "data.binarize=threshold", "latent_dim=3", "encoder.hidden=[24]", "decoder.hidden=[24]", "trainer=cpu", "trainer.max_epochs=2",
         "optimizer.ema_decay=0.9", "estimator=elbo", "trainer.enable_progress_bar=false")  # fmt: skip
#: with validation the best weights are selected, without it the last
SELECTED = {"data.val_size=200": "val/elbo (max)", "data.val_size=0": "last"}


@pytest.fixture(params=SELECTED)
def run(request: pytest.FixtureRequest, compose: Compose) -> tuple[Path, str]:
    return train(compose(*TRAIN, request.param)).directory, SELECTED[request.param]


def measured(run: Path, compose: Compose, *overrides: str) -> list[Card]:
    return evaluate(compose(f"run={run}", "estimator=elbo", *overrides, config_name="evaluate"))


def assert_same(cards: list[Card], others: list[Card]) -> None:
    assert len(cards) == len(others) > 0
    for one, other in zip(cards, others, strict=True):
        assert comparable(one, other) == []
        assert one.protocol == other.protocol
        assert one.value == other.value


def test_a_pruned_run_gives_the_numbers_and_pictures_that_it_gave(
    run: tuple[Path, str], compose: Compose, tmp_path: Path
) -> None:
    place, how = run
    whole = tmp_path / "whole"
    shutil.copytree(place, whole)
    (digest,) = {card.checkpoint for card in read_cards(place / "evaluation.json")}
    assert digest == file_digest(place / "model.safetensors")
    measured(whole, compose)
    measured(place, compose)
    (folder,) = (place / "evaluations").iterdir()
    assert main([str(place), "--prune", "--yes"]) == 0
    measured(place, compose)
    assert list((place / "evaluations").iterdir()) == [folder], "the same weights, measured already"
    assert list((place / "checkpoints").iterdir()) == []
    expected, found = measured(whole, compose), measured(place, compose)
    assert {card.protocol["selected_by"] for card in found} == {how}
    assert_same(found, expected)
    assert_same(found, read_cards(place / "evaluation.json"))  # it took the place of those of the training
    options = ("seed=7", "num_samples=5")
    for directory in (whole, place):
        sample(compose(f"run={directory}", *options, config_name="sample"))
    drawn = [directory / "samples" / "selected_seed7" / "samples.npz" for directory in (whole, place)]
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
    weights = [vaelab.load(directory).state_dict() for directory in (whole, place)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    child = train(compose(*TRAIN, "data.val_size=0", f"init_from={place}", "trainer.max_epochs=1"))
    assert read_cards(child.directory / "evaluation.json")


def test_weights_that_are_not_those_on_record_are_refused_everywhere(
    run: tuple[Path, str], compose: Compose
) -> None:
    place, _ = run
    content = bytearray((place / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (place / "model.safetensors").write_bytes(bytes(content))
    for use in (
        lambda: measured(place, compose),
        lambda: sample(compose(f"run={place}", config_name="sample")),
        lambda: vaelab.load(place),
        lambda: train(compose(*TRAIN, f"init_from={place}")),
    ):
        with pytest.raises(
            SettingError, match=r"model\.safetensors: is damaged: its SHA-256 is not the recorded one"
        ):
            use()
    (place / "model.safetensors").unlink()
    with pytest.raises(SettingError, match="has lost its model"):
        vaelab.load(place)


def test_the_selected_weights_are_had_by_their_other_name_and_no_others(
    run: tuple[Path, str], compose: Compose
) -> None:
    place, how = run
    assert main([str(place), "--prune", "--yes"]) == 0
    selected, other = ("last", "best") if how == "last" else ("best", "last")
    (card, *_) = measured(place, compose, f"checkpoint={selected}")
    assert card.protocol["selected_by"] == how
    with pytest.raises(SettingError, match="is not there"):
        measured(place, compose, f"checkpoint={other}")


def test_what_is_left_of_the_checkpoints_does_not_say_which_were_selected(
    compose: Compose, tmp_path: Path
) -> None:
    place = train(compose(*TRAIN, "data.val_size=200")).directory
    (place / "checkpoints" / "best.ckpt").unlink()  # as where pruning was cut off
    (card, *_) = measured(place, compose)
    assert card.protocol["selected_by"] == "val/elbo (max)"


@pytest.mark.parametrize("setting", SELECTED)
def test_a_run_that_kept_its_weights_only_says_how_they_were_chosen(compose: Compose, setting: str) -> None:
    place = train(compose(*TRAIN, setting, "checkpoints.keep=weights_only_best")).directory
    assert list((place / "checkpoints").iterdir()) == []
    before = read_cards(place / "evaluation.json")
    found = measured(place, compose)
    assert {card.protocol["selected_by"] for card in found} == {SELECTED[setting]}
    assert_same(found, before)
