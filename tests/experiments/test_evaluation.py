"""What vae-evaluate says of an image depends on the image alone: not on batches, chunks, order or processes, nor on noise that is for training."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import vaelab
from vaelab.errors import RunFailed, SettingError
from vaelab.evidence import AnnealedEstimator
from vaelab.experiments import evaluate as module
from vaelab.experiments import stored
from vaelab.experiments.train import train
from vaelab.networks import MLPDecoder, MLPEncoder
from vaelab.noise import Noise, Split, Stream
from vaelab.runs import Card, Status, read_cards, read_json, write_json, write_status
from vaelab.runs.cards import comparable
from vaelab.runs.files import file_digest
from vaelab.runs.lock import held
from vaelab.training import progress
from vaelab.training.arithmetic import SETTINGS, onednn_is_faster

Compose = Callable[..., dict[str, Any]]
TRAIN = ("data=digits", "data.binarize=threshold", "latent_dim=3", "encoder.hidden=[24]", "decoder.hidden=[24]", "trainer=cpu", "trainer.max_epochs=2",
         "estimator=elbo", "logger=none", "trainer.enable_progress_bar=false")  # fmt: skip
#: odd, and no multiple of any batch below
IMAGES = 47
STEPS = ("estimator.num_chains=6", "estimator.num_steps=8", "estimator.leapfrog_steps=2")
ESTIMATORS = {
    "elbo": ("estimator=elbo",),
    "importance": ("estimator=importance", "estimator.num_samples=100"),
    "ais": ("estimator=ais", *STEPS),
    "bdmc": ("estimator=bdmc", *STEPS),
}
#: of the columns, those that cards are the means of; a gap is a difference of two
VALUES = ("elbo", "rate", "distortion", "log_px", "log_px_lower", "log_px_upper")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    configs = Path(__file__).resolve().parents[2] / "configs"
    logs = tmp_path_factory.mktemp("logs")
    with initialize_config_dir(str(configs), version_base="1.3"):
        config: Any = OmegaConf.to_container(
            compose("train", overrides=[*TRAIN, f"paths.log_dir={logs}"]), resolve=True
        )
    return train(config).directory


def copied(run: Path, to: Path, **settings: object) -> Path:
    """The run in another place, with other values of some keys in its configuration."""
    shutil.copytree(run, to)
    text = (to / "config.yaml").read_text()
    for key, value in settings.items():
        text, count = re.subn(rf"(?m)^( *{key}): .*$", rf"\1: {value}", text)
        assert count == 1
    (to / "config.yaml").write_text(text)
    return to


def measured(run: Path, compose: Compose, *overrides: str) -> tuple[dict[str, np.ndarray], list[Card]]:
    cards = module.evaluate(compose(f"run={run}", *overrides, config_name="evaluate"))
    (file,) = (run / "evaluations").glob("*/per_image.npz")
    with np.load(file) as values:
        return {name: values[name] for name in values.files}, cards


def shuffled(num_images: int, size: int, split: str) -> Tensor:
    return torch.randperm(num_images, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("precision, tolerance", [("32-true", 1e-6), ("64-true", 1e-9)])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_nothing_depends_on_batches_chunks_and_order(
    run: Path, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, precision: str, tolerance: float
) -> None:  # fmt: skip
    asked = (*ESTIMATORS[name], f"num_images={IMAGES}")
    expected, cards = measured(copied(run, tmp_path / "whole", precision=precision), compose, *asked)
    assert expected["index"].tolist() == list(range(IMAGES))
    columns = VALUES if precision == "32-true" else expected

    def same(other: str, *overrides: str, **settings: object) -> None:
        place = copied(run, tmp_path / other, precision=precision, **settings)
        values, again = measured(place, compose, *asked, *overrides)
        assert values.keys() == expected.keys()
        for column in expected.keys() & columns:
            np.testing.assert_allclose(
                values[column], expected[column], rtol=tolerance, atol=1e-12, err_msg=column
            )
        assert [card.value for card in again] == pytest.approx([card.value for card in cards], rel=tolerance)

    at_once = "images_at_once=4" if name in ("ais", "bdmc") else "max_rows=13"
    same("parts", f"estimator.{at_once}", eval_batch_size=7)
    monkeypatch.setattr(stored, "_images", shuffled)
    same("order", eval_batch_size=10)


#: vae-evaluate, each of whose processes notes which images it has measured
COMMAND = """
import os, sys
from vaelab.commands import evaluate
from vaelab.training import PerImageParts

