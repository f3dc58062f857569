import dataclasses
import json
import os
import shlex

import numpy as np
import pytest
from PIL import Image

from pages import Page, check_conventions
from recorded import PROTOCOL, a_run, card_of
from vaelab.errors import SettingError
from vaelab.report import MOST, NAME, report
from vaelab.report.charts import literal
from vaelab.runs import MetricsWriter, RunDirectory, Status, read_json, write_json, write_yaml
from vaelab.runs.cards import write_cards
from vaelab.runs.status import write_status

VALUES = [-90.0, -92.0, -97.0, -130.0]
ELBO = dataclasses.replace(card_of(VALUES), metric="elbo", estimator="elbo", num_samples=1, se_mc=0.02)
NLL = card_of(
    [88.0, 91.0, 96.0, 120.0], warning="effective sample size under 90", curve={"1": 99.5, "100": 98.75}
)
GREY = dataclasses.replace(ELBO, value=-64.0, protocol={**PROTOCOL, "label": "grey-bce", "binarize": "none"})
CONFIG = {
    "latent_dim": 8,
    "optimizer": {"lr": 0.01},
    "encoder": {"channels": [16, 32]},
    "logger": {"name": "none"},
}
DEFAULTS = {"latent_dim": 64, "seed": 0, "optimizer": {"lr": 0.01}, "logger": {"name": "wandb"}, "score": {"name": "val/elbo", "mode": "max"}}  # fmt: skip


def picture(path, size=(40, 30), noise=False):
    rng = np.random.default_rng(0)
    pixels = (
        rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        if noise
        else np.zeros((size[1], size[0], 3), np.uint8)
    )
    Image.fromarray(pixels).save(path)  # fmt: skip


@pytest.fixture(autouse=True)
def _without_plotly(monkeypatch):
    """Two megabytes less to look through."""
    monkeypatch.setattr("vaelab.report.page.plotly", lambda: "H4sI")


