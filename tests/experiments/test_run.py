"""A whole run on the digits: what it leaves, and what can be done with that afterwards."""

from __future__ import annotations

import dataclasses
import json
import os
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
from PIL import Image
from safetensors.torch import load_file

import vaelab
from vaelab.errors import RunFailed, SettingError
from vaelab.evidence import ImportanceEstimator, estimate
from vaelab.experiments.assembly import assemble
from vaelab.experiments.encode import encode
from vaelab.experiments.evaluate import evaluate
from vaelab.experiments.request import Request
from vaelab.experiments.sample import sample
from vaelab.experiments.train import Result, make_cards, train
from vaelab.runs import RunDirectory, read_cards, read_manifest, read_status, read_yaml
from vaelab.runs.metrics import read
from vaelab.training import VAEModule, read_checkpoint
from vaelab.training.samples import Sampler

Compose = Callable[..., dict[str, Any]]
OVERRIDES = ("data=digits", "data.batch_size=128", "data.binarize=dynamic", "latent_dim=2", "trainer.max_epochs=3", "trainer=cpu", "encoder.hidden=[64]", "decoder.hidden=[64]",
             "trainer.enable_progress_bar=false", "estimator.num_samples=50", "tags=[a,b]")  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Result:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    configs = Path(__file__).resolve().parents[2] / "configs"
    logs = tmp_path_factory.mktemp("logs")
    with initialize_config_dir(str(configs), version_base="1.3"):
        cfg = compose("train", overrides=[*OVERRIDES, "logger=none", f"paths.log_dir={logs}"])
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return train(config, Request(argv=("vae-train", *OVERRIDES), overrides=OVERRIDES))


IMPORTANCE = {"_target_": "vaelab.evidence.ImportanceEstimator"}
#: the estimator of the finished run
QUICK = ("estimator=quick", "estimator.num_samples=50")


def options(
    result: Result, compose: Compose, config_name: str, *overrides: str, **more: Any
) -> dict[str, Any]:
    return {**compose(f"run={result.directory}", *overrides, config_name=config_name), **more}


def test_the_run_directory_holds_everything(finished: Result) -> None:
    run = RunDirectory.open(finished.directory)
    names = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
    pictures = (
        "samples",
        "reconstructions",
        "traversal",
        "interpolation",
        "latents",
        "learning_curves",
        "manifold",
        "arithmetic",
    )
    expected = {"config.yaml", "overrides.yaml", "manifest.json", "status.json", "metrics.csv", "evaluation.json", "per_image.npz", "model.safetensors",
                "console.log", "fingerprint.csv", "report.html",
                *(f"checkpoints/{name}.ckpt{end}" for name in ("last", "previous", "best") for end in ("", ".sha256")),
                *(f"figures/{name}.png" for name in pictures), "figures/samples.gif",
                *(f"frames/step_{step}.png" for step in (0, 10, 20, 30))}  # fmt: skip
    code = [part for part in (read_manifest(run)["code"][key] for key in ("patch", "untracked")) if part is not None]  # fmt: skip
    assert names == expected | {part["file"] for part in code}, "code/ only where the working tree has more than its commit"  # fmt: skip
    assert read_yaml(run.overrides_file) == list(OVERRIDES)
    assert read_yaml(run.config_file)["latent_dim"] == 2
    status = read_status(run.status_file)
    assert (status.status, status.exit_status, status.error) == ("completed", 0, None)
    for name in pictures:
        with Image.open(run.figures / f"{name}.png") as image:
            assert min(image.size) > 150


