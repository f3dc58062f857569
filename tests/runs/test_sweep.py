import csv
import dataclasses
import json
import math
import subprocess
import sys

import pytest

from recorded import PROTOCOL, a_run, card_of
from vaelab.commands.runs import main
from vaelab.runs import Status, find_runs, read_config, sweep, sweep_table, write_cards, write_status
from vaelab.runs.identity import config_hash
from vaelab.runs.selection import Selection
from vaelab.runs.table import read_row

ELBO = dataclasses.replace(card_of([-90.0, -92.0]), metric="elbo", estimator="elbo", num_samples=1)
NLL = card_of([90.0, 92.0, 97.0])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a sweep lies, on a wide screen."""
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "sweeps" / "grid"


def a_job(folder, seed, val, test=-90.0, *, name=None, cards=None, recorded=True, config=None, **more):
    """A run of a sweep over latent_dim and seed, or of what ``config`` says, also if no record of the sweep is in it."""
    config = config or {"latent_dim": 2}
    words = [f"{key}={value}" for key, value in {**config, "seed": seed}.items()]
    more = {"overrides": words, **more}
    cards = [dataclasses.replace(ELBO, value=test)] if cards is None else cards
    name = name or ",".join(words)
    said = {"name": "grid", "swept": {**config, "seed": seed}} if recorded else None
    return a_run(folder, name, cards, val=val, config=config, seed=seed, sweep=said, **more)


def answer(capsys, *words):
    """Exit status, standard output, standard error of ``vae-runs``."""
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def content(capsys, *words):
    status, out, err = answer(capsys, *words, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def lines(blocks):
    return [[(one["settings"], one["numbers"]) for one in block["configurations"]] for block in blocks]


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_is_a_configuration_with_mean_and_standard_error_over_seeds_best_first_in_validation(
    folder, capsys
):
    for dim, vals, tests in ((2, (-100.0, -102.0, -107.0), (-80.0, -81.0, -82.0)), (8, (-95.0, -96.0, -97.0), (-99.0, -99.0, -99.0))):  # fmt: skip
        for seed in range(3):
            a_job(folder, seed, vals[seed], tests[seed], config={"latent_dim": dim})
    (block,) = content(capsys, folder)["blocks"]
    assert [one["settings"] for one in block["configurations"]] == [{"latent_dim": 8}, {"latent_dim": 2}]
    worst = block["configurations"][1]["numbers"]
    assert worst["val/elbo"] == pytest.approx({"value": -103.0, "se": math.sqrt(13 / 3), "n": 3})
    assert worst["test elbo"] == pytest.approx({"value": -81.0, "se": math.sqrt(1 / 3), "n": 3})
    assert block["ordered_by"] == {"name": "val/elbo", "mode": "max"}
    _, out, _ = answer(capsys, folder)
    assert "2 configurations, 6 runs: 6 completed" in out
    assert "ordered by val/elbo, the largest first; mean ± standard error over 3 seeds" in out
    assert "-103.00 ± 2.08" in out


def test_a_score_that_is_minimised_has_its_smallest_first(folder, capsys):
    for dim, val in ((2, 100.0), (8, 90.0)):
        a_job(folder, 0, val, config={"latent_dim": dim}, score={"name": "val/nll", "mode": "min"})
    (block,) = content(capsys, folder)["blocks"]
    assert [one["settings"]["latent_dim"] for one in block["configurations"]] == [8, 2]


def test_one_seed_has_no_error_and_an_error_that_there_is_is_not_shown_as_none(folder, capsys):
    a_job(folder, 0, -100.0)
    _, out, _ = answer(capsys, folder)
    assert "of one run each" in out
    assert "±" not in out
    a_job(folder, 1, -100.006)
    assert "-100.003 ± 0.003" in answer(capsys, folder)[1]


def test_runs_that_differ_in_more_than_their_seed_are_never_averaged(folder, capsys):
    a_job(folder, 0, -100.0, config={"latent_dim": 2, "objective": {"beta": 1}}, overrides=["latent_dim=2"])
    a_job(folder, 1, -90.0, name="b", config={"latent_dim": 2, "objective": {"beta": 4}}, overrides=["latent_dim=2"])  # fmt: skip
    for path in folder.iterdir():  # as of a sweep that was started twice, with another beta for all runs
        edit(path / "manifest.json", lambda m: m["sweep"].update(swept={"latent_dim": 2, "seed": m["seed"]}))
    (block,) = content(capsys, folder)["blocks"]
    assert [(one["settings"], one["numbers"]["val/elbo"]["n"]) for one in block["configurations"]] == [
        ({"objective.beta": 4}, 1),
        ({"objective.beta": 1}, 1),
    ]


def test_settings_that_change_no_number_part_no_seeds(folder, capsys):
    for seed in range(2):
        config = {"latent_dim": 2, "paths": {"log_dir": f"place {seed}"}, "trainer": {"devices": 1 + seed}}
        a_job(folder, seed, -100.0, name=f"s{seed}", config=config, overrides=["latent_dim=2"])
    ((((settings, numbers)),),) = lines(content(capsys, folder)["blocks"])
    assert (settings, numbers["val/elbo"]["n"]) == ({}, 2)


def test_only_what_differs_has_a_column(folder, capsys):
    for dim in (2, 8):
        a_job(folder, 0, -100.0, config={"latent_dim": dim, "data.batch_size": 16})
    _, out, _ = answer(capsys, folder)
    (heading,) = [line for line in out.splitlines() if line.lstrip().startswith("latent_dim")]
    assert heading.split() == ["latent_dim", "seeds", "val/elbo", "test", "elbo"]
    assert "all with data.batch_size=16 seed=0" in out


def test_numbers_of_other_protocols_stand_in_blocks_of_their_own(folder, capsys):
    for binarize in ("none", "dynamic"):
        card = dataclasses.replace(ELBO, protocol={**PROTOCOL, "binarize": binarize})
        for seed in range(2):
            a_job(folder, seed, -100.0, cards=[card], config={"data.binarize": binarize})
    blocks = content(capsys, folder)["blocks"]
    assert [[one[0] for one in block] for block in lines(blocks)] == [
        [{"data.binarize": "dynamic"}], [{"data.binarize": "none"}],
    ]  # fmt: skip
    assert "2 blocks, not ranked against each other: they differ in binarize." in answer(capsys, folder)[1]
    rows = table(folder / "results.csv")
    columns = ["test/elbo (protocol.binarize=dynamic)", "test/elbo (protocol.binarize=none)"]
    assert [[bool(row[name]) for name in columns] for row in rows] == [[True, False]] * 2 + [
        [False, True]
    ] * 2
    assert [(row["block"], row["rank"]) for row in table(folder / "configurations.csv")] == [
        ("1", "1"),
        ("2", "1"),
    ]


def test_a_run_that_was_measured_again_does_not_change_the_mean_of_what_all_have(folder, capsys):
    again = dataclasses.replace(ELBO, value=-1.0, protocol={**PROTOCOL, "binarize": "threshold"})
    a_job(folder, 0, -100.0, -90.0, cards=[ELBO, again])
    a_job(folder, 1, -100.0, cards=[ELBO, dataclasses.replace(NLL, num_images=2)])
    first, second = lines(content(capsys, folder)["blocks"])
    assert first[0][1]["test elbo"] == {"value": -91.0, "se": 0.0, "n": 2}
    assert first[0][1]["test nll K=100"]["n"] == 1
    assert second[0][1]["test elbo"] == {"value": -1.0, "se": None, "n": 1}
    assert "93.00 (1)" in answer(capsys, folder)[1], "a mean over fewer seeds than are complete says so"


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_what_did_not_complete_is_counted_named_and_enters_no_mean(folder, capsys):
    a_job(folder, 0, -100.0)
    a_job(folder, 1, -1.0, status=Status.FAILED, error="CUDA out of memory")
    a_job(folder, 2, -2.0, status=Status.INTERRUPTED, cards=[])
    a_job(folder, 3, -3.0, status=Status.PRUNED, error="at validation 2 of 10", cards=[])
    dead = a_job(folder, 4, -4.0, cards=[])
    write_status(dead / "status.json", Status.RUNNING)
    edit(dead / "status.json", lambda s: s.update(process=None, updated="2020-01-01T00:00:00+00:00"))
    a_job(folder, 0, -5.0, config={"latent_dim": 8}, status=Status.FAILED, error="CUDA out of memory")
    found = content(capsys, folder)
    (((settings, numbers),),) = lines(found["blocks"])
    assert (settings, numbers["val/elbo"]) == ({"latent_dim": 2}, {"value": -100.0, "se": None, "n": 1})
    assert len(found["without"]) == 1
    _, out, _ = answer(capsys, folder)
    assert "10 runs: 4 missing, 2 failed, 1 completed, 1 interrupted, 1 pruned, 1 dead" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()[:1] in (["2"], ["8"])}
    assert "1 of 5" in rows["2"]
    assert "1 failed, 1 interrupted, 1 pruned, 1 dead, silent for" in rows["2"]
    assert "0 of 5" in rows["8"]
    assert "1 failed, 4 missing" in rows["8"]
    assert "failed: CUDA out of memory: latent_dim=2,seed=1, latent_dim=8,seed=0" in out
    assert "pruned: at validation 2 of 10: latent_dim=2,seed=3" in out
    assert [row["status"] for row in table(folder / "results.csv")].count("missing") == 4


def a_record(folder, *jobs):
    """``sweep.json`` as whoever runs a sweep writes it."""
    known = {"name": "", "overrides": [], "run": "", "error": None, "tries": 0, "seconds": None}
    record = {"schema": 1, "name": "grid", "created": "", "argv": [], "overrides": []}
    record["jobs"] = [{**known, "id": f"{i}", **job} for i, job in enumerate(jobs)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps(record))


def identity(path):
    (run,) = find_runs(path)
    return config_hash(read_config(run))["sha256"]


def test_the_record_of_a_sweep_adds_what_has_no_run_directory(folder, capsys):
    done, dead = a_job(folder, 0, -100.0), a_job(folder, 1, -1.0, cards=[])
    write_status(dead / "status.json", Status.RUNNING)
    edit(dead / "status.json", lambda s: s.update(process=None, updated="2020-01-01T00:00:00+00:00"))
    swept = {"latent_dim": "2"}
    a_record(
        folder,
        {"id": identity(done), "swept": {**swept, "seed": "0"}, "status": "running"},
        {
            "id": identity(dead),
            "swept": {**swept, "seed": "1"},
            "status": "failed",
            "error": "killed by SIGKILL",
        },
        {"swept": {**swept, "seed": "2"}, "status": "waiting"},
        {"swept": {**swept, "seed": "3"}, "status": "completed", "run": "gone"},
        {"swept": {**swept, "seed": "4"}, "status": "pruned", "run": "gone, too"},
        {
            "swept": {"latent_dim": "-1", "seed": "0"},
            "status": "refused",
            "error": "latent_dim must be positive",
        },
    )
    found = content(capsys, folder)
    assert [(run["swept"]["latent_dim"], run["seed"], run["status"]) for run in found["runs"]] == [
        (-1, 0, "refused"), (2, 0, "completed"), (2, 1, "failed"), (2, 2, "waiting"), (2, 3, "missing"), (2, 4, "missing"),
    ]  # fmt: skip
    assert len({run["configuration"] for run in found["runs"]}) == 2
    _, out, _ = answer(capsys, folder)
    assert "failed: killed by SIGKILL: latent_dim=2,seed=1" in out
    assert "refused: latent_dim must be positive" in out
    assert "1 of 5" in out


def test_a_sweep_of_which_nothing_has_begun_is_shown(folder, capsys):
    a_record(folder, {"swept": {"latent_dim": "2", "seed": "0"}, "status": "waiting"})
    status, out, _ = answer(capsys, folder)
    assert (status, "1 run: 1 waiting" in out) == (0, True)
    assert [row["status"] for row in table(folder / "results.csv")] == ["waiting"]


@pytest.mark.parametrize("damage", ["", "[1]", '{"schema": 9}', '{"schema": 1, "jobs": [1, {"id": 2}]}'])
def test_a_damaged_record_hides_no_run(folder, capsys, damage):
    a_job(folder, 0, -100.0)
    (folder / "sweep.json").write_text(damage)
    status, out, err = answer(capsys, folder)
    assert (status, err, "1 of 1" in out) == (0, "", True)
    assert ("sweep.json" in out) is ("jobs" not in damage)


def test_an_earlier_attempt_is_no_seed(folder, capsys):
    a_job(folder, 0, -1.0, name="a.failed-1", status=Status.FAILED, error="an earlier cause")
    a_job(folder, 0, -100.0, name="a")
    a_job(folder, 1, -102.0, name="b")
    found = content(capsys, folder)
    assert [(run["run"], run["attempts"]) for run in found["runs"]] == [("a", 2), ("b", 1)]
    assert lines(found["blocks"])[0][0][1]["val/elbo"]["value"] == -101.0
    _, out, _ = answer(capsys, folder)
    assert "1 further run of jobs that are here already" in out
    assert "an earlier cause" not in out


def test_of_attempts_one_that_completed_counts_also_before_a_later_one(folder, capsys):
    a_job(folder, 0, -100.0, name="a")
    a_job(folder, 0, -1.0, name="b", status=Status.INTERRUPTED, cards=[])
    assert [(run["run"], run["status"]) for run in content(capsys, folder)["runs"]] == [("a", "completed")]


def test_of_attempts_that_all_failed_the_last_one_counts(folder, capsys):
    for name, cause in (("a.failed-1", "first"), ("a", "second")):
        a_job(folder, 0, -1.0, name=name, status=Status.FAILED, error=cause)
    _, out, _ = answer(capsys, folder)
    assert "failed: second: a" in out
    assert "first" not in out


def test_a_folder_of_a_sweep_without_any_record_is_known_by_where_it_lies(folder, tmp_path, capsys):
    for place in (folder, tmp_path / "elsewhere"):
        for dim in (2, 8):
            for seed in range(2):
                a_job(place, seed, -100.0 - dim, config={"latent_dim": dim}, recorded=False)
    (block,) = content(capsys, folder)["blocks"]
    assert [(one["settings"], one["numbers"]["val/elbo"]["n"]) for one in block["configurations"]] == [
        ({"latent_dim": 2}, 2),
        ({"latent_dim": 8}, 2),
    ]
    for other in (tmp_path / "elsewhere", tmp_path / "sweeps"):
        assert isinstance(content(capsys, other), list), "the table of runs"
        assert not list(other.glob("*.csv"))
    a_job(tmp_path / "elsewhere", 2, -100.0)
    assert content(capsys, tmp_path / "elsewhere")["sweep"]["swept"] == ["latent_dim", "seed"]


def test_the_runs_of_a_sweep_named_one_by_one_are_a_table_of_runs(folder, capsys):
    paths = [a_job(folder, seed, -100.0) for seed in range(2)]
    assert len(content(capsys, *paths)[0]["runs"]) == 2


def test_results_have_a_row_a_run_and_are_made_anew_each_time(folder, capsys):
    a_job(folder, 0, -100.0, -90.0)
    last = a_job(folder, 1, -102.0, -94.0, status=Status.FAILED, error='a "quoted", cause')
    answer(capsys, folder)
    first, second = table(folder / "results.csv")
    assert {key: first[key] for key in ("run", "latent_dim", "seed", "status", "score_name", "score")} == {
        "run": "latent_dim=2,seed=0", "latent_dim": "2", "seed": "0", "status": "completed",
        "score_name": "val/elbo", "score": "-100.0",
    }  # fmt: skip
    assert (float(first["test/elbo"]), float(first["test/elbo_se_images"])) == (-90.0, ELBO.se_images)
    assert float(first["seconds"]) >= 0
    assert (second["status"], second["error"]) == ("failed", 'a "quoted", cause')
    assert first["configuration"] == second["configuration"]
    write_status(last / "status.json", Status.COMPLETED, exit_status=0)
    answer(capsys, folder)
    assert [row["status"] for row in table(folder / "results.csv")] == ["completed"] * 2
    (row,) = table(folder / "configurations.csv")
    assert [float(row[name]) for name in ("num_runs", "num_complete", "val/elbo_mean", "test/elbo_mean", "test/elbo_se")] == [
        2, 2, -101, -92, 2,
    ]  # fmt: skip
    assert {path.name for path in folder.iterdir() if path.is_file()} == {"results.csv", "configurations.csv"}


def test_a_folder_that_cannot_be_written_to_is_shown_all_the_same(folder, capsys):
    a_job(folder, 0, -100.0)
    (folder / "results.csv").mkdir()
    status, out, err = answer(capsys, folder)
    assert (status, "1 of 1" in out) == (0, True)
    assert err.startswith("vae-runs: the tables could not be written (")
    assert "results.csv" not in out


def test_a_metric_is_averaged_in_blocks_that_can_be_compared(folder, capsys):
    for dim, score in ((2, -100.0), (8, -90.0)):
        for seed in range(2):
            cards = [
                dataclasses.replace(NLL, value=70.0 + dim + seed),
                dataclasses.replace(NLL, num_samples=5000),
            ]
            a_job(folder, seed, score, cards=cards[: 1 + (dim == 2)], config={"latent_dim": dim})
    first, second = content(capsys, folder, "--metric", "nll")["blocks"]
    assert lines([first])[0] == [
        ({"latent_dim": 8}, {"val/elbo": {"value": -90.0, "se": 0.0, "n": 2}, "test nll": {"value": 78.5, "se": 0.5, "n": 2}}),
        ({"latent_dim": 2}, {"val/elbo": {"value": -100.0, "se": 0.0, "n": 2}, "test nll": {"value": 72.5, "se": 0.5, "n": 2}}),
    ]  # fmt: skip
    assert (first["measurement"]["num_samples"], second["measurement"]["num_samples"]) == (100, 5000)
    assert [one[0] for one in lines([second])[0]] == [{"latent_dim": 2}]
    chosen = content(capsys, folder, "--metric", "nll", "--num-samples", "5000")
    assert len(chosen["blocks"]) == len(chosen["without"]) == 1
    assert answer(capsys, folder, "--metric", "nll", "--split", "val") == (
        2, "", "vae-runs: --split=val: there is no such nll card here, only test\n",
    )  # fmt: skip


def test_without_a_validation_number_nothing_is_ordered(folder, capsys):
    for dim, test in ((8, -80.0), (2, -90.0)):
        a_job(folder, 0, None, test, config={"latent_dim": dim})
    (block,) = content(capsys, folder)["blocks"]
    assert (block["ordered_by"], block["not_ordered"]) == (None, "there is no validation number")
    assert [one["settings"]["latent_dim"] for one in block["configurations"]] == [2, 8]
    assert "not ordered: there is no validation number" in answer(capsys, folder)[1]
    assert [row["rank"] for row in table(folder / "configurations.csv")] == ["", ""]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_score_that_is_no_number_comes_last_and_has_no_error(folder, capsys, value):
    for dim, vals in ((2, (value, -1.0)), (8, (-100.0, -100.0))):
        for seed in range(2):
            a_job(folder, seed, vals[seed], config={"latent_dim": dim})
    (block,) = content(capsys, folder)["blocks"]
    assert [one["settings"]["latent_dim"] for one in block["configurations"]] == [8, 2]
    number = block["configurations"][1]["numbers"]["val/elbo"]
    assert number == (None if math.isnan(value) else {"value": "-inf", "se": None, "n": 2})
    assert answer(capsys, folder, "--pictures")[0] == 0


def test_a_run_of_which_nothing_can_be_read_is_named(folder, capsys):
    a_job(folder, 0, -100.0)
    broken = folder / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    status, out, _ = answer(capsys, folder)
    assert (status, "not counted: broken: manifest.json: unreadable" in out) == (0, True)
    (one,) = content(capsys, folder)["unreadable"]
    assert one["path"] == str(broken)


def test_a_run_without_its_configuration_belongs_to_what_was_swept(folder, capsys):
    a_job(folder, 0, -100.0)
    (a_job(folder, 1, -100.0) / "config.yaml").unlink()
    ((_, numbers),) = lines(content(capsys, folder)["blocks"])[0]
    assert numbers["test elbo"]["n"] == 2


def test_pictures_show_the_number_against_each_setting_that_differs(folder, capsys):
    for dim in (2, 8):
        for encoder in ("mlp", "conv"):
            a_job(folder, 0, -100.0 - dim, config={"latent_dim": dim, "encoder": encoder})
    assert "--pictures draws it against latent_dim, encoder" in answer(capsys, folder)[1]
    _, out, _ = answer(capsys, folder, "--pictures")
    names = ["val_elbo_against_encoder.png", "val_elbo_against_latent_dim.png"]
    assert sorted(path.name for path in folder.glob("*.png")) == names
    assert all(name in out for name in names)
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in names)
    answer(capsys, folder, "--metric", "elbo", "--pictures")
    assert (folder / "test_elbo_against_latent_dim.png").is_file()


def test_a_picture_has_the_points_of_the_table_and_says_what_is_better_of_what_orders_it(folder):
    for dim in (8, 2):
        for encoder in ("mlp", "conv"):
            for seed in range(2):
                config = {"latent_dim": dim, "encoder": encoder}
                a_job(folder, seed, -100.0 - dim + 2 * seed, -90.0, config=config, cards=[ELBO, NLL])
    found = sweep.read(folder, [read_row(run, folder) for run in find_runs(folder)])
    (block,) = sweep_table.by_score(found)
    second, first = sweep_table.pictures(found, block)
    assert [(one.key, one.legend) for one in (first, second)] == [
        ("encoder", "latent_dim"), ("latent_dim", "encoder"),
    ]  # fmt: skip
    points = set(zip(second.values, second.means, second.errors, second.lines))
    assert points == {(dim, -99.0 - dim, 1.0, encoder) for dim in (2, 8) for encoder in ("mlp", "conv")}
    assert (second.number, second.units) == ("val/elbo", "nats")
    assert second.title == "val/elbo, mean ± standard error over 2 seeds; larger is better"
    (block,) = sweep_table.by_metric(found, Selection(metric="nll"))
    other, _ = sweep_table.pictures(found, block)
    assert other.means == (93.0,) * 4
    assert other.title == "test nll, mean ± standard error over 2 seeds", "it is ordered by another number"


HOSTILE = [
    "$\\frac{$",
    "\x1b[2J",
    10**400,
    "9" * 400,
    [[1], {"a": None}],
    {"b": [1]},
    "NaN",
    "../../x",
    "",
    None,
    True,
]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("place", ["value", "key", "record", "error"])
def test_what_a_record_may_say_stays_text_in_tables_and_pictures(folder, tmp_path, capsys, value, place):
    for i, other in enumerate((value, "usual", 3.5)):
        path = a_job(folder, i % 2, -100.0 - i, name=f"r{i}", config={"x": i})
        key, own = (str(value), i) if place == "key" else ("latent_dim", other if place == "value" else i)
        said = {"name": "n", "swept": {key: own}}
        edit(path / "manifest.json", lambda m, said=said: m.update(sweep=said))
    job = {"id": "1", "name": "j", "run": "r", "status": "failed", "error": "e", "swept": {"latent_dim": 1}}
    if place == "record":
        jobs = [{**job, name: value} for name in job] + [value]
        (folder / "sweep.json").write_text(json.dumps({"schema": 1, "name": value, "jobs": jobs}))
    if place == "error":
        a_record(folder, {**job, "error": value, "status": value})
    status, out, err = answer(capsys, folder, "--pictures")
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert content(capsys, folder)["sweep"]
    assert {path.parent for path in tmp_path.rglob("*.png")} == {folder}


def test_pictures_of_what_is_no_sweep_are_refused(tmp_path, capsys):
    a_job(tmp_path / "reference", 0, -100.0, recorded=False)
    status, out, err = answer(capsys, tmp_path, "--pictures")
    assert (status, out, "not the folder of one" in err) == (2, "", True)


@pytest.mark.parametrize("more, told", [((), True), (("latent_dim",), False)])
def test_a_sweep_over_beta_alone_is_told_of_its_curve(folder, capsys, more, told):
    for beta in (1, 4):
        a_job(folder, 0, -100.0, config={"objective.beta": beta, **dict.fromkeys(more, beta)})
    assert ("--rate-distortion draws rate against distortion" in answer(capsys, folder)[1]) is told


def test_80_columns_hold_every_number_and_no_control_character(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for dim in (2, 8):
        for seed in range(2):
            config = {"latent_dim": dim, "encoder": "\x1b[2Jgated_conv" if dim == 2 else "mlp"}
            a_job(
                folder,
                seed,
                -1234.5 - seed,
                -1234.5 - seed,
                name=f"{dim}{seed}",
                config=config,
                cards=[ELBO, NLL],
            )
    status, out, _ = answer(capsys, folder)
    assert status == 0
    assert max(len(line) for line in out.splitlines() if str(folder) not in line) <= 80
    assert out.count("-1235.00 ± 0.50") == 2
    assert "…" not in out
    assert "\x1b" not in out


def test_neither_torch_nor_matplotlib_is_imported_for_a_table(folder):
    a_job(folder, 0, -100.0)
    code = (
        "import sys; from vaelab.commands.runs import main; main([sys.argv[1]]);"
        "print({'torch', 'matplotlib', 'hydra'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stderr == "set()\n"


def test_the_row_of_a_run_says_how_long_it_took_and_why_it_failed(folder):
    path = a_job(folder, 3, -1.0, status=Status.FAILED, error="boom")
    (run,) = find_runs(path)
    edit(
        path / "manifest.json",
        lambda m: m.update(created="2026-01-01T00:00:00+00:00", finished="2026-01-01T00:01:30+00:00"),
    )
    row = read_row(run)
    assert (row.seconds, row.error, row.seed) == (90.0, "boom", 3)
    write_cards(path / "evaluation.json", [])
    assert read_row(run).sweep == {"name": "grid", "swept": {"latent_dim": 2, "seed": 3}}
