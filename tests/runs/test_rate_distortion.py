import json
import math

import pytest

from recorded import PROTOCOL, a_run, card_of
from vaelab.commands.runs import main
from vaelab.runs import Status, write_status
from vaelab.runs.directory import RunDirectory

ALIKE = {"estimator": "elbo", "num_samples": 8}


def a_beta(logs, name, beta, rate, distortion, **config):
    cards = [
        card_of([value - 1, value, value + 1], metric=metric, **ALIKE)
        for metric, value in (("rate", rate), ("distortion", distortion))
    ]
    return a_run(logs, name, cards, config={"objective": {"beta": beta}, "latent_dim": 8, **config})


def answer(capsys, *words):
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_points_come_in_the_order_of_beta_with_the_errors_of_their_images(tmp_path, capsys):
    for name, beta, rate, distortion in (("a", 4, 9.0, 95.0), ("b", 0.5, 30.0, 60.0), ("c", 1, 20.0, 70.0)):
        a_beta(tmp_path, name, beta, rate, distortion)
    status, out, _ = answer(capsys, tmp_path, "--rate-distortion", "--json")
    found = json.loads(out)
    assert status == 0
    assert [(p["beta"], p["rate"], p["distortion"], p["elbo"]) for p in found["points"]] == [
        (0.5, 30, 60, -90), (1, 20, 70, -90), (4, 9, 95, -104),
    ]  # fmt: skip
    assert all(p["errors"] == pytest.approx([1 / math.sqrt(3)] * 2) for p in found["points"])
    assert (tmp_path / "rate_distortion.png").read_bytes().startswith(b"\x89PNG")
    assert (found["label"], found["errors_over"]) == ("nll", "images")
    out = answer(capsys, tmp_path, "--rate-distortion")[1]
    assert "rate_distortion.png" in out
    assert "-104.00" in out
    assert "label nll" in out
    assert out.count("± images") == 2


def test_seeds_of_one_beta_are_one_point_with_their_own_error(tmp_path, capsys):
    for seed, rate in enumerate((19.0, 20.0, 24.0)):
        a_beta(tmp_path, f"s{seed}", 1, rate, 70.0, seed=seed, tags=[f"n{seed}"], paths={"log_dir": seed})
    a_beta(tmp_path, "alone", 4, 9.0, 95.0)
    found = json.loads(answer(capsys, tmp_path, "--rate-distortion", "--json")[1])
    assert found["errors_over"] == "runs"
    point, alone = found["points"]
    assert alone["errors"] is None, "an error over images would stand beside one over runs"
    assert (point["num_runs"], point["rate"], point["distortion"]) == (3, 21, 70)
    assert point["errors"] == pytest.approx([math.sqrt(7) / math.sqrt(3), 0])


@pytest.mark.parametrize(
    "config, is_curve",
    [
        ({"checkpoints": {"every_n_steps": 7}}, True),
        ({"logger": {"name": "none"}, "trainer": {"devices": 2}}, True),
        ({"callbacks": {"early_stopping": {"_target_": "vaelab.training.EarlyStoppingAfterWarmup"}}}, False),
        ({"trainer": {"precision": "bf16-mixed"}}, False),
    ],
)
def test_what_changes_no_number_may_differ_and_nothing_else(tmp_path, capsys, config, is_curve):
    a_beta(tmp_path, "a", 1, 20, 70)
    a_beta(tmp_path, "b", 4, 9, 95, **config)
    status, _, err = answer(capsys, tmp_path, "--rate-distortion")
    assert (status == 0) is is_curve, err


def test_runs_that_differ_in_more_are_no_curve(tmp_path, capsys):
    a_beta(tmp_path, "a", 1, 20, 70)
    a_beta(tmp_path, "b", 4, 9, 95, latent_dim=2)
    status, out, err = answer(capsys, tmp_path, "--rate-distortion")
    assert (status, out) == (2, "")
    assert "latent_dim" in err
    assert not (tmp_path / "rate_distortion.png").exists()


def test_numbers_that_cannot_be_compared_are_no_curve(tmp_path, capsys):
    a_beta(tmp_path, "a", 1, 20, 70)
    cards = [card_of([1.0, 2.0], metric=metric, **ALIKE) for metric in ("rate", "distortion")]
    a_run(tmp_path, "b", cards, config={"objective": {"beta": 4}, "latent_dim": 8})
    status, _, err = answer(capsys, tmp_path, "--rate-distortion")
    assert status == 2
    assert "num_images" in err


def test_runs_without_numbers_are_named(tmp_path, capsys):
    a_beta(tmp_path, "a", 1, 20, 70)
    failed = a_run(tmp_path, "b", None, config={"objective": {"beta": 4}})
    write_status(RunDirectory.open(failed).status_file, Status.FAILED, exit_status=1)
    status, out, _ = answer(capsys, tmp_path, "--rate-distortion")
    assert (status, "no such cards: b" in out) == (0, True)
    status, _, err = answer(capsys, failed, "--rate-distortion")
    assert (status, "no run holds cards of rate and distortion" in err) == (2, True)


@pytest.mark.parametrize("selected_by, told", [("val/elbo (max)", True), ("last", False)])
def test_weights_that_were_chosen_with_another_beta_are_told(tmp_path, capsys, selected_by, told):
    protocol = {**PROTOCOL, "selected_by": selected_by}
    cards = [card_of([1.0, 2.0], metric=metric, protocol=protocol) for metric in ("rate", "distortion")]
    a_run(tmp_path, "a", cards, config={"objective": {"beta": 4}})
    out = answer(capsys, tmp_path, "--rate-distortion")[1]
    assert ("chosen by val/elbo" in out) is told


@pytest.mark.parametrize(
    "words, named",
    [(["--rate-distortion", "--metric", "nll"], "one at a time"), (["a", "b", "--rate-distortion"], "one folder")],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(tmp_path, monkeypatch, capsys, words, named):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / name).mkdir()
    status, _, err = answer(capsys, *words)
    assert (status, named in err) == (2, True)