def test_the_manifest_says_what_made_the_run(finished: Result) -> None:
    manifest = read_manifest(RunDirectory.open(finished.directory))
    assert manifest["seed"] == 0
    assert manifest["argv"][0] == "vae-train"
    assert manifest["data"]["actual"] == manifest["data"]["requested"] == "digits"
    assert manifest["data"]["image_shape"] == [1, 8, 8]
    assert (manifest["data"]["num_train"], manifest["data"]["num_val"], manifest["data"]["num_test"]) == (
        1200,
        237,
        360,
    )
    assert manifest["status"] == "completed"
    assert manifest["best_score"] == finished.score
    assert manifest["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert len(manifest["data"]["digests"]) > 0


def test_the_cards_are_the_per_image_values_averaged(finished: Result) -> None:
    run = RunDirectory.open(finished.directory)
    cards = {card.metric: card for card in read_cards(run.evaluation_file)}
    assert list(cards) == ["elbo", "rate", "distortion", "nll"]
    with np.load(run.path / "per_image.npz") as values:
        assert values["index"].tolist() == list(range(360))
        for metric in ("elbo", "rate", "distortion"):
            assert cards[metric].value == pytest.approx(values[metric].mean(), abs=1e-9)
            assert cards[metric].se_images == pytest.approx(values[metric].std(ddof=1) / 360**0.5)
        assert cards["nll"].value == pytest.approx(-values["log_px"].mean(), abs=1e-9)
    assert cards["elbo"].value == pytest.approx(-cards["rate"].value - cards["distortion"].value, abs=1e-9)
    assert -cards["nll"].value > cards["elbo"].value, "the importance-weighted bound is the tighter one"
    assert (cards["nll"].estimator, cards["nll"].num_samples) == ("importance", 50)
    assert cards["nll"].protocol["label"] == "nll"
    assert cards["nll"].bits_per_dim == pytest.approx(cards["nll"].value / 64 / np.log(2))
    assert cards["rate"].se_mc is None, "the closed form draws nothing"
    assert {card.checkpoint for card in cards.values()} == {read_manifest(run)["weights"]}


def test_metrics_hold_training_validation_and_test(finished: Result) -> None:
    rows = read(RunDirectory.open(finished.directory).metrics_file)
    assert [row["step"] for row in rows] == [10, 20, 30]
    for row in rows:
        assert {
            "train/loss",
            "train/elbo",
            "val/elbo",
            "val/rate",
            "val/distortion",
            "val/active_units",
            "optim/lr",
            "time/images_per_second",
        } <= row.keys()
        assert row["val/elbo"] == pytest.approx(-row["val/rate"] - row["val/distortion"], rel=1e-6)
    assert rows[-1]["test/elbo"] == finished.cards[0].value
    assert rows[2]["val/elbo"] > rows[0]["val/elbo"] + 1, "it learns"


def test_load_gives_the_selected_weights(finished: Result) -> None:
    model = vaelab.load(finished.directory)
    selected = read_checkpoint(finished.directory / "checkpoints" / "best.ckpt")["state_dict"]
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, selected[f"model.{name}"])
    assert load_file(finished.directory / "model.safetensors").keys() == model.state_dict().keys()


def test_load_needs_neither_hydra_nor_lightning(finished: Result) -> None:
    code = f"import sys, vaelab; vaelab.load({str(finished.directory)!r}); print([m for m in ('hydra', 'omegaconf', 'lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_evaluating_again_gives_the_same_numbers(finished: Result, compose: Compose) -> None:
    before = read_cards(finished.directory / "evaluation.json")
    kept = (finished.directory / "per_image.npz").read_bytes()
    again = evaluate(options(finished, compose, "evaluate", *QUICK, "estimator.max_rows=700"))
    assert [card.value for card in again] == pytest.approx([card.value for card in before], rel=1e-6)
    assert len(read_cards(finished.directory / "evaluation.json")) == len(before), (
        "a comparable card is replaced"
    )
    assert (finished.directory / "per_image.npz").read_bytes() == kept, "the run's own values stay"


def test_evaluating_under_another_protocol_is_written_beside(finished: Result, compose: Compose) -> None:
    cards = evaluate(options(finished, compose, "evaluate", *QUICK, binarize="threshold", seed=7))
    assert {card.protocol["binarize"] for card in cards} == {"threshold"}
    assert {card.seed for card in cards} == {7}
    kept = {json.dumps(card.protocol) for card in read_cards(finished.directory / "evaluation.json")}
    assert len(kept) == 2


def test_evaluating_the_last_checkpoint_says_so(finished: Result, compose: Compose) -> None:
    cards = evaluate(options(finished, compose, "evaluate", *QUICK, checkpoint="last"))
    assert {card.protocol["selected_by"] for card in cards} == {"last"}


