import dataclasses
import json

import pytest

from vaelab.commands.runs import main
from vaelab.runs import (
    MetricsWriter,
    RunDirectory,
    Status,
    find_runs,
    start_manifest,
    write_cards,
    write_status,
    write_yaml,
)  # fmt: skip
from vaelab.runs.cards import Card
from vaelab.runs.table import differences, rank, read_row

PROTOCOL = {"data": "mnist", "binarize": "none", "label": "grey-bce"}
ELBO = Card("elbo", -104.2, 0.25, 0.01, "nats", "test", 10000, "elbo", 1, PROTOCOL, None, 1.0)


def a_run(logs, name, val, test=-104.2, seed=0, overrides=(), num_val=5000, **protocol):
    run = RunDirectory.create(logs / "reference", name)
    data = {"actual": "mnist", "num_val": num_val}
    start_manifest(
        run, argv=[], overrides=list(overrides), experiment="reference", seed=seed, device={}, threads=1,
        precision="32-true", data=data,
    )  # fmt: skip
    write_yaml(run.config_file, {"score": {"name": "val/elbo", "mode": "max"}, "seed": seed})
    write_yaml(run.overrides_file, list(overrides))
    write_status(run.status_file, Status.COMPLETED, exit_status=0)
    with MetricsWriter(run.metrics_file) as writer:
        writer.append(1, {"val/elbo": val - 50})
        writer.append(2, {"val/elbo": val})
        writer.append(3, {"val/elbo": val - 1})
    card = dataclasses.replace(ELBO, value=test, protocol={**PROTOCOL, **protocol})
    write_cards(run.evaluation_file, [card])
    return run


def rankings(logs):
    return rank([read_row(run, logs) for run in find_runs(logs)])


def test_the_order_is_by_the_validation_score_not_by_the_test_number(tmp_path):
    a_run(tmp_path, "a", val=-106.0, test=-90.0)
    a_run(tmp_path, "b", val=-105.0, test=-120.0)
    (group,) = rankings(tmp_path)
    assert [(row.name, row.score) for row in group.rows] == [("reference/b", -105.0), ("reference/a", -106.0)]


@pytest.mark.parametrize("change", [{"binarize": "dynamic"}, {"label": "nll"}, {"num_val": 10000}])
def test_other_protocols_are_never_ranked_together(tmp_path, capsys, change):
    a_run(tmp_path, "a", val=-106.0)
    a_run(tmp_path, "b", val=-90.0, **change)
    assert [len(group.rows) for group in rankings(tmp_path)] == [1, 1]
    assert main([str(tmp_path)]) == 0
    assert f"they differ in {next(iter(change))}." in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("columns", [60, 79, 80, 200])
def test_no_character_of_the_protocol_is_lost_on_a_narrow_screen(tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    protocol = {f"setting_{i}": 256 * i for i in range(20)}
    a_run(tmp_path, "a", val=-106.0, **protocol)
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out.split()
    assert {f"{key}={value}" for key, value in protocol.items()} <= set(shown)


def test_a_run_without_its_configuration_does_not_blur_what_sets_the_others_apart(tmp_path):
    for name in ("a", "b", "c"):
        a_run(tmp_path, name, val=-106.0)
    (tmp_path / "reference" / "b" / "config.yaml").unlink()
    (group,) = rankings(tmp_path)
    assert differences(group.rows) == ["", "", ""]


def test_what_differs_is_what_was_typed_and_not_shared(tmp_path):
    a_run(
        tmp_path, "a", -105.0, seed=1, overrides=["encoder=conv", "latent_dim=2", "seed=1", "paths.log_dir=x"]
    )
    a_run(tmp_path, "b", -106.0, seed=2, overrides=["encoder=conv", "latent_dim=8", "seed=2"])
    (group,) = rankings(tmp_path)
    assert differences(group.rows) == ["latent_dim=2", "latent_dim=8"]


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "status.json", "config.yaml", "overrides.yaml", "metrics.csv", "evaluation.json"],
)
@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\x00", b'{"schema": 1, "status": 3}', None])
def test_a_half_written_run_is_shown_and_never_a_traceback(tmp_path, capsys, name, content):
    run = a_run(tmp_path, "a", -105.0)
    if content is None:
        (run.path / name).unlink()
        (run.path / name).mkdir()
    else:
        (run.path / name).write_bytes(content)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "reference/a" in out.replace("\n", "")
    assert main([str(tmp_path), "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)
    damage = group["runs"][0]["damage"]
    torn = name == "metrics.csv" and content is not None  # a first line without its end
    valid = (name == "overrides.yaml" and content == b"[1, 2]") or (
        name in ("config.yaml", "manifest.json") and content == b'{"schema": 1, "status": 3}'
    )
    assert [d.split(":")[0] for d in damage] == ([] if torn or valid else [name])


def test_a_run_that_just_began_is_listed(tmp_path, capsys):
    run = RunDirectory.create(tmp_path, "young")
    run.config_file.write_text("seed: 0\n")
    assert main([str(tmp_path)]) == 0
    assert "young" in capsys.readouterr().out


def test_a_missing_directory_is_one_message_and_exit_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    assert main(["logz"]) == 2
    message = capsys.readouterr().err
    assert message == "vae-runs: DIR=logz: no such directory (did you mean 'logs'?)\n"
    (tmp_path / "file").write_text("")
    assert main(["file"]) == 2
    assert "is not a directory" in capsys.readouterr().err
    assert main([]) == 0
    assert capsys.readouterr().out == "No runs in logs.\n"


def test_a_number_of_fewer_images_stands_in_no_other_ones_place(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run = a_run(tmp_path, "a", val=-106.0)
    few = dataclasses.replace(ELBO, value=-66.6, num_images=4)
    nll = dataclasses.replace(ELBO, metric="nll", value=101.5, num_samples=5000, num_images=1000)
    for cards in ([ELBO, few, nll], [few, nll, ELBO]):  # whichever was measured last
        write_cards(run.evaluation_file, cards)
        (group,) = rankings(tmp_path)
        assert [(c.value, c.num_images) for c in sorted(group.rows[0].cards, key=lambda c: c.metric)] == [
            (-104.2, 10000),
            (101.5, 1000),
        ]
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "num_images=10000" in out
    assert "test nll K=5000 of 1000" in out
    assert "-66.6" not in out


def test_runs_measured_on_other_numbers_of_images_are_not_ranked_together(tmp_path):
    a_run(tmp_path, "a", val=-106.0)
    b = a_run(tmp_path, "b", val=-106.0)
    write_cards(b.evaluation_file, [dataclasses.replace(ELBO, num_images=4)])
    assert [len(group.rows) for group in rankings(tmp_path)] == [1, 1]


@pytest.mark.parametrize("columns", ["80", "120"])
def test_a_warning_marks_its_number_and_nothing_is_cut_off(tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    run = a_run(tmp_path, "a", val=-106.0)
    cards = [
        dataclasses.replace(ELBO, metric="nll", value=101.5, num_samples=k, estimator=by, warning=warning)
        for k, by, warning in ((10, "importance", "too few"), (5000, "importance", None), (16, "ais", None))
    ]
    write_cards(run.evaluation_file, [ELBO, *cards])
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "nll ais" in " ".join(out.split())
    assert out.count("!") == 2
    assert "--metric nll" in out
    assert out.count("± 0.25") == 4
    assert "…" not in out
