import dataclasses
import shutil
from pathlib import Path

import pytest

from pages import Page, check_conventions
from recorded import PROTOCOL, a_run, card_of
from vaelab.errors import SettingError
from vaelab.report import report
from vaelab.report.charts import evener_in_log, frontier, parallel, trials
from vaelab.runs import Status, write_json

ELBO = dataclasses.replace(card_of([-90.0, -92.0]), metric="elbo", estimator="elbo", num_samples=1)
GREY = {**PROTOCOL, "label": "grey-bce"}


@pytest.fixture(autouse=True)
def _without_plotly(monkeypatch):
    """Two megabytes less to look through."""
    monkeypatch.setattr("vaelab.report.page.plotly", lambda: "H4sI")


def a_job(folder, config, seed, val, rate=10.0, distortion=80.0, protocol=PROTOCOL, **more):
    swept = {**config, "seed": seed}
    words = [f"{key}={value}" for key, value in swept.items()]
    cards = [
        dataclasses.replace(ELBO, metric=metric, value=value, protocol=protocol)
        for metric, value in (("elbo", -rate - distortion), ("rate", rate), ("distortion", distortion))
    ]
    more = {"overrides": words, "cards": cards, **more}
    return a_run(
        folder, ",".join(words).replace("/", "_"), more.pop("cards"), val=val, config=config, seed=seed,
        sweep={"name": "grid", "swept": swept}, **more,
    )  # fmt: skip


def page_of(folder):
    page = Page.of(report(folder))
    check_conventions(page)
    return page


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for latent_dim, value in ((2, -100.0), (8, -90.0), (32, -95.0)):
        for seed in (0, 1):
            config = {"latent_dim": latent_dim, "encoder": "mlp"}
            a_job(folder, config, seed, value - seed, latent_dim, 110 - 3 * latent_dim)
    return folder


@pytest.fixture
def folder(tmp_path, made):
    return Path(shutil.copytree(made, tmp_path / "sweeps" / "grid"))


def test_configurations_stand_in_the_order_of_their_validation_number_with_means_over_seeds(folder):
    page = page_of(folder)
    head, *rows = page.table("configurations")
    assert head == ["configuration", "latent_dim", "runs", "val/elbo", "test elbo"]
    assert [row[1:4] for row in rows] == [
        ["8", "2 of 2", "-90.50 ± 0.50"], ["32", "2 of 2", "-95.50 ± 0.50"], ["2", "2 of 2", "-100.50 ± 0.50"],
    ]  # fmt: skip
    assert "3 configurations, 6 runs, over latent_dim, encoder, seed: 6 completed" in page.text


def test_a_number_stands_against_each_swept_value_on_the_axis_that_suits_it(folder):
    page = page_of(folder)
    (drawn,) = [c for c in page.charts if c["layout"]["xaxis"].get("title") == {"text": "latent_dim"}]
    (line,) = drawn["data"]
    assert (line["x"], line["y"]) == ([2, 8, 32], [-100.5, -90.5, -95.5])
    assert line["error_y"]["array"] == [0.5, 0.5, 0.5]
    assert drawn["layout"]["xaxis"]["type"] == "log"
    assert drawn["layout"]["yaxis"]["title"]["text"] == "val/elbo (nats per image)"
    assert "The best mean is -90.5, at latent_dim 8." in page.text


def test_the_frontier_of_rate_and_distortion_is_that_of_the_means(folder):
    a_job(
        folder, {"latent_dim": 16, "encoder": "mlp"}, 0, -99.0, 9.0, 100.0
    )  # worse in both than latent_dim=8
    (drawn,) = [c for c in page_of(folder).charts if c["layout"]["xaxis"].get("title", {}).get("text", "").startswith("rate")]  # fmt: skip
    line, on, off = drawn["data"]
    assert (line["x"], line["y"]) == ([2, 8, 32], [104, 86, 14])
    assert (on["x"], off["x"]) == ([2, 8, 32], [9])


