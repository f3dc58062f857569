import dataclasses
import json
import random
from pathlib import Path

import pytest

from recorded import PROTOCOL, a_run, card_of
from vaelab.commands.runs import main
from vaelab.runs import comparable
from vaelab.runs.selection import Selection
from vaelab.runs.side_by_side import blocks
from vaelab.runs.table import Row

NLL = card_of([90.0, 92.0, 97.0])
ELBO = dataclasses.replace(NLL, metric="elbo", value=-95.0, estimator="elbo", num_samples=1)
STATIC = {**PROTOCOL, "binarize": "none"}


def answer(capsys, *words):
    """Exit status, standard output, standard error of ``vae-runs``."""
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def runs_of(content):
    return [[entry["run"] for entry in block["cards"]] for block in content["blocks"]]


def test_a_block_is_ranked_by_the_validation_score_not_by_the_test_number(tmp_path, capsys):
    a_run(tmp_path, "a", [dataclasses.replace(NLL, value=80.0)], val=-106.0)
    a_run(tmp_path, "b", [dataclasses.replace(NLL, value=120.0)], val=-105.0)
    a_run(tmp_path, "c", [dataclasses.replace(NLL, value=70.0)], val=None)
    status, out, _ = answer(capsys, "--metric", "nll", tmp_path)
    lines = [line.split()[0] for line in out.splitlines() if line.split()[:1] in (["a"], ["b"], ["c"])]
    assert (status, lines) == (0, ["b", "a", "c"])
    content = json.loads(answer(capsys, "--metric", "nll", "--json", tmp_path)[1])
    assert runs_of(content) == [["b", "a", "c"]]
    assert content["blocks"][0]["ranked_by"] == {"name": "val/elbo", "mode": "max"}
    assert content["blocks"][0]["cards"][0]["card"] == dataclasses.replace(NLL, value=120.0).to_dict()


def test_the_same_measurement_of_the_validation_images_ranks_before_the_score(tmp_path, capsys):
    for name, test, val, score in (("a", 80.0, 99.0, -1.0), ("b", 90.0, 98.0, -2.0)):
        on_val = dataclasses.replace(NLL, split="val", value=val, num_images=50)
        a_run(tmp_path, name, [dataclasses.replace(NLL, value=test), on_val], val=score)
    content = json.loads(answer(capsys, "--metric", "nll", "--json", tmp_path)[1])
    assert [block["ranked_by"] for block in content["blocks"]] == [{"name": "val nll", "mode": "min"}] * 2
    assert runs_of(content) == [["b", "a"], ["b", "a"]]


@pytest.mark.parametrize(
    "change, named",
    [
        ({"num_val": 60}, "num_val"),
        ({"score": {"name": "val/nll", "mode": "max"}}, "score.name"),
        ({"score": {"name": "val/elbo", "mode": "min"}}, "score.mode"),
        ({"val": None}, None),
    ],
)
def test_scores_of_different_kinds_rank_nothing(tmp_path, capsys, change, named):
    a_run(tmp_path, "b", [NLL], val=-100.0 if named else None)
    a_run(tmp_path, "a", [NLL], **{"val": -105.0, **change})
    status, out, _ = answer(capsys, "--metric", "nll", tmp_path)
    assert status == 0
    reason = f"the validation scores differ in {named}" if named else "there is no validation number"
    assert f"not ranked: {reason}" in out
    (block,) = json.loads(answer(capsys, "--metric", "nll", "--json", tmp_path)[1])["blocks"]
    assert (block["ranked_by"], block["not_ranked"]) == (None, reason)