add = PerImageParts.add

def noted(self, index, columns, seconds):
    with open(f"{os.environ['NOTES']}/rank_{os.environ.get('LOCAL_RANK', 0)}", "a") as file:
        print(*index.tolist(), file=file)
    add(self, index, columns, seconds)

PerImageParts.add = noted
sys.exit(evaluate.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["importance", "ais"])
def test_two_real_processes_count_each_image_once_and_write_one_set_of_files(
    run: Path, compose: Compose, tmp_path: Path, name: str
) -> None:
    asked = (*ESTIMATORS[name], f"num_images={IMAGES}")
    expected, cards = measured(copied(run, tmp_path / "one"), compose, *asked)
    two = copied(run, tmp_path / "two")
    before = {path for path in two.rglob("*") if path.is_file()}
    (tmp_path / "command.py").write_text(COMMAND)
    asked = (*asked, "trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp")
    done = subprocess.run(
        [sys.executable, tmp_path / "command.py", f"run={two}", *asked],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "NOTES": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(2):
        seen = (tmp_path / f"rank_{rank}").read_text().split()
        assert [int(i) for i in seen] == list(range(rank, IMAGES, 2)), "each image by one process alone"
    written = {path for path in two.rglob("*") if path.is_file()} - before
    (folder,) = (two / "evaluations").iterdir()
    assert written == {folder / "cards.json", folder / "per_image.npz"}
    with np.load(folder / "per_image.npz") as values:
        assert values["index"].tolist() == list(range(IMAGES))
        for column in expected.keys() & VALUES:
            np.testing.assert_allclose(values[column], expected[column], rtol=1e-6, err_msg=column)
    twins = read_cards(folder / "cards.json")
    assert {card.num_images for card in twins} == {IMAGES}
    assert [card.metric for card in twins] == [card.metric for card in cards]
    assert [card.value for card in twins] == pytest.approx([card.value for card in cards], rel=1e-6)
    kept = {(card.estimator, card.metric, card.num_images): card.value for card in read_cards(two / "evaluation.json")}  # fmt: skip
    assert all(kept[card.estimator, card.metric, IMAGES] == card.value for card in twins)


@pytest.mark.parametrize("network", [MLPEncoder, MLPDecoder])
def test_dropout_is_off(
    run: Path, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: Any
) -> None:
    forward, modes = network.forward, set[bool]()

    def noisy(self: Any, *args: Any, **context: Any) -> Tensor:
        modes.add(self.training)
        return F.dropout(forward(self, *args, **context), 0.5, self.training)

    monkeypatch.setattr(network, "forward", noisy)
    asked = (*ESTIMATORS["importance"], f"num_images={IMAGES}")
    first, second = (measured(copied(run, tmp_path / str(i)), compose, *asked)[0] for i in range(2))
    assert modes == {False}
    assert all(np.array_equal(values, second[column]) for column, values in first.items())
    elbo, log_px = by_hand(vaelab.load(run).state_dict())
    np.testing.assert_allclose(first["elbo"], elbo, rtol=1e-5)
    np.testing.assert_allclose(first["log_px"], log_px, rtol=1e-5)


def by_hand(weights: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """ELBO and log p(x) of the first test images, from 8 and from 100 samples, without any network."""
    from sklearn.datasets import load_digits

    grey: Any = load_digits()
    x = torch.from_numpy(grey.data[-360:][:IMAGES] > 8).double()

    def layer(name: str, inputs: Tensor) -> Tensor:
        return inputs @ weights[f"{name}.weight"].double().T + weights[f"{name}.bias"].double()

    h = layer("encoder.layers.0", x).relu()
    mean, log_variance = layer("posterior.mean", h), layer("posterior.log_variance", h)
    found = []
    for repetition, num_samples in enumerate((8, 100)):
        shape, index = (num_samples, 3), torch.arange(IMAGES)
        eps = Noise(0).image_normal(Stream.posterior, Split.test, index, shape, repetition).transpose(0, 1)
        z = mean + (0.5 * log_variance).exp() * eps.double()
        logits = layer("decoder.output", layer("decoder.layers.0", z).relu())
        found.append((z, eps, -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)))  # fmt: skip
    rate = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
    elbo = found[0][2].mean(0) - rate
    z, eps, log_px = found[1]
    log_w = log_px - 0.5 * (z.square() - eps.square() - log_variance).sum(-1)
    return elbo.numpy(), (log_w.logsumexp(0) - np.log(100)).numpy()


@pytest.mark.parametrize("name", ["importance", "latents"])
def test_numbers_are_computed_in_full_float32(
    run: Path, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen, forward, before = [], MLPEncoder.forward, [setting.fp32_precision for setting in SETTINGS]

    def noted(self: Any, *args: Any, **context: Any) -> Tensor:
        seen.append([setting.fp32_precision for setting in SETTINGS])
        return forward(self, *args, **context)

    place = copied(run, tmp_path / name)
    monkeypatch.setattr(MLPEncoder, "forward", noted)
    asked = ("estimator.num_samples=100", f"num_images={IMAGES}")
    module.evaluate(compose(f"run={place}", f"estimator={name}", *asked, config_name="evaluate"))
    assert len(seen) > 0
    assert seen == [["ieee", "ieee", "bf16" if onednn_is_faster() else "ieee", "ieee"]] * len(seen)
    assert [setting.fp32_precision for setting in SETTINGS] == before != seen[0]


@pytest.mark.parametrize("name", ["ais", "bdmc"])
def test_too_many_latent_dimensions_are_refused_before_anything_is_made(
    run: Path, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place = copied(run, tmp_path / name)
    before = sorted(place.rglob("*"))
    monkeypatch.setattr(sys.modules["vaelab.evidence.ais"], "MAX_DIMENSIONS", 2)
    monkeypatch.setattr(module, "build_trainer", None)
    with pytest.raises(SettingError, match=f"estimator={name}: is for models with at most 2 .* has 3"):
        measured(place, compose, *ESTIMATORS[name])
    assert sorted(place.rglob("*")) == before


PICTURED = ("estimator=latents", "estimator.num_samples=100", "estimator.cut_samples=null")


@pytest.mark.parametrize("asked", [ESTIMATORS["importance"], PICTURED], ids=["importance", "latents"])
def test_measured_anew_where_that_is_forced(
    run: Path, compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: tuple[str, ...]
) -> None:
    place = copied(run, tmp_path / "run")

    def evaluated(*more: str) -> tuple[list[Card], str]:
        cards = module.evaluate(
            compose(f"run={place}", *asked, f"num_images={IMAGES}", *more, config_name="evaluate")
        )
        return cards, capsys.readouterr().out

    first, said = evaluated()
    assert "measured already" not in said
    (folder,) = (place / "evaluations").iterdir()
    files = sorted(folder.iterdir())
    (folder / "cards.json").write_text(
        (folder / "cards.json").read_text().replace('"seconds": ', '"seconds": 1000')
    )
    (folder / "stale.txt").touch()
    again, said = evaluated()
    assert "measured already; force=true measures anew" in said
    assert {card.seconds >= 1000 for card in again} == {True}
    forced, said = evaluated("force=true")
    assert "measured already" not in said
    assert {card.seconds >= 1000 for card in forced} == {False}
    assert [card.value for card in forced] == [card.value for card in first]
    assert list((place / "evaluations").iterdir()) == [folder]
    assert set(files) <= set(folder.iterdir())
    assert {card.seconds >= 1000 for card in evaluated()[0]} == {False}
    written = read_cards(place / "evaluation.json")
    assert len(written) == len({(card.estimator, card.metric, card.num_images) for card in written})


def test_a_forced_evaluation_begins_anew_and_keeps_what_was_there_until_it_is_done(
    run: Path, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copied(run, tmp_path / "run")
    options = compose(f"run={place}", *ESTIMATORS["ais"], "num_images=6", "estimator.images_at_once=2", config_name="evaluate")  # fmt: skip
    module.evaluate(options)
    (folder,) = (place / "evaluations").iterdir()
    values, measured = (folder / "per_image.npz").read_bytes(), list[int]()
    call = AnnealedEstimator.__call__

    def counted(self: Any, model: Any, batch: Any, draws: Any) -> Any:
        if len(measured) == 2:
            measured.append(0)
            raise KeyboardInterrupt
        measured.append(len(batch.x))
        return call(self, model, batch, draws)

    monkeypatch.setattr(AnnealedEstimator, "__call__", counted)
    for _ in range(2):  # what an interrupted one has left is no part of the next
        measured.clear()
        with pytest.raises(RunFailed, match="the same command without force=true goes on from the 4 images"):
            module.evaluate({**options, "force": True})
        assert measured == [2, 2, 0]
    assert (folder / "per_image.npz").read_bytes() == values
    module.evaluate(options)
    assert measured == [2, 2, 0, 2]
    assert (folder / "cards.json").is_file()


def test_two_that_measure_the_same_at_once_do_not_mix(run: Path, compose: Compose, tmp_path: Path) -> None:
    place = copied(run, tmp_path / "run")
    asked = (*ESTIMATORS["elbo"], "num_images=6")
    cards = measured(place, compose, *asked)[1]
    (folder,) = (place / "evaluations").iterdir()
    with held(folder), pytest.raises(SettingError, match="is being measured by another process"):
        measured(place, compose, *asked, "force=true")
    assert measured(place, compose, *asked)[1] == cards


@pytest.mark.parametrize("signum, exit_status", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_diagnostic_that_is_interrupted_says_that_nothing_is_kept(
    run: Path,
    compose: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signum: int,
    exit_status: int,
) -> None:
    forward, place = MLPEncoder.forward, copied(run, tmp_path / "run")

    def stopping(self: Any, *args: Any, **context: Any) -> Tensor:
        os.kill(os.getpid(), signum)
        return forward(self, *args, **context)

    monkeypatch.setattr(MLPEncoder, "forward", stopping)
    with pytest.raises(
        RunFailed, match="the same command begins again, nothing of latents is kept"
    ) as caught:
        module.evaluate(compose(f"run={place}", *PICTURED, config_name="evaluate"))
    assert caught.value.exit_status == exit_status


def test_images_that_a_model_makes_are_no_other_models(run: Path, compose: Compose, tmp_path: Path) -> None:
    asked = (*ESTIMATORS["bdmc"], "num_images=3")
    first = measured(copied(run, tmp_path / "a"), compose, *asked)[1]
    other = copied(run, tmp_path / "b")
    weights = {name: tensor * 1.01 for name, tensor in load_file(other / "model.safetensors").items()}
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    manifest = read_json(other / "manifest.json")
    write_json(other / "manifest.json", {**manifest, "weights": file_digest(other / "model.safetensors")})
    shutil.rmtree(other / "checkpoints")
    second = measured(other, compose, *asked)[1]
    for a, b in zip(first, second, strict=True):
        assert comparable(a, b) == ["protocol.simulated_by"]
    again = measured(copied(run, tmp_path / "c"), compose, *asked)[1]
    assert all(comparable(a, b) == [] for a, b in zip(first, again, strict=True))


def test_a_log_file_shows_how_far_a_long_evaluation_is(
    run: Path,
    compose: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    asked = (*ESTIMATORS["ais"], "num_images=6", "estimator.images_at_once=3")
    measured(copied(run, tmp_path / "run"), compose, *asked)
    said = capsys.readouterr().out
    assert "images: 3 of 6, " in said
    assert f"after 3 of 6 images, step: {int(STEPS[1].partition('=')[2]) // 2} of" in said


def test_what_is_measured_of_a_run_that_is_not_complete_says_so(
    run: Path, compose: Compose, tmp_path: Path
) -> None:
    place = copied(run, tmp_path / "run")
    asked = (*ESTIMATORS["elbo"], "num_images=6")
    assert {card.warning for card in measured(place, compose, *asked)[1]} == {None}
    write_status(place / "status.json", Status.INTERRUPTED, exit_status=75)
    shutil.rmtree(place / "evaluations")
    (warning,) = {card.warning for card in measured(place, compose, *asked)[1]}
    assert warning is not None
    assert warning.startswith("of a run that is not complete, as it stands")


def test_settings_that_were_changed_are_on_the_card(run: Path, compose: Compose, tmp_path: Path) -> None:
    place = copied(run, tmp_path / "run", lr=0.01)
    (warning,) = {card.warning for card in measured(place, compose, *ESTIMATORS["elbo"], "num_images=6")[1]}
    assert warning == "its config.yaml is not the one on record"


def test_a_place_that_cannot_be_written_to_is_met_before_anything_is_measured(
    run: Path, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(path: Path) -> None:
        raise SettingError("paths.log_dir", path, "must be a directory that can be written to")

    monkeypatch.setattr(stored, "check_writable", refusing)
    monkeypatch.setattr(module, "build_trainer", None)
    for name in ("elbo", "latents"):
        with pytest.raises(SettingError, match=f"run={run}: must be a directory that can be written to"):
            module.evaluate(compose(f"run={run}", f"estimator={name}", config_name="evaluate"))


def test_a_folder_is_named_by_what_moves_values_and_by_nothing_else(
    run: Path, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copied(run, tmp_path / "run")

    def number(*more: str) -> int:
        asked = (*ESTIMATORS["ais"], "num_images=4", *more)
        module.evaluate(compose(f"run={place}", *asked, config_name="evaluate"))
        return len(list((place / "evaluations").iterdir()))

    assert number() == 1
    assert number("estimator.images_at_once=3") == 1
    assert number("seed=0") == 1, "that of the run"
    assert number("seed=5") == 2
    monkeypatch.setattr(module, "NUMBERS", module.NUMBERS + 1)
    assert number() == 3


def test_runs_of_two_seeds_can_be_compared_each_with_its_own(
    run: Path, compose: Compose, tmp_path: Path
) -> None:
    asked = (*ESTIMATORS["importance"], f"num_images={IMAGES}")
    one = measured(copied(run, tmp_path / "one"), compose, *asked)[1]
    text = (copied(run, tmp_path / "two") / "config.yaml").read_text()
    assert text.count("\nseed: 0\n") == 1
    (tmp_path / "two" / "config.yaml").write_text(text.replace("\nseed: 0\n", "\nseed: 1\n"))
    own = measured(tmp_path / "two", compose, *asked)[1]
    other = measured(copied(run, tmp_path / "other"), compose, *asked, "seed=1")[1]
    assert [{card.seed for card in cards} for cards in (one, own, other)] == [{0}, {1}, {1}]
    for cards in (own, other):
        assert [comparable(a, b) for a, b in zip(one, cards, strict=True)] == [[]] * len(one)
        (nll, moved) = (next(card for card in found if card.metric == "nll") for found in (one, cards))
        assert 0 < abs(nll.value - moved.value) < 5 * 2**0.5 * (nll.se_mc or 0.0)