@pytest.mark.parametrize(
    "wrong, names",
    [
        ({"checkpoint": "first"}, r"checkpoint=first.*selected, best, last"),
        ({"seed": -1}, "seed=-1"),
        ({"force": "yes"}, "force=yes: must be true or false"),
        ({"force": 1}, "force=1: must be true or false"),
        ({"binarize": "dynamical"}, "binarize=dynamical"),
        ({"estimator": {**IMPORTANCE, "repetitions": 0}}, r"estimator\.repetitions=0"),
        ({"estimator": {**IMPORTANCE, "num_samples": "abc"}}, r"estimator\.num_samples=abc"),
        ({"estimator": {**IMPORTANCE, "samples": 3}}, r"estimator\.samples=3: unknown"),
        ({"split": "train"}, "split=train"),
        ({"num_images": 361}, "num_images=361: must be at most 360"),
    ],
)
def test_evaluating_refuses(finished: Result, compose: Compose, wrong: dict[str, Any], names: str) -> None:
    before = sorted(finished.directory.rglob("*"))
    with pytest.raises(SettingError, match=names):
        evaluate(options(finished, compose, "evaluate", **wrong))
    assert sorted(finished.directory.rglob("*")) == before


def test_sampling_is_reproducible_and_leaves_the_pictures_of_the_run_alone(
    finished: Result, compose: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    made = finished.directory / "figures"
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    folder = finished.directory / "samples" / "selected_seed0"
    paths = sample(options(finished, compose, "sample", num_samples=5, single_images=3))
    assert {path.parent for path in paths} == {folder, folder / "images"}
    pictures = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".png", ".gif")}
    assert pictures.keys() == before.keys(), "everything that the run has"
    same = [name for name in pictures if pictures[name] == before[name]]
    assert same == list(pictures), "bit for bit"
    with np.load(folder / "samples.npz") as file:
        assert file.files == ["images"]
        five = file["images"]
    assert (five.shape, five.dtype) == ((5, 1, 8, 8), np.float32)
    assert 0 <= five.min() < five.max() <= 1
    singles = sorted((folder / "images").iterdir())
    assert [path.name for path in singles] == [f"sample_0000{i}.png" for i in range(3)]
    for path, image in zip(singles, five, strict=False):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), np.rint(255 * image[0]))
    assert "5 images in" in capsys.readouterr().out
    sample(options(finished, compose, "sample", num_samples=9, seed=3, what=["npz"]))
    with np.load(finished.directory / "samples" / "selected_seed3" / "samples.npz") as file:
        assert not np.allclose(file["images"][:5], five, atol=1e-3)
    (paths,) = [sample(options(finished, compose, "sample", num_samples=600, what=["npz"], dtype="uint8"))]
    with np.load(paths[0]) as file:
        assert (file["images"].shape, file["images"].dtype) == ((600, 1, 8, 8), np.uint8)
        np.testing.assert_array_equal(file["images"][:5], np.rint(255 * five))
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


def test_samples_of_another_kind_have_a_folder_of_their_own(finished: Result, compose: Compose) -> None:
    asked = {"what": ["npz"], "num_samples": 40, "temperature": 0.5, "pixels": "drawn"}
    (path,) = sample(options(finished, compose, "sample", **asked))
    assert path.parent.name == "selected_seed0_temperature0.5_drawn"
    with np.load(path) as file:
        assert set(np.unique(file["images"])) == {0.0, 1.0}


def test_interpolation_and_arithmetic_of_what_is_named(finished: Result, compose: Compose) -> None:
    asked = {"what": ["interpolation", "arithmetic"], "from_image": [1, 2], "to_image": [3, 359]}
    paths = sample(options(finished, compose, "sample", **asked, arithmetic=[4, 9]))
    assert [path.name for path in paths] == ["interpolation_1_to_3_and_2_to_359.png", "arithmetic_4_to_9.png"]