def test_runs_of_several_protocols_are_blocks_and_no_table_has_both(folder):
    a_job(folder, {"latent_dim": 4, "encoder": "mlp"}, 0, -50.0, protocol=GREY)
    page = page_of(folder)
    blocks = [one for one in page.all("section") if (one.attributes.get("id") or "").startswith("block-")]
    assert ["label=nll" in one.text for one in blocks] == [True, False]
    assert ["-50.00" in one.text for one in blocks] == [False, True]
    assert "2 blocks that are not ranked against each other: they differ in label" in page.text
    # the one table of all runs has no number that could be sorted across them
    assert page.table("all runs")[0] == [
        "run",
        "status",
        "configuration",
        "latent_dim",
        "seed",
        "seconds",
        "cause",
    ]


def test_failures_are_named_with_their_cause_and_what_never_began_is_there(folder):
    a_job(
        folder,
        {"latent_dim": 64, "encoder": "mlp"},
        0,
        None,
        cards=None,
        status=Status.FAILED,
        error="out of <memory>",
    )
    page = page_of(folder)
    assert "failed out of <memory>" in page.text
    rows = page.table("all runs")
    assert [row[1] for row in rows[1:] if row[3] == "64"] == ["failed", "missing"]
    assert "1 failed" in page.text  # fmt: skip


def test_runs_are_linked_where_they_have_a_page_from_wherever_the_page_lies(folder, tmp_path):
    run = next(folder.iterdir())
    report(run)
    page = page_of(folder)
    links = {one.attributes["href"] for one in page.all("a")}
    assert f"{run.name.replace('=', '%3D').replace(',', '%2C')}/report.html" in links
    elsewhere = Page.of(report(folder, tmp_path / "elsewhere.html"))
    ways = [one.attributes["href"] or "" for one in elsewhere.all("a")]
    assert any(way.startswith("sweeps/grid/") for way in ways)


def test_the_trials_of_a_search_come_in_their_order_with_the_best_so_far(folder):
    trials = [
        {"place": 1, "number": 1, "state": "complete", "params": {"lr": 1}, "values": [-95.0], "error": None},
        {
            "place": 0,
            "number": 0,
            "state": "complete",
            "params": {"lr": 2},
            "values": [-100.0],
            "error": None,
        },
        {"place": 2, "number": 2, "state": "pruned", "params": {"lr": 3}, "values": None, "error": None},
        {"place": 3, "number": 3, "state": "complete", "params": {"lr": 3}, "values": [-97.0], "error": None},
    ]
    record = {
        "schema": 1,
        "objectives": {"val/elbo": "max"},
        "trials": trials,
        "importances": {"val/elbo": {"lr": 0.75, "encoder": 0.25}},
    }
    write_json(folder / "search.json", record)  # fmt: skip
    page = page_of(folder)
    (drawn,) = [c for c in page.charts if c["data"][-1].get("name") == "best so far"]
    assert drawn["data"][0]["y"] == [-100, -95, None, -97]
    assert drawn["data"][1]["y"] == [-100, -95, -95, -95]
    assert "3 of 4 trials have a value. The best is -95, of trial 1." in page.text
    assert "Importance (fANOVA) of val/elbo: lr 0.75, encoder 0.25" in page.text
    (folder / "search.json").write_text("{")
    assert "search.json is not valid JSON" in page_of(folder).text


def test_parallel_coordinates_have_an_axis_a_setting_and_a_colour_for_each_fifth(folder):
    for seed in (0, 1):
        a_job(folder, {"latent_dim": 2, "encoder": "conv"}, seed, -80.0)
    (drawn,) = [c for c in page_of(folder).charts if c["layout"].get("annotations")]
    names = [note["text"] for note in drawn["layout"]["annotations"] if note["text"].startswith("<b>")]
    assert names == ["<b>latent_dim</b>", "<b>encoder</b>", "<b>val/elbo</b>", "<b>test elbo</b>"]
    best = next(line for line in drawn["data"] if line["name"] == "best fifth")
    assert best["text"][0] == "latent_dim 2, encoder conv, val/elbo -80, test elbo -90"
    assert best["y"] == [0, 0, 1, pytest.approx((-90 + 106) / (-46 + 106), abs=1e-4), None]


