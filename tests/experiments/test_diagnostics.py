"""``vae-evaluate estimator=latents`` and ``estimator=sample_quality`` on a small run of the digits."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from vaelab.commands import entry
from vaelab.commands import evaluate as command
from vaelab.commands.runs import main as runs
from vaelab.data import cache
from vaelab.errors import SettingError
from vaelab.evidence import exact
from vaelab.experiments import extractor as recipe
from vaelab.experiments import latents, sample_quality
from vaelab.experiments.assembly import assemble, build_trainer
from vaelab.experiments.diagnostic import on_device
from vaelab.experiments.evaluate import evaluate
from vaelab.experiments.quality import measure
from vaelab.experiments.train import Result, train
from vaelab.loading import load_model
from vaelab.runs import Card, RunDirectory, read_cards, read_yaml

Compose = Callable[..., dict[str, Any]]
SMALL = ("data=digits", "data.binarize=threshold", "trainer=cpu", "trainer.max_epochs=4", "latent_dim=3", "optimizer.lr=3e-3",
         "encoder.hidden=[32]", "decoder.hidden=[32]", "trainer.enable_progress_bar=false", "estimator.num_samples=5", "logger=none")  # fmt: skip
LATENTS = ("estimator=latents", "estimator.num_samples=500", "estimator.cut_samples=5")
SAMPLES = ("estimator=sample_quality", "estimator.num_samples=200", "estimator.num_searched=20")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
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


@pytest.fixture(autouse=True)
def _short_and_only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extractor of few steps; none of whoever runs the tests is read or written."""
    monkeypatch.setattr(recipe, "STEPS", 10)
    monkeypatch.setattr(cache, "places", lambda data_dir: [cache.Place(data_dir, data_dir / ".vaelab")])


@pytest.fixture
def ask(compose: Compose, tmp_path: Path) -> Callable[..., list[Card]]:
    """(run, overrides of vae-evaluate) -> the cards."""

    def _ask(run: Result, *overrides: str, **more: Any) -> list[Card]:
        options = compose(
            f"run={run.directory}", f"paths.data_dir={tmp_path}/data", *overrides, config_name="evaluate"
        )
        return evaluate({**options, **more})

    return _ask


Ask = Callable[..., list[Card]]
Trained = Callable[..., Result]


def folder_of(run: Result, name: str) -> Path:
    """The newest evaluation of a name."""
    found = [path for path in (run.directory / "evaluations").iterdir() if path.name.startswith(name)]
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def table_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


# -- latents -----------------------------------------------------------------------------------------------------------


def test_latents_are_what_the_model_says(trained: Trained, ask: Ask) -> None:
    run = trained()
    before = read_cards(run.directory / "evaluation.json")
    new = ask(run, *LATENTS)
    assert read_cards(run.directory / "evaluation.json") == [*before, *new]
    cards = {card.metric: card for card in new}
    assert list(cards) == [
        "active_units", "code_rate", "mutual_information", "aggregate_kl", "total_correlation", "dimension_wise_kl",
        "probe_linear", "probe_nearest", "nll_cut_change",
    ]  # fmt: skip
    folder = folder_of(run, "latents_test_")
    assert {path.name for path in folder.iterdir()} == {
        "cards.json", "dimensions.csv", "rate_per_dimension.png"
    }  # fmt: skip
    with Image.open(folder / "rate_per_dimension.png") as image:
        assert min(image.size) > 200

    rows = table_of(folder / "dimensions.csv")
    (rate,) = (card for card in before if card.metric == "rate")
    assert [(row["layer"], row["dimension"]) for row in rows] == [("1", "0"), ("1", "1"), ("1", "2")]
    assert sum(float(row["rate"]) for row in rows) == pytest.approx(rate.value, rel=1e-5)
    parts = assemble(read_yaml(RunDirectory.open(run.directory).config_file))
    with torch.no_grad():
        q = load_model(run.directory).encode(parts.data.evaluation_batch("test", torch.arange(360)))  # pyright: ignore[reportCallIssue]
    activity = exact(q.mean).var(0)
    assert [float(row["activity"]) for row in rows] == pytest.approx(activity.tolist(), rel=1e-4)
    assert [row["active"] for row in rows] == [str(a > 0.01).lower() for a in activity.tolist()]
    assert cards["active_units"].value == sum(a > 0.01 for a in activity.tolist())
    variance = activity * 359 / 360 + exact(q.stddev).square().mean(0)
    assert [float(row["aggregate_variance"]) for row in rows] == pytest.approx(variance.tolist(), rel=1e-4)

    sums = cards["mutual_information"].value + cards["aggregate_kl"].value
    assert cards["code_rate"].value == pytest.approx(sums, abs=1e-9)
    assert cards["code_rate"].se_mc is not None
    assert abs(cards["code_rate"].value - rate.value) < 5 * cards["code_rate"].se_mc
    kls = [float(row["dimension_wise_kl"]) for row in rows]
    assert cards["dimension_wise_kl"].value == pytest.approx(sum(kls))
    assert cards["probe_nearest"].value > 0.5
    assert cards["probe_linear"].se_images is not None