@pytest.fixture
def run(tmp_path):
    path = a_run(
        tmp_path, "a-run", [ELBO, NLL, GREY], config=CONFIG, overrides=["latent_dim=8", "name=it's mine"],
        val=None, index=np.arange(4), elbo=np.array(VALUES),
    )  # fmt: skip
    with MetricsWriter(path / "metrics.csv") as writer:
        for step in range(10, 210, 10):
            writer.append(
                step,
                {"train/elbo": -100 - 1000 / step, "optim/lr": 0.01, "time/images_per_second": 50.0 + step},
            )
            if step % 50 == 0:
                writer.append(step, {"val/elbo": -101 - 1000 / step, "val/active_units": step // 25})  # fmt: skip
    picture(path / "figures" / "samples.png")
    return RunDirectory(path)


def page_of(run):
    page = Page.of(report(run.path))
    check_conventions(page)
    return page


def test_numbers_stand_with_their_errors_and_estimator_and_never_beside_another_protocol(run):
    page = page_of(run)
    groups = [one for one in page.all("section") if one.attributes.get("class") == "protocol"]
    likelihood, grey = (" ".join(one.text.split()) for one in groups)
    assert likelihood.startswith("test · 4 images · nll These are bounds")
    assert "elbo -102.25 ± 9.37 images, ± 0.02 mc nats per image · elbo" in likelihood
    assert "nll 98.75 ± 7.27 images, ± 0.01 mc nats per image · importance, K = 100 ! see the warning below" in likelihood  # fmt: skip
    assert "Warning (nll): effective sample size under 90" in likelihood
    assert "nll (importance) by K: 1: 99.50, 100: 98.75" in likelihood
    assert "-64.00" not in likelihood
    assert "test · 4 images · grey-bce This is no log-likelihood" in grey
    assert "-102.25" not in grey
    assert "98.75" not in grey


def test_accuracy_beside_a_likelihood_of_the_same_protocol_is_no_other_protocol(run):
    notice = "Numbers of several protocols"
    assert notice in page_of(run).text  # nll and grey-bce
    accuracy = dataclasses.replace(
        ELBO, metric="accuracy", estimator="classifier", value=0.75, units="accuracy"
    )
    write_cards(run.evaluation_file, [ELBO, accuracy])
    text = page_of(run).text
    assert "0.75" in text
    assert notice not in text


def test_curves_say_in_words_where_they_end_and_what_does_not_change(run):
    page = page_of(run)
    titles = [one.text for one in page.all("h3")]
    assert [name in titles for name in ("ELBO", "Active units", "Throughput", "Learning rate")] == [True, True, True, False]  # fmt: skip
    assert "train/elbo ends at -105; val/elbo ends at -106." in page.text
    assert "optim/lr is 0.01 throughout" in page.text
    elbo = next(chart for chart in page.charts if chart["data"][0]["name"] == "train/elbo")
    assert elbo["data"][0]["x"] == list(range(10, 210, 10))
    assert elbo["data"][1]["y"] == [-121, -111, pytest.approx(-107.66667), -106]
    assert elbo["layout"]["yaxis"]["title"]["text"] == "nats per image"


def test_single_images_and_the_hardest_of_them(run):
    page = page_of(run)
    assert "The hardest, by index: 3 (-130.00), 2 (-97.00), 1 (-92.00), 0 (-90.00)." in page.text
    (drawn,) = [c for c in page.charts if c["layout"]["yaxis"]["title"]["text"] == "images"]
    assert sum(drawn["data"][0]["y"]) == 4


@pytest.mark.parametrize("known", [True, False])
def test_what_differs_from_the_defaults_comes_first_and_without_them_what_was_typed(run, known):
    if known:
        write_yaml(run.defaults_file, DEFAULTS)
    rows = page_of(run).table("settings")
    if known:
        assert rows[1:4] == [
            ["latent_dim", "8", "64", "differs"],
            ["encoder.channels", "[16, 32]", "none", "differs"],
            ["logger.name", "none", "wandb", "differs, moves no number"],
        ]
        assert rows[4][3] == ""
    else:
        assert rows[1] == ["latent_dim", "8", "typed"]
        assert rows[2][2] == ""


def test_commands_are_those_that_the_run_needs_and_can_be_pasted(run, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    page = page_of(run)
    lines = [one.text for one in page.all("code") if one.text.startswith("vae-")]
    assert lines[0] == "vae-evaluate run=a-run"
    assert "vae-reproduce a-run" in lines
    assert not [line for line in lines if line.startswith("vae-resume")]
    assert shlex.split(lines[-1]) == ["vae-train", "latent_dim=8", "name=it's mine"]


@pytest.mark.parametrize("status", [Status.FAILED, Status.INTERRUPTED, Status.PRUNED])
def test_of_a_run_that_is_not_complete_the_cause_and_how_to_go_on_come_first(run, status, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    write_status(run.status_file, status, exit_status=1, error="FloatingPointError: <b>not finite</b>")
    run.console_file.write_text(
        "epoch 1\nTraceback (most recent call last):\n  File x\nFloatingPointError: not finite\n"
    )
    page = page_of(run)
    assert page.text.index("FloatingPointError: <b>not finite</b>") < page.text.index("Numbers test")
    first = next(one.text for one in page.all("code") if one.text.startswith("vae-"))
    assert first == "vae-resume a-run"
    tracebacks = [one for one in page.all("pre") if one.text.startswith("Traceback")]
    assert len(tracebacks) == (status is Status.FAILED)


def test_the_same_directory_makes_the_same_bytes(run):
    first = report(run.path).read_bytes()
    assert report(run.path).read_bytes() == first
    assert [path.name for path in run.path.iterdir() if "report" in path.name] == [NAME]


def test_what_a_directory_holds_is_text_and_runs_nothing(run):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    card = dataclasses.replace(ELBO, metric=evil, warning=evil, protocol={**PROTOCOL, "data": evil})
    (run.evaluation_file).write_text(json.dumps({"schema": 1, "cards": [card.to_dict()]}))
    write_yaml(
        run.config_file, {"score": {"name": evil, "mode": "max"}, evil: evil, "latent_dim": "\x1b[31m\x00"}
    )
    write_yaml(run.overrides_file, [f"name={evil}"])
    with MetricsWriter(run.metrics_file) as writer:
        for step in (300, 310):
            writer.append(step, {"</script><b>": step, "train/elbo": float("nan")})
    run.console_file.write_text(evil)
    manifest = read_json(run.manifest_file)
    write_json(
        run.manifest_file, {**manifest, "experiment": evil, "git": {"commit": evil}, "versions": {evil: evil}}
    )
    picture(run.figures / 'x" onload=alert(1).png')
    page = page_of(run)
    assert len(page.all("script")) == 3  # data of the charts, Plotly's and ours
    assert [
        one.attributes.get("src", "")
        for one in page.all("img")
        if not (one.attributes["src"] or "").startswith("data:")
    ] == []
    assert evil in page.text
    assert "\x1b" not in page.source
    assert "\x00" not in page.source


def test_every_picture_of_a_model_has_words_of_its_own_on_each_of_its_pages(run):
    from vaelab.training.pictures import PICTURES

    for name in (*PICTURES, "traversal_2", "odd_2"):
        picture(run.figures / f"{name}.png")
    words = {one.attributes["alt"] for one in page_of(run).all("img")}
    assert len(words) == len(PICTURES) + 1, "the pages of one picture share them"
    assert [text for text in words if str(text).startswith("Picture ")] == ["Picture odd 2 of this run"]
    titles = [one.text for one in page_of(run).all("h3")]
    at = titles.index("Traversal")
    assert titles[at : at + 2] == ["Traversal", "Traversal, page 2"]
    assert titles[-1] == "odd 2"


def test_pictures_that_are_none_are_named_and_left_out(run):
    (run.figures / "text.png").write_text("no picture")
    whole = (run.figures / "samples.png").read_bytes()
    (run.figures / "half.png").write_bytes(whole[: len(whole) // 2])
    header = bytearray(whole)
    header[16:24] = (60_000).to_bytes(4, "big") * 2  # a few bytes that say they are 3.6 billion pixels
    (run.figures / "bomb.png").write_bytes(bytes(header))
    page = page_of(run)
    assert len(page.all("img")) == 1
    for name in ("text", "half", "bomb"):
        assert f"figures/{name}.png (" in page.text


def test_a_page_has_a_size_and_says_what_it_had_no_room_for(run, monkeypatch):
    assert MOST == 5_000_000
    monkeypatch.setattr("vaelab.report.write.MOST", 150_000)
    for i in range(3):
        picture(
            run.figures / f"noise_{i}.png", (150, 150), noise=True
        )  # 90 kB each in a page, which 256 colours make a third of
    page = page_of(run)
    assert os.path.getsize(run.path / NAME) <= 150_000
    assert "in 256 colours" in page.text
    assert "(the page would be too large)" in page.text
    assert "figures/samples.png" in page.text


def test_dimensions_of_the_latent_space_are_drawn_by_their_rate(run):
    folder = run.evaluations / "latents_test_1"
    folder.mkdir(parents=True)
    (folder / "dimensions.csv").write_text(
        "layer,dimension,rate,activity,active\n1,0,0.5,0.1,true\n1,1,3.25,1.0,true\n1,2,0.0,0.0,false\n"
    )
    page = page_of(run)
    assert "3.75 nats in all, 2 of 3 active; the largest is 3.25." in page.text
    (drawn,) = [c for c in page.charts if c["data"][0].get("name") == "active"]
    assert drawn["data"][0]["x"] == ["1", "0", "2"]
    assert drawn["data"][0]["y"] == [3.25, 0.5, None]
    (folder / "dimensions.csv").write_text("layer,dimension\n1\n")
    assert "dimensions.csv: unreadable" in page_of(run).text


@pytest.mark.parametrize("name", ["manifest.json", "config.yaml", "status.json", "metrics.csv", "evaluation.json", "overrides.yaml"])  # fmt: skip
def test_a_damaged_file_is_named_and_everything_else_shown(run, name):
    (run.path / name).write_text("{\n")
    page = page_of(run)
    assert f"{name}: unreadable" in page.text
    assert "Commands" in page.text


def test_a_directory_that_leads_out_of_itself_is_refused(run, tmp_path):
    (run.figures / "out.png").symlink_to(tmp_path.parent)
    with pytest.raises(SettingError, match="leads out of it"):
        report(run.path)
    assert not (run.path / NAME).exists()


def test_text_in_charts_is_no_markup_of_plotly():
    assert literal("<b>a</b> & b") == "&lt;b&gt;a&lt;/b&gt; &amp; b"
    assert literal("a\nb\x07") == "a\ufffdb\ufffd"


def test_a_traceback_is_shown_with_its_cause_and_without_an_earlier_one(run):
    first = "Traceback (most recent call last):\n  A\nOSError: first\n"
    chain = "Traceback (most recent call last):\n  B\nValueError: cause\n\nThe above exception was the direct cause of the following exception:\n\nTraceback (most recent call last):\n  C\nRunFailed: end"
    write_status(run.status_file, Status.FAILED, exit_status=1, error="x")
    run.console_file.write_text(f"{first}on\n{chain}\n")
    shown = next(one.text for one in page_of(run).all("pre") if one.text.startswith("Traceback"))
    assert shown == chain
