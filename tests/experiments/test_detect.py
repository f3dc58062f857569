"""``vae-detect`` and ``vae-encode`` on small runs of the digits."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from vaelab.commands import detect as detect_command
from vaelab.commands import encode as encode_command
from vaelab.commands import entry
from vaelab.errors import RunFailed, SettingError
from vaelab.experiments import detect as module
from vaelab.experiments.detect import detect
from vaelab.experiments.encode import encode
from vaelab.experiments.measured import open_measured
from vaelab.experiments.sample import sample
from vaelab.experiments.train import train
from vaelab.loading import load_model
from vaelab.runs import Status, read_cards, write_status
from vaelab.tasks.anomaly import threshold

Compose = Callable[..., dict[str, Any]]
Trained = Callable[..., Path]
Ask = Callable[..., Path]
SMALL = ("data=digits", "trainer=cpu", "trainer.max_epochs=3", "latent_dim=3", "optimizer.lr=3e-3", "encoder.hidden=[32]", "decoder.hidden=[32]",
         "trainer.enable_progress_bar=false", "estimator=elbo", "callbacks=none", "logger=none")  # fmt: skip
BINARY = ("data.binarize=threshold", "data.classes=[0,1,2,3,4,5,6,7]")
QUICK = ("num_images=80", "num_samples=4", "regret_steps=3", "resamples=100")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """(overrides) -> the directory of a run with them, trained once."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    logs, made = tmp_path_factory.mktemp("logs"), {}

    def _trained(*overrides: str) -> Path:
        if overrides not in made:
            configs = Path(__file__).resolve().parents[2] / "configs"
            paths = (f"paths.log_dir={logs}", f"paths.data_dir={logs}/data")
            with initialize_config_dir(str(configs), version_base="1.3"):
                cfg = compose("train", overrides=[*SMALL, *paths, *overrides])
            config: Any = OmegaConf.to_container(cfg, resolve=True)
            with pytest.MonkeyPatch.context() as patch:  # drawing takes longer than training
                patch.setattr("vaelab.experiments.train.draw_pictures", lambda *args: [])
                made[overrides] = train(config).directory
        return made[overrides]

    return _trained


@pytest.fixture
def ask(compose: Compose, tmp_path: Path) -> Ask:
    """(run, overrides of vae-detect) -> the folder."""

    def _ask(run: Path, *overrides: str) -> Path:
        settings = (f"run={run}", f"paths.data_dir={tmp_path}/data", *QUICK, *overrides)
        return detect(compose(*settings, config_name="detect"))

    return _ask


@pytest.fixture
def codes(compose: Compose, tmp_path: Path) -> Ask:
    """(run, overrides of vae-encode) -> the file."""

    def _codes(run: Path, *overrides: str) -> Path:
        return encode(
            compose(f"run={run}", f"paths.data_dir={tmp_path}/data", *overrides, config_name="encode")
        )

    return _codes