def test_what_two_numbers_must_share_is_on_their_cards(trained: Trained, ask: Ask) -> None:
    cards = {card.metric: card for card in ask(trained(), *LATENTS, "estimator.threshold=0.02")}
    common = cards["mutual_information"].protocol
    assert (common["data"], common["binarize"], common["selected_by"]) == ("digits", "threshold", "val/elbo (max)")  # fmt: skip
    assert "likelihood" not in common
    own = {name: {k: v for k, v in card.protocol.items() if k not in common} for name, card in cards.items()}
    assert own["active_units"] == {"threshold": 0.02}
    assert own["nll_cut_change"] == {"threshold": 0.02, "likelihood": "bernoulli", "label": "nll"}
    assert "effective sample size under" in str(cards["nll_cut_change"].warning), (
        "five uneven weights an image"
    )
    assert own["probe_linear"] == {"probe": "multinomial logistic regression, C=1", "num_train": 1200}
    assert own["probe_nearest"] == {"probe": "10 nearest neighbours, euclidean", "num_train": 1200}
    assert {name: card.units for name, card in cards.items()} == {
        **dict.fromkeys(cards, "nats"), "active_units": "count", "probe_linear": "accuracy", "probe_nearest": "accuracy",
    }  # fmt: skip
    samples = {name: card.num_samples for name, card in cards.items() if card.num_samples > 1}
    # all M of them, though there are 360 images
    assert samples == {**dict.fromkeys(("code_rate", "mutual_information", "aggregate_kl", "total_correlation", "dimension_wise_kl"), 500), "nll_cut_change": 5}  # fmt: skip
    assert {card.num_images for card in cards.values()} == {360}
    assert {card.estimator for card in cards.values()} == {"latents"}