@pytest.mark.parametrize(
    "wrong, names",
    [
        ({"what": "gif"}, r"what=gif: must be one of samples, images"),
        ({"what": ["npz", "sample"]}, r"what=sample: .*did you mean 'samples'"),
        ({"what": []}, r"what=\[\]: must be all"),
        ({"num_samples": 0}, r"num_samples=0: must be a positive integer"),
        (
            {"num_samples": 10**18},
            r"num_samples=10+: they take 256,000,000,000\.0 GB in float32, and .* free",
        ),
        ({"single_images": -1}, r"single_images=-1: must be a positive integer"),
        ({"pixels": "draws"}, r"pixels=draws: must be one of mean, drawn"),
        ({"dtype": "int8"}, r"dtype=int8: must be one of float32, uint8"),
        ({"temperature": 0}, r"temperature=0: must be a number > 0"),
        ({"temperature": "hot"}, r"temperature=hot: must be a number > 0"),
        ({"label": 7}, r"label=7: this model is not conditional on labels"),
        ({"label": "seven"}, r"label=seven: must be an integer >= 0"),
        ({"label": 7, "what": ["latents"]}, r"label=7: is read by samples, images, npz, manifold, of which"),
        (
            {"temperature": 0.5, "what": ["latents"]},
            r"temperature=0\.5: is read by samples, images, npz, of which",
        ),
        (
            {"pixels": "drawn", "what": ["traversal"]},
            r"pixels=drawn: is read by samples, images, npz, of which",
        ),
        ({"num_samples": 9, "what": ["samples"]}, r"num_samples=9: is read by npz, of which"),
        ({"single_images": 9, "what": ["npz"]}, r"single_images=9: is read by images, of which"),
        ({"dtype": "uint8", "what": ["images"]}, r"dtype=uint8: is read by npz, of which"),
        ({"from_image": 3}, r"to_image=null: from_image and to_image go together"),
        ({"from_image": [1, 2], "to_image": 3}, r"to_image=3: must be 2 images, as many as from_image"),
        ({"from_image": 1, "to_image": 360}, r"to_image=360: must be from 0 to 359, the test images"),
        ({"arithmetic": 4}, r"arithmetic=4: must be two classes"),
        ({"arithmetic": [4, 4]}, r"arithmetic=\[4, 4\]: must be two classes"),
        ({"arithmetic": [4, 12]}, r"the first 360 test images have no class 12"),
        ({"trainer": {"accelerator": "abacus"}}, r"trainer\.accelerator=abacus"),
    ],
)
def test_sampling_refuses(finished: Result, compose: Compose, wrong: dict[str, Any], names: str) -> None:
    before = sorted(finished.directory.rglob("*"))
    with pytest.raises(SettingError, match=names):
        sample(options(finished, compose, "sample", **wrong))
    assert sorted(finished.directory.rglob("*")) == before


def test_sampling_that_is_interrupted_leaves_no_half_file_and_says_what_is_done(
    finished: Result, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished.directory / "samples" / "selected_seed21"
    asked = options(finished, compose, "sample", what=["samples", "npz"], num_samples=2000, seed=21)

    def stopping(self: Sampler, start: int) -> Any:
        if start == 1024:
            os.kill(os.getpid(), signal.SIGTERM)
        return noise(self, start)

    noise = Sampler._noise
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "_noise", stopping)
        with pytest.raises(RunFailed, match="interrupted by SIGTERM; 1 files are done, in") as caught:
            sample(asked)
    assert caught.value.exit_status == 75
    assert [path.name for path in folder.iterdir()] == ["samples.png"]
    sample(asked)
    assert sorted(path.name for path in folder.iterdir()) == ["samples.npz", "samples.png"]