def images(folder: Path, arrays: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i:03}.png")
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "scores.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_is_on_record_follows_from_the_scores(
    trained: Trained, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(*BINARY)
    folder = ask(run, "against=held_out", "false_positive_rate=0.1")
    said = capsys.readouterr().out
    assert "no ratio: needs background=DIR" in said
    assert "against=held_out: test images of class 8, 9" in said
    result, values = json.loads((folder / "detection.json").read_text()), dict(np.load(folder / "scores.npz"))
    assert result["num_inside"] == 80
    assert result["num_outside"] == len(values["outside_index"])
    assert result["detector"]["split"] == "val"
    assert list(result["scores"]) == [
        "elbo",
        "importance",
        "distortion",
        "typicality",
        "rate_typicality",
        "complexity",
        "regret",
    ]
    for name, of_score in result["scores"].items():
        calibration, inside, outside = (
            values[f"{of}_score_{name}"] for of in ("calibration", "inside", "outside")
        )
        limit = threshold(calibration, 0.1)
        assert result["detector"]["thresholds"][name] == limit
        assert of_score["flagged_inside"] == (inside > limit).mean()
        truth = np.repeat([0, 1], [len(inside), len(outside)])
        assert of_score["auroc"]["value"] == pytest.approx(
            roc_auc_score(truth, np.concatenate([inside, outside]))
        )
        assert of_score["auroc"]["low"] < of_score["auroc"]["value"] < of_score["auroc"]["high"]
    np.testing.assert_array_equal(values["inside_score_elbo"], -values["inside_value_elbo"])
    reference = values["calibration_value_log_px"].mean()
    np.testing.assert_allclose(
        values["inside_score_typicality"], abs(values["inside_value_log_px"] - reference)
    )
    cards = {(card.metric, card.protocol.get("score")): card for card in read_cards(run / "evaluation.json")}
    assert cards["auroc", "elbo"].value == result["scores"]["elbo"]["auroc"]["value"]
    assert cards["auroc", "elbo"].protocol["against"] == "digits_8_9"
    assert cards["auroc", "elbo"].protocol["classes"] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert ("elbo", None) in cards, "the number of the test stays"
    assert {path.name for path in folder.iterdir()} == {
        "detection.json",
        "scores.npz",
        "roc.png",
        "histograms.png",
        "extremes.png",
    }