def test_a_folder_shows_a_block_for_each_measurement_and_counts_the_rest(tmp_path, capsys):
    a_run(tmp_path, "a", [NLL, dataclasses.replace(NLL, num_samples=5000), ELBO])
    a_run(tmp_path, "b", [NLL, dataclasses.replace(NLL, estimator="ais", num_samples=64)])
    a_run(tmp_path, "c", [dataclasses.replace(NLL, protocol=STATIC)])
    a_run(tmp_path, "d", [ELBO])
    status, out, _ = answer(capsys, "--metric", "nll", tmp_path)
    assert status == 0
    assert "4 blocks, not ranked against each other: they differ in" in out
    assert "no such card: d" in out
    content = json.loads(answer(capsys, "--metric", "nll", "--json", tmp_path)[1])
    assert runs_of(content) == [["a", "b"], ["a"], ["b"], ["c"]]
    assert content["without"] == ["d"]
    assert content["shared"]["protocol.label"] == "nll"
    assert content["blocks"][3]["distinguished_by"]["protocol.binarize"] == "none"
    assert runs_of(
        json.loads(answer(capsys, "--metric", "nll", "--estimator", "ais", "--json", tmp_path)[1])
    ) == [["b"]]
    chosen = answer(capsys, "--metric", "nll", "--num-samples", 5000, "--json", tmp_path)[1]
    assert runs_of(json.loads(chosen)) == [["a"]]


def test_two_runs_asked_for_by_name_are_refused_with_each_field_and_both_values(tmp_path, capsys):
    a = a_run(tmp_path, "a", [NLL])
    b = a_run(tmp_path, "b", [dataclasses.replace(NLL, num_images=7, protocol={**STATIC, "given": "y"})])
    status, out, err = answer(capsys, "--metric", "nll", a, b)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert f"{a} (A) and {b} (B)" in err
    for field in (
        "num_images: 3 (A) against 7 (B)",
        "protocol.binarize: dynamic (A) against none (B)",
        "protocol.given: absent (A) against y (B)",
    ):
        assert field in err
    assert "protocol.label" not in err
    assert "--force shows them in separate blocks" in err
    status, out, err = answer(capsys, "--metric", "nll", "--force", a, b)
    assert (status, err) == (0, "")
    assert "2 blocks, not ranked against each other" in out
    # the folder that holds both was not a demand to compare them
    assert answer(capsys, "--metric", "nll", tmp_path)[0] == 0
    status, _, err = answer(capsys, "--metric", "nll", "--json", a, b)
    assert status == 2
    assert "protocol.binarize" in err


def test_runs_that_share_one_measurement_are_shown_and_the_rest_beside(tmp_path, capsys):
    more = dataclasses.replace(NLL, num_samples=5000)
    a, b = a_run(tmp_path, "a", [more, NLL]), a_run(tmp_path, "b", [NLL])
    status, out, _ = answer(capsys, "--metric", "nll", "--json", a, b)
    assert status == 0
    assert runs_of(json.loads(out)) == [["a"], ["a", "b"]]
    c = a_run(tmp_path, "c", [more])
    status, _, err = answer(capsys, "--metric", "nll", a, b, c)
    assert status == 2
    assert "num_samples: 100 (A) against 5000 (B)" in err
    d = a_run(tmp_path, "d", [ELBO])
    status, _, err = answer(capsys, "--metric", "nll", a, d)
    assert status == 2
    assert f"{d} holds no nll card; --force shows the others" in err


@pytest.mark.parametrize("seed", range(5))
def test_what_cannot_be_compared_never_stands_in_one_block(seed):
    draw = random.Random(seed)
    choices = {
        "split": ["test", "val"],
        "num_images": [3, 4],
        "units": ["nats", "bits"],
        "estimator": ["importance", "ais"],
        "num_samples": [1, 5],
    }
    cards = [
        dataclasses.replace(
            NLL,
            **{name: draw.choice(values) for name, values in choices.items()},  # pyright: ignore[reportArgumentType]
            protocol={
                **PROTOCOL,
                "binarize": draw.choice(["none", "fixed"]),
                **draw.choice([{}, {"given": "y"}]),
            },
        )
        for _ in range(60)
    ]
    rows = [
        Row(Path(f"r{i}"), f"r{i}", "completed", cards=tuple(cards[5 * i : 5 * i + 5])) for i in range(12)
    ]
    found = blocks(rows, Selection(metric="nll"))
    assert sum(len(block.entries) for block in found) == 60
    for block in found:
        for x in block.entries:
            assert all(comparable(x.card, y.card) == [] for y in block.entries)
    representatives = [block.entries[0].card for block in found]
    for i, x in enumerate(representatives):
        assert all(comparable(x, y) for y in representatives[:i])