def test_what_is_there_is_not_made_again_and_other_settings_are(
    trained: Trained, ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained()
    first = ask(run, *LATENTS, "estimator.cut_samples=null", num_images=100)
    assert "no nll_cut_change: estimator.cut_samples=null" in capsys.readouterr().out
    number = len(read_cards(run.directory / "evaluation.json"))
    with monkeypatch.context() as broken:
        broken.setattr(latents, "diagnose", None)
        again = ask(run, *LATENTS, "estimator.cut_samples=null", "estimator.max_rows=7", num_images=100)
        said = capsys.readouterr().out
        assert "measured already" in said
        assert "no nll_cut_change: estimator.cut_samples=null" in said
        assert str(folder_of(run, "latents") / "dimensions.csv") in said.replace("\n", "")
        assert again == first
        assert len(read_cards(run.directory / "evaluation.json")) == number
        for other in ({"num_images": 99}, {"seed": 5}, {"checkpoint": "last"}, {"split": "val"}, {"binarize": "dynamic"}):  # fmt: skip
            with pytest.raises(TypeError):
                ask(
                    run,
                    *LATENTS,
                    "estimator.cut_samples=null",
                    **{"num_images": 100, **other},
                )
        with pytest.raises(TypeError):
            ask(run, *LATENTS, "estimator.cut_samples=null", "estimator.threshold=0.5", num_images=100)


def test_the_first_images_of_the_validation_split(trained: Trained, ask: Ask) -> None:
    run = trained()
    cards = ask(run, *LATENTS, "estimator.probe_images=300", split="val", num_images=50)
    assert {(card.split, card.num_images) for card in cards} == {("val", 50)}
    assert {card.protocol.get("num_train") for card in cards} == {None, 300}
    parts = assemble(read_yaml(RunDirectory.open(run.directory).config_file))
    with torch.no_grad():
        q = load_model(run.directory).encode(parts.data.evaluation_batch("val", torch.arange(50)))  # pyright: ignore[reportCallIssue]
    rows = table_of(folder_of(run, "latents_val_") / "dimensions.csv")
    assert [float(row["activity"]) for row in rows] == pytest.approx(exact(q.mean).var(0).tolist(), rel=1e-4)


@pytest.mark.parametrize(
    "overrides, there, missing",
    [
        (
            ("data.binarize=none",),
            {"active_units", "probe_linear", "mutual_information"},
            {"nll_cut_change": "a number labelled grey-bce is no log-likelihood"},
        ),
        (
            ("model=conditional",),
            {"active_units", "mutual_information", "nll_cut_change"},
            {"probe_linear": "q(z|x) is given the labels", "probe_nearest": "q(z|x) is given the labels"},
        ),
        (
            ("posterior=flow",),
            {"probe_linear", "probe_nearest"},
            {
                "active_units": "E_q(z|x)[z] has no closed form in every layer",
                "code_rate": "the density of q at a given z is slow for this posterior",
                "rate_per_dimension": "the KL has no closed form dimension by dimension",
                "dimensions.csv": "neither rates nor activities are known dimension by dimension",
            },
        ),
        (
            ("model=top_down", "model.layers=[1,2]", "model.channels=[4,4]", "latent_dim=2"),
            {"probe_linear", "code_rate"},
            {"active_units": "E_q(z|x)[z] has no closed form in every layer"},
        ),
    ],
)  # fmt: skip
def test_what_could_not_be_had_is_said(
    trained: Trained,
    ask: Ask,
    overrides: tuple[str, ...],
    there: set[str],
    missing: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = trained("trainer.max_steps=3", *overrides)
    capsys.readouterr()
    cards = ask(run, *LATENTS, num_images=40)
    said = " ".join(capsys.readouterr().out.split())
    metrics = {card.metric for card in cards}
    assert there <= metrics
    for name, reason in missing.items():
        assert name not in metrics
        assert f"no {name}: {reason}" in said
    folder = folder_of(run, "latents")
    drawn = sorted(path.name for path in folder.glob("*.png"))
    if "model=top_down" in overrides:
        assert drawn == [f"rate_per_dimension_{layer}.png" for layer in range(1, 1 + len(drawn))]
        assert len({row["layer"] for row in table_of(folder / "dimensions.csv")}) == len(drawn) > 1
    else:
        assert len(drawn) == ("rate_per_dimension" not in missing)


# -- sample quality ----------------------------------------------------------------------------------------------------


def test_sample_quality_is_what_measure_says(trained: Trained, ask: Ask, tmp_path: Path) -> None:
    run = trained()
    cards = {card.metric: card for card in ask(run, *SAMPLES, num_images=300)}
    assert list(cards) == ["lenet_fid", "lenet_kid", "precision", "recall"]
    config = read_yaml(RunDirectory.open(run.directory).config_file)
    config["paths"]["data_dir"] = str(tmp_path / "data")
    parts = assemble(config)
    assert parts.data.images is not None
    used = recipe.extractor(parts.data.images, tmp_path / "data")
    expected = measure(
        load_model(run.directory),
        parts.data,
        parts.module.noise,
        used,
        num_samples=200,
        num_searched=20,
        num_real=300,
    ).quality
    values = {name: (card.value, card.floor) for name, card in cards.items()}
    assert values["lenet_fid"] == pytest.approx((expected.generated.frechet, expected.floor.frechet))
    assert values["lenet_kid"] == pytest.approx(
        (expected.generated.kernel.value, expected.floor.kernel.value)
    )
    assert values["precision"] == (expected.generated.precision.value, expected.floor.precision.value)
    assert values["recall"] == (expected.generated.recall.value, expected.floor.recall.value)
    assert cards["recall"].se_images == expected.generated.recall.se
    assert cards["precision"].se_mc == expected.generated.precision.se
    assert cards["lenet_fid"].se_images is cards["lenet_fid"].se_mc is None
    assert {(card.num_images, card.num_samples, card.split) for card in cards.values()} == {(300, 200, "test")}  # fmt: skip
    for card in cards.values():
        assert card.protocol["extractor"] == used.digest[:16]
        assert card.protocol["samples"] == "means"
        assert not {"binarize", "likelihood", "label"} & card.protocol.keys()
    assert (cards["lenet_kid"].protocol["num_subsets"], cards["lenet_kid"].protocol["subset_size"]) == (10, 20)  # fmt: skip
    folder = folder_of(run, "sample_quality_test_")
    record = json.loads((folder / "samples.json").read_text())
    assert record["memorisation"]["median_ratio"] == pytest.approx(expected.memorisation.median_ratio)
    assert record["extractor"]["digest"] == used.digest
    with Image.open(folder / "neighbours.png") as image:
        assert min(image.size) > 200


def test_another_extractor_makes_other_numbers(
    trained: Trained, ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained()
    first = ask(run, *SAMPLES, seed=3)
    with monkeypatch.context() as broken:
        broken.setattr(sample_quality, "measure", None)
        assert ask(run, *SAMPLES, seed=3) == first
        assert "measured already" in capsys.readouterr().out
    monkeypatch.setattr(recipe, "STEPS", 12)
    monkeypatch.setattr(recipe, "RECIPE", 77)
    other = ask(run, *SAMPLES, seed=3)
    assert other[0].protocol["extractor"] != first[0].protocol["extractor"]
    kept = read_cards(run.directory / "evaluation.json")
    assert [card for card in kept if card in first] == first


def test_draws_keep_the_protocol_of_the_pixels(trained: Trained, ask: Ask) -> None:
    cards = ask(trained(), *SAMPLES, "estimator.samples=draws", binarize="dynamic")
    assert {(card.protocol["samples"], card.protocol["binarize"]) for card in cards} == {("draws", "dynamic")}  # fmt: skip


# -- both --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides, more, message",
    [
        (LATENTS, {"num_images": 361}, r"num_images=361: must be at most 360"),
        ((*LATENTS, "estimator.threshold=-1"), {}, r"estimator\.threshold=-1: must be a number >= 0"),
        ((*LATENTS, "estimator.num_samples=0"), {}, r"estimator\.num_samples=0: must be a positive integer$"),
        ((*LATENTS, "estimator.cut_samples=0"), {}, r"estimator\.cut_samples=0: must be a positive integer or null"),
        ((*LATENTS, "estimator.metric=manhattan"), {}, r"estimator\.metric=manhattan: must be one of euclidean, cosine"),
        ((*LATENTS, "estimator.neighbours=1201"), {}, r"estimator\.neighbours=1201: must be at most the 1200 images"),
        ((*LATENTS, "estimator.probe_images=9", "estimator.neighbours=10"), {}, r"estimator\.neighbours=10: must be at most the 9"),
        ((*LATENTS, "estimator.probe_images=1201"), {}, r"estimator\.probe_images=1201: must be at most the 1200"),
        ((*LATENTS, "+estimator.colour=red"), {}, r"estimator\.colour=red: unknown"),
        ((*LATENTS, "trainer.devices=2", "trainer.strategy=ddp"), {}, r"trainer\.devices=2: estimator=latents takes one device"),
        ((*SAMPLES, "trainer.devices=2", "trainer.strategy=ddp"), {}, r"trainer\.devices=2: estimator=sample_quality takes one"),
        (SAMPLES, {"split": "val"}, r"split=val: estimator=sample_quality takes the test split"),
        (SAMPLES, {"binarize": "dynamic"}, r"binarize=dynamic: has no effect on the means"),
        (SAMPLES, {"num_images": 19}, r"num_images=19: must be at least 20"),
        ((*SAMPLES, "estimator.num_samples=19"), {}, r"estimator\.num_samples=19: must be an integer >= 20"),
        ((*SAMPLES, "estimator.samples=drawn"), {}, r"estimator\.samples=drawn: must be one of means, draws"),
        ((*SAMPLES, "estimator.num_neighbours=1201"), {}, r"estimator\.num_neighbours=1201: must be at most the 1200"),
        ((*SAMPLES, "estimator.samples=draws"), {"binarize": "none"}, r"estimator\.samples=draws: pixels drawn"),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_at_is_refused_and_nothing_is_written(
    trained: Trained, ask: Ask, overrides: tuple[str, ...], more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run = trained()
    before = {path: path.stat().st_mtime_ns for path in run.directory.rglob("*")}
    with pytest.raises(SettingError, match=message):
        ask(run, *overrides, **more)
    assert {path: path.stat().st_mtime_ns for path in run.directory.rglob("*")} == before
    assert not (tmp_path / "data" / ".vaelab" / recipe.FOLDER).exists()


def test_data_without_labels_are_refused_by_the_samples_and_cost_the_code_its_probes(
    trained: Trained, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", train=x[:30], val=x[30:40], test=x[40:])
    run = trained(
        "data=arrays", f"data.path={tmp_path}/mine.npz", "data.binarize=none", "trainer.max_steps=2"
    )
    with pytest.raises(SettingError, match=r"data=.*has images without a label"):
        ask(run, *SAMPLES)
    metrics = {card.metric for card in ask(run, *LATENTS)}
    assert "active_units" in metrics
    assert "probe_linear" not in metrics
    assert "no probe_nearest: no image has a label" in capsys.readouterr().out


def test_the_command_and_the_table_of_runs(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    both = [trained(), trained("seed=1")]
    for run in both:
        for asked in (LATENTS, SAMPLES):
            assert entry.run("evaluate", command.task, argv=[f"run={run.directory}", *asked]) == 0
    said = capsys.readouterr().out
    assert "lenet_fid" in said
    assert "floor" in said
    assert "rate_per_dimension.png" in said.replace("\n", "")
    names = [str(run.directory) for run in both]
    for metric in ("lenet_fid", "recall", "active_units", "probe_linear", "nll_cut_change"):
        assert runs([*names, "--metric", metric]) == 0, capsys.readouterr().err
        out = capsys.readouterr().out
        assert "val/elbo" in out, "a test number orders no table"
        assert sum(run.directory.name in out.replace("\n", "") for run in both) == 2
    assert runs(["--diff", *names, "--json"]) == 0
    pairs = {one["metric"]: one for one in json.loads(capsys.readouterr().out)["differences"]}
    assert {"lenet_kid", "probe_nearest", "total_correlation"} <= pairs.keys()
    assert pairs["probe_nearest"]["a"]["units"] == "accuracy"
    assert runs([str(both[0].directory), "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)
    assert {card["metric"] for group in groups for card in group["runs"][0]["cards"]} == {
        "elbo", "rate", "distortion", "nll"
    }  # fmt: skip
    other = [f"run={names[1]}", "estimator=sample_quality", "estimator.num_samples=100", "num_images=50"]
    assert entry.run("evaluate", command.task, argv=other) == 0
    capsys.readouterr()
    cards = read_cards(both[1].directory / "evaluation.json")
    sizes = {(card.num_samples, card.num_images) for card in cards if card.metric == "lenet_fid"}
    assert sizes == {(100, 50), (200, 360)}, "a card of other settings replaces none"


def test_numbers_of_other_settings_are_not_compared(
    trained: Trained, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = trained("seed=2"), trained("seed=3")
    ask(a, *LATENTS, num_images=60)
    ask(b, *LATENTS, "estimator.threshold=0.1", num_images=60)
    names = [str(a.directory), str(b.directory)]
    assert runs([*names, "--metric", "active_units"]) == 2
    assert "protocol.threshold: 0.01 (A) against 0.1 (B)" in capsys.readouterr().err
    assert runs([*names, "--metric", "mutual_information"]) == 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_model_computes_where_and_as_the_trainer_says(compose: Compose, precision: str) -> None:
    parts = assemble(compose("data=digits", "trainer=cpu", f"trainer.precision={precision}"))
    arithmetic = on_device(parts.module.evaluated, parts.data, build_trainer(parts))
    with arithmetic():
        assert torch.is_autocast_enabled("cpu") == (precision == "bf16-mixed")
        assert not torch.is_grad_enabled()
    with arithmetic():  # again
        pass
    assert torch.is_grad_enabled()
    nowhere = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("meta")),
        precision_plugin=build_trainer(parts).precision_plugin,
    )
    on_device(parts.module.evaluated, parts.data, nowhere)
    assert next(parts.module.evaluated.parameters()).device.type == "meta"
    assert parts.data.device.type == "meta"