def test_the_same_command_gives_the_same_bytes_whatever_is_measured_at_once(
    trained: Trained, ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(*BINARY)
    folder = ask(run, "against=held_out")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    assert ask(run, "against=held_out") == folder
    assert "measured already" in capsys.readouterr().out
    assert ask(run, "against=held_out", "force=true") == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    before = dict(np.load(folder / "scores.npz"))
    monkeypatch.setattr(module, "FITTED_AT_ONCE", 7)
    # by the name of the module, which is that of a function, too
    monkeypatch.setattr(import_module("vaelab.evidence.importance"), "NOISE_AT_ONCE", 30)
    ask(run, "against=held_out", "force=true")
    for name, values in np.load(folder / "scores.npz").items():
        # Adam's first steps are of one size whatever the gradient's, so that a fit turns rounding into more
        np.testing.assert_allclose(values, before[name], rtol=1e-4, atol=1e-2 if "regret" in name else 1e-4)
    assert ask(run, "against=held_out", "seed=1") != folder


def test_the_images_of_a_set_are_spread_over_it() -> None:
    assert module._spread(10, 4).tolist() == [0, 2, 5, 7]
    assert module._spread(3, 10).tolist() == [0, 1, 2]
    assert module._spread(3, None).tolist() == [0, 1, 2]


def test_a_persons_own_images_of_all_kinds(
    trained: Trained, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(*BINARY)
    ask(run, "against=null")
    random = np.random.default_rng(0)
    data = open_measured(
        {"run": run, "checkpoint": "selected", "seed": None, "paths": {"data_dir": str(tmp_path)}}
    ).data
    digits = (data._splits["test"].x[:5, 0].numpy() * (255 // 16)).astype(np.uint8)
    own = images(tmp_path / "own", digits)
    Image.fromarray(random.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(own / "noise.jpg")
    whole = (own / "noise.jpg").read_bytes()
    (own / "torn, off.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        RunFailed, match=r"1 of 7 files cannot be decoded, the others are done: torn, off\.png"
    ) as failed:
        ask(run, f"images={own}")
    assert failed.value.exit_status == 3
    said = capsys.readouterr().out
    assert "cut and resized to 8 x 8: 1 of 30 x 40; in colour, made grey: 1" in said
    (folder,) = (path for path in (run / "detections").iterdir() if path.name.startswith("images_"))
    assert (folder / "images.png").is_file()
    found = {row["image"]: row for row in rows(folder)}
    assert set(found) == {*(f"{i:03}.png" for i in range(5)), "noise.jpg", "torn, off.png"}
    assert found["torn, off.png"]["error"].startswith("OSError: image file is truncated")
    assert found["torn, off.png"]["anomalous"] == ""
    detector = json.loads((run / "detections" / "detector.json").read_text())
    for name, row in found.items():
        if name != "torn, off.png":
            assert row["error"] == ""
            assert (
                row["anomalous"]
                == str(float(row["typicality"]) > detector["thresholds"]["typicality"]).lower()
            )
            assert 0 < float(row["p"]) <= 1
    assert float(found["noise.jpg"]["distortion"]) > max(
        float(found[f"{i:03}.png"]["distortion"]) for i in range(5)
    )
    # one file, and the same images as arrays, come to the same pixels
    alone = ask(run, f"images={own / 'noise.jpg'}", "score=distortion")
    assert rows(alone)[0]["anomalous"] == "true"
    np.savez(tmp_path / "own.npz", images=digits)
    arrays = ask(run, f"images={tmp_path / 'own.npz'}")
    for i, row in enumerate(rows(arrays)):
        assert row["image"] == str(i)
        assert row["distortion"] == found[f"{i:03}.png"]["distortion"]


def test_own_images_of_a_split_are_what_the_split_is(trained: Trained, tmp_path: Path) -> None:
    run = open_measured(
        {
            "run": trained(*BINARY),
            "checkpoint": "selected",
            "seed": None,
            "paths": {"data_dir": str(tmp_path)},
        }
    )
    stored = run.data._splits["test"].x[:9, 0].numpy()
    folder = images(tmp_path / "own", np.rint(stored * (255 / 16)).astype(np.uint8))
    run.bring("own", "images", folder, str(tmp_path))
    index = torch.arange(9)
    assert torch.equal(run.data.evaluation_batch("own", index).x, run.data.evaluation_batch("test", index).x)


def test_a_score_does_not_depend_on_what_else_is_in_the_folder(
    trained: Trained, ask: Ask, codes: Ask, tmp_path: Path
) -> None:
    """Nor does anything else that is measured of an image from elsewhere, its binarisation and bounds among it."""
    run, pictures = trained("data.binarize=dynamic"), np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)  # fmt: skip
    ask(run, "scores=[elbo,importance,regret]", "score=regret")
    many, alone = images(tmp_path / "many", pictures), images(tmp_path / "alone", pictures[2:3])
    usual = ("num_samples=null", "regret_steps=null")
    own = [rows(ask(run, f"images={folder}", *usual))[place] for folder, place in ((many, 2), (alone, 0))]
    for score in ("elbo", "importance", "regret"):
        assert float(own[0][score]) == pytest.approx(float(own[1][score]), rel=1e-4)
    found = [np.load(codes(run, f"images={folder}"))["elbo"] for folder in (many, alone)]
    np.testing.assert_allclose(found[0][2], found[1][0], rtol=1e-5)


def test_a_background_of_the_same_data_gives_a_likelihood_ratio(
    trained: Trained, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    run, background = trained(*BINARY), trained(*BINARY, "data.mutate=0.3")
    folder = ask(
        run, f"background={background}", "against=held_out", "scores=[ratio,typicality]", "score=ratio"
    )
    values = dict(np.load(folder / "scores.npz"))
    np.testing.assert_allclose(
        values["outside_score_ratio"], values["outside_value_background"] - values["outside_value_log_px"]
    )
    assert values["outside_score_ratio"].std() > 0
    assert not any("regret" in name or "code_length" in name for name in values), "nobody asked for them"
    blank = ask(run, "images=digits")  # with the detector's background
    assert len(rows(blank)) == 360
    cards = {card.protocol.get("score"): card for card in read_cards(run / "evaluation.json")}
    weights = json.loads((folder / "detection.json").read_text())["detector"]["background_weights"]
    assert (cards["ratio"].protocol["background"], cards["ratio"].seed) == (weights, 0)
    assert "background" not in cards["typicality"].protocol
    # found again where it is now, though nothing is measured anew
    moved = background.rename(background.with_name("moved"))
    with pytest.raises(SettingError, match="background="):
        ask(run, "images=digits")
    capsys.readouterr()
    without = ask(run, "images=digits", "score=typicality")
    assert "no ratio: background=" in capsys.readouterr().out
    assert "ratio" not in rows(without)[0]
    assert "typicality" in rows(without)[0], "what needs no background is not refused for one"
    asked = (f"background={moved}", "against=held_out", "scores=[ratio,typicality]", "score=ratio")
    assert ask(run, *asked) == folder
    ask(run, "images=digits")
    moved.rename(background)
    assert "ratio above" in capsys.readouterr().out
    other = trained("data.binarize=none", "data.val_size=0")
    with pytest.raises(SettingError, match=r"background=.*has classes=None, and the run classes=\[0, 1"):
        ask(run, f"background={other}")
    with pytest.raises(SettingError, match="is the same model as the run's"):
        ask(run, f"background={run}")


def test_a_background_is_found_when_both_runs_move_and_nothing_is_written_there(
    trained: Trained,
    ask: Ask,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[Path] = []

    def check(path: Path) -> None:
        tried.append(path.resolve())

    monkeypatch.setattr("vaelab.experiments.stored.check_writable", check)
    together = [tmp_path / "before" / name for name in ("run", "background")]
    for made, place in zip((trained(*BINARY), trained(*BINARY, "data.mutate=0.3")), together, strict=True):
        shutil.copytree(made, place)
    run, background = together
    shutil.rmtree(run / "detections", ignore_errors=True)
    ask(run, f"background={background}", "scores=[ratio,typicality]", "score=ratio")
    assert tried == [run.resolve()]
    (tmp_path / "before").rename(tmp_path / "after")
    used = ask(tmp_path / "after/run", "images=digits")
    assert len(rows(used)) == 360
    path = tmp_path / "after/run/detections/detector.json"
    content = json.loads(path.read_text())
    assert content["background_from_run"] == "../background"
    del content["background_from_run"]  # as an earlier version wrote it
    path.write_text(json.dumps({**content, "background": str(tmp_path / "after/background")}))
    assert ask(tmp_path / "after/run", "images=digits") == used


def test_grey_cross_entropy_is_no_likelihood_and_training_images_are_no_validation(
    trained: Trained, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained("data.binarize=none", "data.val_size=0")
    folder = ask(run)
    said = capsys.readouterr().out
    assert "no importance: a bound labelled grey-bce is no log-likelihood" in said
    assert "calibrated on training images" in said
    assert "of what does not belong" not in said  # there is no such column yet
    detector = json.loads((folder / "detection.json").read_text())["detector"]
    assert detector["scores"] == ["elbo", "distortion", "typicality", "rate_typicality", "regret"]
    assert (detector["label"], detector["split"]) == ("grey-bce", "train")
    ask(
        run,
        f"against={images(tmp_path / 'blank', np.zeros((20, 8, 8), np.uint8))}",
        "scores=[elbo,typicality,rate_typicality]",
    )
    cards = [card for card in read_cards(run / "evaluation.json") if card.estimator == "detect"]
    warned = {
        card.protocol["score"] for card in cards if "calibrated on training images" in (card.warning or "")
    }
    assert warned == {"typicality", "rate_typicality"}, "the others need no calibration to be measured"
    for setting in ("scores=[importance,typicality]", "score=complexity"):
        with pytest.raises(SettingError, match="cannot be had: a bound labelled grey-bce"):
            ask(run, setting)


REFUSED = {
    "against=digits": "against=digits: is what the run was trained on",
    "against=held_out": "against=held_out: the run was trained on all classes",
    "against=mnst": "did you mean 'mnist'",
    "false_positive_rate=0.001": "false_positive_rate=0.001: takes 999 calibration images at least, and there are 80",
    "false_positive_rate=0": "must be null or a number above 0 and below 1",
    "scores=[elbo]": "score=typicality: is not among scores=elbo",
    "scores=[elb]": "did you mean 'elbo'",
    "resamples=3": "resamples=3: must be an integer >= 100",
}


@pytest.mark.parametrize("override", REFUSED)
def test_refused_before_anything_is_written(override: str, trained: Trained, ask: Ask) -> None:
    run = trained("data.binarize=none")
    with pytest.raises(SettingError, match=REFUSED[override].replace("[", r"\[")):
        ask(run, override)
    assert not (run / "detections").exists()


def test_images_take_the_detector_that_is_there(trained: Trained, ask: Ask, tmp_path: Path) -> None:
    run, own = trained("seed=3"), images(tmp_path / "own", np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(SettingError, match=r"has no detector yet; calibrate one first: vae-detect run="):
        ask(run, f"images={own}", "num_samples=null", "regret_steps=null")
    ask(run, "scores=[elbo,typicality]", "seed=7")
    with pytest.raises(SettingError, match=r"num_samples=9: the detector was calibrated with 4"):
        ask(run, f"images={own}", "num_samples=9")
    with pytest.raises(SettingError, match=r"against=digits: belongs to the calibration"):
        ask(run, f"images={own}", "against=digits")
    with pytest.raises(SettingError, match=r"score=regret: the detector has elbo, typicality"):
        ask(run, f"images={own}", "score=regret")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match="holds no images"):
        ask(run, f"images={tmp_path / 'empty'}")
    used = ask(run, f"images={own}", "num_samples=null", "regret_steps=null")
    assert len(rows(used)) == 2
    assert ask(run, f"images={own}", "score=elbo") != used, "one does not take the place of the other"
    path = run / "detections" / "detector.json"
    content = json.loads(path.read_text())
    for change, message in (
        ({"values": "../../x.npz"}, "which lies elsewhere"),
        ({"scores": ["elbo", "magic"]}, "holds no detector that can be read"),
        ({"thresholds": None}, "holds no detector that can be read"),
        ({"thresholds": {"elbo": 1.0, "typicality": "nan"}}, "a number is not finite"),
        ({"false_positive_rate": "often"}, "holds no detector that can be read"),
        ({"weights": "0" * 64}, "was calibrated with other weights"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(SettingError, match=message):
            ask(run, f"images={own}")


def test_a_small_trial_does_not_become_the_detector(
    trained: Trained, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, noise = trained("seed=3"), images(tmp_path / "noise", np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8))  # fmt: skip
    path, scores = run / "detections" / "detector.json", "scores=[elbo]"

    def asked(*overrides: str) -> tuple[int, str]:
        capsys.readouterr()
        ask(run, scores, "score=elbo", *overrides)
        return json.loads(path.read_text())["num_images"], capsys.readouterr().out

    trial = f"against={noise}"
    assert asked(trial, "num_images=40")[0] == 40, "one that is tried is better than none"
    assert asked()[0] == 80
    count, said = asked(trial, "num_images=40")
    assert count == 80
    assert "goes on using the detector of 80 calibration images (elbo)" in said
    assert asked(trial)[0] == 80
    count, said = asked("num_images=40")
    assert count == 40, "asked for without a trial"
    assert "now decides" not in said
    assert "images= now decides by elbo at a false-positive rate of 0.2; before by elbo at a false-positive rate of 0.05" in asked(trial, "num_images=40", "false_positive_rate=0.2")[1]  # fmt: skip
    said = asked(f"images={noise}", "scores=null", "num_samples=null", "regret_steps=null")[1]
    assert "as the 40 of split val exceed" in said
    assert re.search(r"calibrated on 40 of \d+ images: p comes in steps of 0\.024", said)
    path.write_text("damaged")
    assert asked(trial, "num_images=20")[0] == 20


def test_what_is_measured_of_a_run_that_is_not_complete_is_said_to_be(
    trained: Trained, ask: Ask, codes: Ask, compose: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained("seed=3")
    said = f"{run}: of a run that is not complete, as it stands"
    for status, is_said in ((Status.INTERRUPTED, True), (Status.COMPLETED, False)):
        write_status(run / "status.json", status, exit_status=0)
        for measure in (
            lambda: codes(run),
            lambda: ask(run, "scores=[elbo]", "score=elbo"),
            lambda: sample(compose(f"run={run}", "what=[npz]", config_name="sample")),
        ):
            capsys.readouterr()
            measure()
            assert (said in capsys.readouterr().out.replace("\n", "")) == is_said


def test_a_conditional_model_is_refused(trained: Trained, ask: Ask, codes: Ask, tmp_path: Path) -> None:
    run = trained("model=conditional")
    with pytest.raises(SettingError, match=r"the model is conditional: p\(x\|y\)"):
        ask(run)
    own = images(tmp_path / "own", np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(SettingError, match="needs a label from 0 to 9 for each image"):
        codes(run, f"images={own}")
    np.savez(tmp_path / "own.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.array([3, 9]))
    assert np.load(codes(run, f"images={tmp_path / 'own.npz'}"))["label"].tolist() == [3, 9]


def test_codes_are_what_the_model_says_of_the_images(trained: Trained, codes: Ask) -> None:
    run = trained(*BINARY)
    path = codes(run)
    assert path.name == "test_selected_seed0.npz"
    found, bytes_before = dict(np.load(path)), path.read_bytes()
    measured = open_measured(
        {"run": run, "checkpoint": "selected", "seed": None, "paths": {"data_dir": "nowhere"}}
    )
    batch = measured.data.evaluation_batch("test", torch.arange(measured.data.size("test")))
    model: Any = load_model(run)
    layer = model.encode(batch)
    np.testing.assert_allclose(found["mean"], layer.mean.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["stddev"], layer.stddev.detach(), rtol=1e-5)
    np.testing.assert_array_equal(found["label"], batch.y)
    np.testing.assert_allclose(found["elbo"], -found["rate"] - found["distortion"])
    np.testing.assert_allclose(found["rate"], layer.kl.sum(-1).detach(), rtol=1e-4)
    assert str(found["bound_is"]) == "nll"
    assert codes(run).read_bytes() == bytes_before
    assert len(np.load(codes(run, "split=train"))["mean"]) == measured.data.size("train")
    with pytest.raises(SettingError, match="split=val: is of the run's data; leave it away with images="):
        codes(run, "split=val", "images=digits")


def test_a_flow_has_no_mean_and_its_code_is_that_at_zero_noise(
    trained: Trained, codes: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    found = np.load(codes(trained("posterior=flow", "posterior.kind=coupling")))
    assert {"z", "elbo"} <= set(found)
    assert not {"mean", "stddev"} & set(found)
    assert "z at zero noise, as q(z|x) has no known mean" in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["num_images", "resamples", "confidence"])
def test_what_only_a_calibration_has_is_refused_where_there_is_none(
    trained: Trained, setting: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run, task = trained(), detect_command.task
    argv = [f"run={run}", "images=digits", f"{setting}=0.5" if setting == "confidence" else f"{setting}=200"]
    assert entry.run("detect", task, argv=argv) == 2
    assert f"{setting}={argv[-1].partition('=')[2]}: belongs to the calibration" in capfd.readouterr().err


@pytest.mark.parametrize("command", ["encode", "detect"])
def test_the_commands_refuse_in_one_line(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    task = {"encode": encode_command, "detect": detect_command}[command].task
    status = entry.run(command, task, argv=[f"run={tmp_path}/nothing"])
    error = capfd.readouterr().err
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(f"vae-{command}: run=")