@pytest.mark.parametrize(
    "words, message",
    [
        (["--metric", "nl"], "--metric=nl: there is no such card here, only elbo, nll (did you mean 'nll'?)"),
        (
            ["--metric", "nll", "--estimator", "importanc"],
            "--estimator=importanc: there is no such nll card here, only importance (did you mean 'importance'?)",
        ),
        (
            ["--metric", "nll", "--estimator", "importance", "--num-samples", "7"],
            "--num-samples=7: there is no such nll card by importance here, only 100",
        ),
        (["--metric", "elbo", "--split", "val"], "--split=val: there is no such elbo card here, only test"),
        (["--force"], "--force goes with --metric NAME or --diff A B"),
        (["--num-samples", "7"], "--num-samples goes with --metric NAME, --diff A B or --rate-distortion"),
    ],
)
def test_a_wrong_word_is_one_message_and_exit_status_2(tmp_path, capsys, words, message):
    a_run(tmp_path, "a", [NLL, ELBO])
    assert answer(capsys, *words, tmp_path) == (2, "", f"vae-runs: {message}\n")


def test_no_run_is_no_error(tmp_path, capsys):
    assert answer(capsys, "--metric", "nll", tmp_path) == (0, f"No runs in {tmp_path}.\n", "")
    assert json.loads(answer(capsys, "--metric", "nll", "--json", tmp_path)[1])["blocks"] == []


def test_80_columns_hold_every_number_and_no_control_character(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    evil = {**PROTOCOL, "bina\x1b[2Jrize": "\x1b]0;t\x07"}
    card = dataclasses.replace(
        NLL, value=1234.56, se_images=10.25, se_mc=0.12, num_samples=5000, ess_median=4321.0, bits_per_dim=1.234,
        warning="\x1b[2Jlower bound", protocol=evil,
    )  # fmt: skip
    a_run(tmp_path, "2026-11-22_20-48-41_2eacaa", [card])
    a_run(tmp_path, "2026-11-22_20-49-59_2f9272", [dataclasses.replace(card, value=1200.0, warning=None)])
    status, out, _ = answer(capsys, "--metric", "nll", tmp_path)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    for text in ("1234.56", "± 10.25", "± 0.12", "5000", "4321", "1.234", "-100.00", "K", "ESS"):
        assert text in out
    assert "! 2026-11-22_20-48-41_2eacaa: �[2Jlower bound" in out
    assert "\x1b" not in out
    err = answer(capsys, "--metric", "n\x1bl", tmp_path)[2]
    assert "\x1b" not in err


def test_runs_of_one_name_are_told_apart(tmp_path, capsys):
    paths = [a_run(tmp_path / folder, "same", [NLL]) for folder in ("x", "y")]
    content = json.loads(answer(capsys, "--metric", "nll", "--json", *paths)[1])
    assert runs_of(content) == [sorted(map(str, paths))]


@pytest.mark.parametrize(
    "metric, order", [("lenet_fid", "ba"), ("lenet_kid", "ba"), ("precision", "ab"), ("recall", "ab"), ("probe_linear", "ab"), ("active_units", "ba")]
)  # fmt: skip
def test_which_direction_is_better_is_known_or_the_score_decides(tmp_path, capsys, metric, order):
    for name, value, score in (("a", 0.9, -2.0), ("b", 0.1, -1.0)):
        card = dataclasses.replace(NLL, metric=metric, value=value, units="share")
        on_val = dataclasses.replace(card, split="val", num_images=50)
        a_run(tmp_path, name, [card, on_val], val=score)
    content = json.loads(answer(capsys, "--metric", metric, "--split", "test", "--json", tmp_path)[1])
    assert runs_of(content) == [list(order)]
    ranked_by = content["blocks"][0]["ranked_by"]["name"]
    assert ranked_by == ("val/elbo" if metric == "active_units" else f"val {metric}")


def test_the_table_of_runs_has_a_group_for_each_protocol_of_what_it_shows(tmp_path, capsys):
    own = {**PROTOCOL, "threshold": 0.01}
    a_run(tmp_path, "a", [NLL, dataclasses.replace(NLL, metric="active_units", units="count", protocol=own)])
    status, out, _ = answer(capsys, tmp_path)
    assert (status, out.count("differs in"), "threshold" in out) == (0, 1, False)