def test_a_frame_that_somebody_has_changed_costs_the_animation_alone(
    finished: Result, compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(
        shutil.copytree(finished.directory, tmp_path / "run", ignore=shutil.ignore_patterns("samples"))
    )
    (run / "frames" / "step_10.png").write_bytes(b"GIF89a")
    changed = dataclasses.replace(finished, directory=run)
    with pytest.raises(SettingError, match=r"what=animation: cannot be made: .*is no frame of a run"):
        sample(options(changed, compose, "sample", what=["animation"]))
    assert not (run / "samples").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaelab.experiments.check.SAMPLED", ("npz", "animation"))
        sample(options(changed, compose, "sample"))
    assert "is no frame of a run" in capsys.readouterr().out
    assert [path.name for path in (run / "samples").rglob("*.*")] == ["samples.npz"]


def test_a_conditional_model_is_sampled_by_label_and_a_run_without_frames_says_so(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("data=digits", "trainer=cpu", "trainer.max_steps=2", "latent_dim=3", "encoder.hidden=[8]", "decoder.hidden=[8]", "callbacks=none")  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("vaelab.experiments.train.draw_pictures", lambda *args: [])
        result = train(compose(*settings, "model=conditional", "estimator=elbo"))
    assert not (result.directory / "frames").exists()
    assert not (result.directory / "figures" / "samples.gif").exists()
    paths = sample(options(result, compose, "sample", label=[3, 7], num_samples=300, single_images=10))
    folder = result.directory / "samples" / "selected_seed0_label3-7"
    assert {path.parent for path in paths} == {folder, folder / "images"}
    with np.load(folder / "samples.npz") as file:
        assert file["labels"].tolist() == (19 * (8 * [3] + 8 * [7]))[:300]
    assert (folder / "images" / "sample_00009_label7.png").is_file()
    said = capsys.readouterr().out
    assert "no animation: the training kept no frames" in said
    assert "no arithmetic: this model is told the class" in said
    assert "no manifold: the code has 3 dimensions" in said
    assert not (folder / "manifold.png").exists()
    before = sorted(result.directory.rglob("*"))
    for wrong, names in (
        ({"label": 10}, "label=10: must be from 0 to 9, the classes of the data"),
        ({"what": ["manifold"]}, "what=manifold: cannot be made: the code has 3 dimensions"),
        ({"what": ["animation"]}, "what=animation: cannot be made: the training kept no frames"),
        ({"arithmetic": [1, 2]}, r"arithmetic=\[1, 2\]: cannot be done: this model is told the class"),
    ):
        with pytest.raises(SettingError, match=names):
            sample(options(result, compose, "sample", **wrong))
    assert sorted(result.directory.rglob("*")) == before


@pytest.mark.parametrize(
    "overrides, label, metrics",
    [
        ((), "grey-bce", ["elbo", "rate", "distortion"]),
        (("data.binarize=threshold",), "nll", ["elbo", "rate", "distortion", "nll"]),
        (("likelihood=gaussian",), "nll", ["elbo", "rate", "distortion", "nll"]),
        (("likelihood=gaussian", "data.dequantize=false"), "raw-density", ["elbo", "rate", "distortion"]),
    ],
)
def test_only_a_likelihood_of_the_data_is_called_nll(
    compose: Compose, overrides: tuple[str, ...], label: str, metrics: list[str]
) -> None:
    small = (
        "data=digits",
        "data.train_size=100",
        "trainer.max_epochs=1",
        "trainer=cpu",
        "trainer.enable_progress_bar=false",
        "estimator.num_samples=5",
    )
    result = train(compose(*small, *overrides))
    assert [card.metric for card in result.cards] == metrics
    assert {card.protocol["label"] for card in result.cards} == {label}


def test_a_density_is_also_counted_in_bits_of_the_levels() -> None:
    from vaelab.experiments.cards import bits_per_dim

    # A uniform density over [0, 1) is log2(17) bits a pixel of 17 levels, and so is one over [-1, 1).
    narrow = {"dequantize": True, "num_levels": 17, "pixel_range": [0.0, 1.0]}
    wide = {**narrow, "pixel_range": [-1.0, 1.0]}
    assert bits_per_dim(0.0, narrow, 64) == pytest.approx(np.log2(17))
    assert bits_per_dim(64 * np.log(2.0), wide, 64) == pytest.approx(np.log2(17))


def test_a_failure_inside_a_run_is_on_record(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(self: VAEModule, chunk: Any, batch_idx: int) -> None:
        raise RuntimeError("the disk\nate it")

    monkeypatch.setattr(VAEModule, "training_step", broken)
    with pytest.raises(RunFailed, match="RuntimeError: the disk ate it") as caught:
        train(compose("data=digits", "trainer=cpu", "name=broken"))
    (run,) = (tmp_path / "logs" / "broken").iterdir()
    status = read_status(run / "status.json")
    assert (status.status, status.exit_status, caught.value.exit_status) == ("failed", 1, 1)
    assert status.error == "RuntimeError: the disk ate it"
    assert "Traceback" in (run / "console.log").read_text()
    assert json.loads((run / "manifest.json").read_text())["status"] == "failed"


def test_the_error_of_the_estimator_shrinks_with_the_number_of_draws() -> None:
    values = torch.zeros(50)
    few, many = (estimate(values, torch.full((50,), 1.0) / n) for n in (4, 16))
    assert few.se_mc is not None
    assert many.se_mc is not None
    assert few.se_mc == pytest.approx(2 * many.se_mc)
    assert few.se_mc == pytest.approx(0.5 / 50**0.5)


def test_a_run_that_diverged_has_failed_and_says_what_helps(compose: Compose, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"not finite: the run diverged; lower optimizer\.lr"):
        train(compose("data=digits", "trainer=cpu", "name=far", "optimizer.lr=1e30", "trainer.max_epochs=1"))
    (run,) = (tmp_path / "logs" / "far").iterdir()
    assert read_status(run / "status.json").status == "failed"
    assert not (run / "evaluation.json").exists()
    with pytest.raises(RunFailed, match=r"far/.*: elbo of 360 of 360 images is not finite: the run diverged"):
        evaluate(compose(f"run={run}", "estimator=elbo", config_name="evaluate"))
    with pytest.raises(RunFailed, match=r"far/.*: the codes of 360 of 360 images are not finite"):
        evaluate(compose(f"run={run}", "estimator=latents", config_name="evaluate"))
    assert not (run / "evaluation.json").exists()
    with pytest.raises(RunFailed, match=r"far/.*: the codes of 360 of 360 test images are not finite"):
        sample(compose(f"run={run}", config_name="sample"))
    assert not (run / "samples").exists()
    with pytest.raises(RunFailed, match=r"mean of 360 of 360 images is not finite, and nothing is written"):
        encode(compose(f"run={run}", config_name="encode"))
    assert not (run / "codes").exists()


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_precision_passes_through(compose: Compose, precision: str) -> None:
    small = (
        "data=digits",
        "data.train_size=100",
        "trainer.max_epochs=1",
        "trainer=cpu",
        "trainer.enable_progress_bar=false",
        "estimator.num_samples=5",
    )
    result = train(compose(*small, f"trainer.precision={precision}", "likelihood=gaussian"))
    weights = load_file(result.directory / "model.safetensors")
    expected = torch.float64 if precision == "64-true" else torch.float32
    assert {value.dtype for value in weights.values()} == {expected}
    assert read_manifest(RunDirectory.open(result.directory))["precision"] == precision
    named = None if precision == "64-true" else precision
    assert {card.protocol.get("precision") for card in result.cards} == {named}


def test_a_number_that_is_not_finite_becomes_no_card(
    finished: Result, tmp_path: Path, compose: Compose
) -> None:
    parts = assemble(read_yaml(finished.directory / "config.yaml"))
    with np.load(finished.directory / "per_image.npz") as file:
        columns = dict(file)
    columns["log_px"][[3, 5]] = np.nan
    np.savez(tmp_path / "per_image.npz", **columns)
    with pytest.raises(FloatingPointError, match="log_px of 2 of 360 images is not finite"):
        make_cards(parts, tmp_path / "per_image.npz", {}, 1.0)


def test_steps_that_were_skipped_are_said(compose: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("data=digits", "trainer=cpu", "trainer.max_steps=3", "estimator=elbo")
    train(compose(*small, "optimizer.skip_norm=1e-9"))
    assert "3 of 3 steps were skipped" in capsys.readouterr().out


def test_a_single_test_image_leaves_out_the_picture_between_two(compose: Compose, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", train=x[:6], val=x[6:8], test=x[8:])
    file = f"data.path={tmp_path / 'few.npz'}"
    result = train(compose("data=arrays", file, "trainer=cpu", "trainer.max_steps=2", "estimator=elbo"))
    drawn = {path.stem for path in (result.directory / "figures").iterdir()}
    assert "reconstructions" in drawn
    assert "interpolation" not in drawn


def test_one_repetition_cannot_tell_the_error_of_its_draw(compose: Compose) -> None:
    small = (
        "data=digits",
        "data.train_size=100",
        "trainer.max_epochs=1",
        "trainer=cpu",
        "trainer.enable_progress_bar=false",
    )
    result = train(compose(*small, "estimator.repetitions=1"))
    assert [card.se_mc for card in result.cards] == [None, None, None]


def test_an_evaluation_that_was_interrupted_goes_on_where_it_stopped(
    finished: Result, compose: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options(finished, compose, "evaluate", "estimator.num_samples=40", seed=11)
    whole = evaluate(asked)
    folder = max((finished.directory / "evaluations").iterdir(), key=lambda path: path.stat().st_mtime)
    with np.load(folder / "per_image.npz") as file:
        expected = {name: file[name] for name in file.files}
    shutil.rmtree(folder)

    measured: list[int] = []
    call = ImportanceEstimator.__call__

    def counted(self: Any, model: Any, batch: Any, draws: Any) -> Any:
        measured.append(len(batch.x))
        if sum(measured) == 300 and len(measured) == 3:
            raise KeyboardInterrupt
        return call(self, model, batch, draws)

    monkeypatch.setattr(ImportanceEstimator, "__call__", counted)
    # 100 images at once; the function of this name hides its module
    monkeypatch.setattr(sys.modules["vaelab.evidence.importance"], "NOISE_AT_ONCE", 100 * 40)
    with pytest.raises(RunFailed, match="the same command goes on") as caught:
        evaluate(asked)
    assert caught.value.exit_status == 130
    assert not (folder / "cards.json").exists()
    measured.clear()
    capsys.readouterr()
    again = evaluate(asked)
    assert measured == [100, 60]
    assert "200 images are measured already, 160 are left" in capsys.readouterr().out
    assert [card.value for card in again] == pytest.approx([card.value for card in whole], rel=1e-6)
    with np.load(folder / "per_image.npz") as file:
        for name, values in expected.items():
            np.testing.assert_allclose(file[name], values, rtol=1e-5, atol=1e-4)
    measured.clear()
    assert [card.value for card in evaluate(asked)] == [card.value for card in again]
    assert measured == [], "what is there is not made again"


def test_the_first_images_of_the_validation_split(finished: Result, compose: Compose) -> None:
    cards = evaluate(options(finished, compose, "evaluate", *QUICK, split="val", num_images=20))
    assert {(card.split, card.num_images) for card in cards} == {("val", 20)}


@pytest.mark.parametrize("binarize", ["none", "threshold", "fixed", "dynamic"])
def test_a_decoder_that_starts_at_the_pixels_means(compose: Compose, binarize: str) -> None:
    small = ("data=digits", "trainer=cpu", "trainer.max_steps=1", f"data.binarize={binarize}")
    parts = assemble(compose(*small, "decoder.output_bias=data"))
    data = parts.data
    seen = torch.cat([data.train_batch(torch.arange(data.size("train")), step).x for step in range(100)])
    expected = seen.mean(0).clamp(0.001, 0.999).flatten()
    got = torch.sigmoid(parts.module.model.decoder.output.bias)
    error = (expected * (1 - expected) / len(seen)).sqrt() if binarize == "dynamic" else 1e-5
    assert ((got - expected).abs() <= 5 * error + 1e-5).all()
    with pytest.raises(SettingError, match=r"decoder\.output_bias=data: takes the pixels' means"):
        assemble(compose(*small, "decoder.output_bias=data", "likelihood=gaussian"))


def test_annealing_agrees_with_importance_sampling_and_its_bounds_with_each_other(
    finished: Result, compose: Compose
) -> None:
    few = ("num_images=30", "binarize=threshold")
    (weighted,) = (
        card
        for card in evaluate(options(finished, compose, "evaluate", *few, "estimator.num_samples=5000"))
        if card.metric == "nll"
    )
    path = ("estimator.num_steps=60", "estimator.leapfrog_steps=3", "estimator.images_at_once=7")
    (annealed,) = evaluate(options(finished, compose, "evaluate", *few, "estimator=ais", *path))
    assert (annealed.metric, annealed.estimator, annealed.num_samples) == ("nll", "ais", 16)
    assert weighted.se_mc is not None
    assert annealed.se_mc is not None
    assert abs(weighted.value - annealed.value) < 4.5 * (weighted.se_mc**2 + annealed.se_mc**2) ** 0.5
    assert annealed.protocol["annealing"]["num_steps"] == 60
    lower, upper, gap = evaluate(options(finished, compose, "evaluate", *few, "estimator=bdmc", *path))
    assert {card.split for card in (lower, upper, gap)} == {"simulated"}
    assert gap.value == pytest.approx(upper.value - lower.value)
    assert gap.se_images is not None
    assert abs(gap.value) < 0.3