def test_values_without_a_place_have_none():
    chart = parallel("", [("a", [1.0, None, 3.0]), ("b", [float("nan"), 2.0, 2.0])], [0, 1, 2], "", "")
    heights = [line["y"] for line in chart.data]
    assert sorted(map(str, heights)) == ["[0.0, None, None]", "[1.0, 0.5, None]", "[None, 0.5, None]"]


def test_labels_of_an_axis_do_not_lie_on_each_other():
    def labels(*own):
        chart = parallel("", [("a", own), ("b", own)], range(len(own)), "", "")
        return [note["text"] for note in chart.layout["annotations"] if note["x"] == 0][1:]

    assert labels(0.0, 49.0, 50.0, 99.0, 100.0) == ["0", "49", "100"]
    assert labels(3.0, 3.0) == ["3"]
    assert labels(1.0, 2.0) == ["1", "2"]


def test_the_lowest_is_best_where_less_is_better():
    chart = trials("", "", [0, 2, 3, 4], [3.0, 1.0, float("nan"), 2.0], "min", "")
    assert chart.data[0]["x"] == [0, 2, 3, 4]
    assert "of trial 2." in chart.caption, "by its place in the search, which has gaps"
    assert chart.data[1]["y"] == [3, 1, 1, 1]
    assert frontier([(1.0, 1.0), (1.0, 1.0), (0.5, 1.0)]) == [2]
    assert not evener_in_log([0.0, 1.0])


def test_a_folder_that_is_no_sweep_is_a_table_of_its_runs(tmp_path):
    a_run(tmp_path / "logs" / "one", "a", [ELBO], val=-90.0, overrides=["latent_dim=2"])
    a_run(tmp_path / "logs" / "two", "b", [ELBO], val=-80.0, overrides=["latent_dim=4"])
    a_run(tmp_path / "logs" / "two", "c", [dataclasses.replace(ELBO, protocol=GREY)], val=-10.0)
    page = page_of(tmp_path / "logs")
    nll = next(one.text for one in page.all("section") if one.attributes.get("id") == "block-1")
    assert nll.index("two/b") < nll.index("one/a")
    assert "two/c" not in nll
    assert [row[0] for row in page.table("all runs")[1:]] == ["one/a", "two/b", "two/c"]


def test_accuracies_have_the_digits_of_their_cards(tmp_path):
    card = dataclasses.replace(
        ELBO, metric="accuracy", estimator="classifier", units="accuracy", value=0.8188, se_images=0.0036
    )
    score = {"name": "val/accuracy", "mode": "max"}
    for seed, off in ((0, 0.0), (1, 0.0002)):
        own = [dataclasses.replace(card, value=card.value + off)]
        a_run(
            tmp_path / "logs",
            f"run-{seed}",
            own,
            score=score,
            val=0.8254,
            seed=seed,
            overrides=[f"seed={seed}"],
        )
    head, *rows = page_of(tmp_path / "logs").table("runs")
    assert head[3:5] == ["val/accuracy", "test accuracy"]
    assert [row[3:5] for row in rows] == [["0.8254", "0.8188 ± 0.0036"], ["0.8254", "0.8190 ± 0.0036"]]


def test_hostile_names_and_damage_are_text(folder):
    evil = "<img src=x onerror=alert(1)>"
    a_job(folder, {"latent_dim": evil, "encoder": "mlp"}, 0, -99.0)
    (folder / "sweep.json").write_text("{")
    page = page_of(folder)
    assert page.all("img") == []
    assert evil in page.text
    assert "sweep.json is not valid JSON" in page.text


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(SettingError, match="holds no run"):
        report(tmp_path)
    a_run(tmp_path / "logs", "a-run", [ELBO])
    with pytest.raises(SettingError, match="did you mean"):
        report(tmp_path / "logs" / "a-rnu")


@pytest.mark.slow
def test_a_sweep_of_five_hundred_runs(tmp_path):
    folder = tmp_path / "sweeps" / "large"
    for i in range(500):
        a_job(folder, {"latent_dim": i // 5, "encoder": "mlp"}, i % 5, -100.0 - i % 7, 1.0 + i, 100.0 - i)
    page = page_of(folder)
    assert len(page.table("all runs")) == 501
    assert len(page.source) < 3_000_000
