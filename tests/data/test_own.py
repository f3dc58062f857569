"""Runs on a person's own data: the record says which, and the run can be measured again."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vaelab
from vaelab.data import own
from vaelab.errors import SettingError
from vaelab.experiments.evaluate import evaluate
from vaelab.experiments.train import train
from vaelab.runs import read_cards, read_manifest, read_yaml
from vaelab.runs.directory import RunDirectory
from vaelab.runs.metrics import read

Compose = Callable[..., dict[str, Any]]
RNG = np.random.default_rng(0)
# two steps
SMALL = ("data.train_size=32", "data.batch_size=16", "encoder.hidden=[8]", "decoder.hidden=[8]", "latent_dim=2", "trainer=cpu", "trainer.max_epochs=1",
         "trainer.enable_progress_bar=false", "estimator.repetitions=1", "estimator.num_samples=2", "callbacks=none")  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures, which take longer than the steps; relative names are of ``tmp_path``; not the person's own cache."""
    monkeypatch.setattr("vaelab.experiments.train.draw_pictures", lambda *args, **kwargs: [])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)


def colours(n: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, 6, 5, 3), np.uint8)


def options(run: Path, compose: Compose, tmp_path: Path) -> dict[str, Any]:
    as_trained = ("estimator=quick", "estimator.repetitions=1", "estimator.num_samples=2")
    return compose(f"run={run}", f"paths.data_dir={tmp_path}/data", *as_trained, config_name="evaluate")


def test_a_run_on_colour_arrays_is_recorded_loaded_and_measured_again(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "own.npz", train=colours(60))
    digest = hashlib.sha256((tmp_path / "own.npz").read_bytes()).hexdigest()
    result = train(compose("data=arrays", "data.path=own.npz", f"paths.data_dir={tmp_path}/data", *SMALL))
    run = RunDirectory.open(result.directory)
    assert read_yaml(run.config_file)["data"]["path"] == f"{tmp_path}/own.npz"
    data = read_manifest(run)["data"]
    assert (data["actual"], data["digests"], data["image_shape"]) == (
        "arrays",
        {"own.npz": digest},
        [3, 6, 5],
    )
    assert (data["num_train"], data["num_val"], data["num_test"]) == (32, 5, 6)
    assert any("the last tenth in that order, 6 images" in note for note in data["notes"])
    assert read(run.metrics_file)[-1]["step"] == 2
    assert {card.protocol["data"] for card in result.cards} == {f"arrays:{digest[:12]}"}
    assert vaelab.load(result.directory) is not None
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the record does not depend on where one stands
    before = {card.metric: card.value for card in result.cards}
    for card in evaluate(options(result.directory, compose, tmp_path)):
        assert card.value == pytest.approx(before[card.metric], rel=1e-6)
    assert len(read_cards(run.evaluation_file)) == len(before), "the same number, replaced"


def test_other_data_in_the_place_of_a_run_s_make_another_number(compose: Compose, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", train=colours(60))
    result = train(compose("data=arrays", "data.path=own.npz", f"paths.data_dir={tmp_path}/data", *SMALL))
    np.savez(tmp_path / "own.npz", train=colours(60))
    evaluate(options(result.directory, compose, tmp_path))
    cards = read_cards(result.directory / "evaluation.json")
    assert len(cards) == 2 * len(result.cards), "beside the run's own, not in its place"


@pytest.mark.parametrize("channels, likelihood", [(3, "gaussian"), (1, "bernoulli")])
def test_a_run_on_a_folder(compose: Compose, tmp_path: Path, channels: int, likelihood: str) -> None:
    for i, picture in enumerate(colours(60)):
        (tmp_path / "own" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "own" / "ab"[i % 2] / f"{i}.png")
    settings = (
        "data=folder",
        "data.path=own",
        "data.size=5",
        f"data.channels={channels}",
        f"likelihood={likelihood}",
    )
    result = train(compose(*settings, f"paths.data_dir={tmp_path}/data", *SMALL))
    data = read_manifest(RunDirectory.open(result.directory))["data"]
    assert data["image_shape"] == [channels, 5, 5]
    assert list(data["digests"]) == ["images"]
    assert any(note.startswith("labels 0 to 1 are the subfolders a, b") for note in data["notes"])
    before = {card.metric: card.value for card in result.cards}
    for card in evaluate(options(result.directory, compose, tmp_path)):
        assert card.value == pytest.approx(before[card.metric], rel=1e-6)


def test_what_is_wrong_is_refused_before_anything_is_written(compose: Compose, tmp_path: Path) -> None:
    for name, path, rule in (
        ("arrays", "away.npz", "there is no such file"),
        ("folder", "away", "there is no such folder"),
    ):
        with pytest.raises(SettingError, match=f"data.path={path}: {rule}"):
            train(compose(f"data={name}", f"data.path={path}", f"paths.data_dir={tmp_path}/data", *SMALL))
    assert not (tmp_path / "logs").exists()


def test_a_path_is_absolute_and_a_home_is_its_owner_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.npz").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    for typed in ("own.npz", "./own.npz", "~/own.npz", f"{tmp_path}/own.npz"):
        config = own.settled({"seed": 0, "data": {"name": "arrays", "path": typed}})
        assert config == {"seed": 0, "data": {"name": "arrays", "path": f"{tmp_path}/own.npz"}}
    other = {"data": {"name": "digits"}}
    assert own.settled(other) is other
