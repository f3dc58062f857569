import dataclasses
import json
import math
import random
import shutil

import numpy as np
import pytest

from recorded import PROTOCOL, a_run, card_of
from vaelab.commands.runs import main
from vaelab.runs import comparable
from vaelab.runs.difference import compare
from vaelab.runs.per_image import per_image
from vaelab.runs.selection import Selection
from vaelab.runs.table import Row

A = np.array([90.0, 92.0, 97.0, 105.0])
B = np.array([91.0, 92.5, 99.0, 105.5])  # B - A = 1, 0.5, 2, 0.5
INDEX = np.arange(4.0)
NLL = card_of(A)


def answer(capsys, *words):
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def compared(capsys, *words):
    status, out, err = answer(capsys, "--json", "--diff", *words)
    assert status == 0, err
    return json.loads(out)


def test_the_paired_error_is_that_of_the_mean_difference(tmp_path, capsys):
    a = a_run(tmp_path, "a", [card_of(A)], index=INDEX, log_px=-A)
    order = [2, 0, 3, 1]  # the images stand in another order
    b = a_run(tmp_path, "b", [card_of(B)], index=INDEX[order], log_px=-B[order])
    (one,) = compared(capsys, a, b)["differences"]
    assert (one["metric"], one["paired"], one["reason"]) == ("nll", True, None)
    assert one["difference"] == pytest.approx(1.0, abs=1e-12)  # (1 + 0.5 + 2 + 0.5) / 4
    # deviations 0, -1/2, 1, -1/2: variance 1.5 / 3, and of the mean 0.5 / 4
    assert one["se"] == pytest.approx(math.sqrt(0.5 / 4), rel=1e-12)
    row = next(line for line in answer(capsys, "--diff", a, b)[1].splitlines() if line.split()[:1] == ["nll"])
    assert row.split() == ["nll", "importance", "100", "96.00", "97.00", "+1.00", "±", "0.35", "paired"]
    (back,) = compared(capsys, b, a)["differences"]
    assert (back["difference"], back["se"]) == (-one["difference"], one["se"])


OTHER_IMAGES = {"index": INDEX + 1, "log_px": -B}
TWICE = {"index": np.array([0.0, 1.0, 1.0, 3.0]), "log_px": -B}


@pytest.mark.parametrize(
    "columns, reason",
    [
        ({}, "B without per-image values of this number"),
        (OTHER_IMAGES, "A and B hold other images"),
        (TWICE, "B without per-image values of this number"),
        (
            {"index": INDEX, "log_px": -B - 1e-3},
            "B without per-image values of this number",
        ),  # of another card
        ({"index": INDEX, "elbo": B}, "B without per-image values of this number"),
        ({"index": INDEX[:3], "log_px": -B[:3]}, "B without per-image values of this number"),
        ({"index": INDEX, "log_px": np.stack([-B, -B], axis=1)}, "B without per-image values of this number"),
    ],
)
def test_without_the_same_images_the_error_is_that_of_two_sets(tmp_path, capsys, columns, reason):
    a = a_run(tmp_path, "a", [card_of(A)], index=INDEX, log_px=-A)
    b = a_run(tmp_path, "b", [card_of(B)], **columns)
    (one,) = compared(capsys, a, b)["differences"]
    assert (one["paired"], one["reason"]) == (False, reason)
    assert one["difference"] == pytest.approx(1.0, abs=1e-12)
    assert one["se"] == pytest.approx(math.sqrt(np.var(A, ddof=1) / 4 + np.var(B, ddof=1) / 4), rel=1e-12)
    out = answer(capsys, "--diff", a, b)[1]
    assert "unpaired" in out
    assert reason in " ".join(out.split())


def test_a_later_measurement_has_its_values_in_a_file_of_its_own(tmp_path):
    """The card was replaced; ``per_image.npz`` still holds the values of the first measurement."""
    run = a_run(tmp_path, "a", [card_of(B)], index=INDEX, log_px=-A)
    assert per_image(run, card_of(B)) is None
    folder = run / "evaluations" / "2026-11-22"
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "per_image.npz", index=INDEX, log_px=-B)
    found = per_image(run, card_of(B))
    assert found is not None
    np.testing.assert_array_equal(found[1], B)
    first = per_image(run, card_of(A))
    assert first is not None
    np.testing.assert_array_equal(first[1], A)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"{}", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_holds_no_values(tmp_path, content):
    run = a_run(tmp_path, "a", [card_of(A)])
    (run / "per_image.npz").write_bytes(content)
    assert per_image(run, card_of(A)) is None
    with (run / "per_image.npz").open("wb") as file:
        np.save(file, A)
    assert per_image(run, card_of(A)) is None


def test_a_number_without_an_error_has_a_difference_without_one(tmp_path, capsys):
    paths = [
        a_run(tmp_path, name, [dataclasses.replace(NLL, metric="active_units", units="units", value=v, se_images=None)])
        for name, v in (("a", 5.0), ("b", 7.0))
    ]  # fmt: skip
    (one,) = compared(capsys, *paths)["differences"]
    assert (one["difference"], one["se"], one["paired"]) == (2.0, None, False)
    assert "±" not in answer(capsys, "--diff", *paths)[1].replace("± images", "")


STATIC = {**PROTOCOL, "binarize": "none"}


@pytest.mark.parametrize(
    "change, named",
    [
        ({"metric": "elbo"}, "metric: nll (A) against elbo (B)"),
        ({"units": "bits"}, "units: nats (A) against bits (B)"),
        ({"split": "val"}, "split: test (A) against val (B)"),
        ({"num_images": 5}, "num_images: 4 (A) against 5 (B)"),
        ({"estimator": "ais"}, "estimator: importance (A) against ais (B)"),
        ({"num_samples": 5000}, "num_samples: 100 (A) against 5000 (B)"),
        ({"protocol": STATIC}, "protocol.binarize: dynamic (A) against none (B)"),
        ({"protocol": {**PROTOCOL, "noise_seed": None}}, "protocol.noise_seed: 0 (A) against null (B)"),
        ({"protocol": {**PROTOCOL, "given": "y"}}, "protocol.given: absent (A) against y (B)"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name_and_shown_apart_by_force(tmp_path, capsys, change, named):
    other = dataclasses.replace(NLL, **{"value": 1234.5, **change})
    a, b = a_run(tmp_path, "a", [NLL]), a_run(tmp_path, "b", [other])
    status, out, err = answer(capsys, "--diff", a, b)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert named in err
    assert err.count("(A) against") == 1
    assert "--force shows them in separate blocks" in err
    assert answer(capsys, "--diff", a, b, "--json")[0] == 2

    status, out, err = answer(capsys, "--diff", a, b, "--force")
    assert (status, err) == (0, "")
    assert "B - A" not in out
    difference = 1234.5 - NLL.value
    assert f"{difference:.2f}" not in out
    assert "1234.50" in out
    assert "96.00" in out
    assert "number card of A" in out
    assert "number card of B" in out
    content = json.loads(answer(capsys, "--diff", a, b, "--force", "--json")[1])
    assert content["differences"] == []
    assert [one["card"]["value"] for one in content["not_compared"]] == [96.0, 1234.5]


def test_some_can_be_compared_and_the_others_are_named_without_their_values(tmp_path, capsys):
    extra = dataclasses.replace(NLL, num_samples=5000, value=777.25)
    elbo = dataclasses.replace(NLL, metric="elbo", estimator="elbo", num_samples=1, value=-888.25)
    a, b = a_run(tmp_path, "a", [NLL, extra]), a_run(tmp_path, "b", [elbo, card_of(B)])
    status, out, _ = answer(capsys, "--diff", a, b)
    assert status == 0
    assert "A: test nll by importance, K=5000: differs in num_samples" in out
    assert "B: test elbo by elbo, K=1: no such number in the other run" in out
    assert "777.25" not in out
    assert "888.25" not in out
    content = compared(capsys, a, b)
    assert [one["metric"] for one in content["differences"]] == ["nll"]
    assert [(one["run"], one["num_samples"], "card" in one) for one in content["not_compared"]] == [
        ("a", 5000, False),
        ("b", 1, False),
    ]
    forced = answer(capsys, "--diff", a, b, "--force")[1]
    assert "777.25" in forced
    assert "A: num_samples=5000" in forced
    assert "B: no such number in A" in forced
    # asked for what B has none of: there is nothing to refuse
    assert answer(capsys, "--diff", a, b, "--num-samples", 5000)[0] == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_difference_is_only_ever_given_of_cards_that_can_be_compared(tmp_path, seed):
    draw = random.Random(seed)

    def cards():
        return [
            dataclasses.replace(
                NLL,
                value=draw.uniform(80, 100),
                metric=draw.choice(["nll", "elbo"]),
                estimator=draw.choice(["importance", "ais"]),
                num_samples=draw.choice([1, 5]),
                split=draw.choice(["test", "val"]),
                protocol={**PROTOCOL, "binarize": draw.choice(["none", "fixed"])},
            )
            for _ in range(draw.randint(1, 6))
        ]

    a, b = (Row(tmp_path / name, name, "completed", cards=tuple(cards())) for name in "ab")
    result = compare(a, b, Selection(), force=True)
    for one in result.differences:
        assert comparable(one.a, one.b) == []
        assert one.value == one.b.value - one.a.value
    # each card stands in one place, and none is left apart that has a free partner
    pairs = len(result.differences)
    assert 2 * pairs + len(result.alone) == len(a.cards) + len(b.cards)
    left = {name: [one.card for one in result.alone if one.run == name] for name in "AB"}
    assert all(comparable(x, y) for x in left["A"] for y in left["B"])


def test_settings_that_differ_are_listed_and_places_are_not(tmp_path, capsys):
    shared = {"optimizer": {"lr": 0.001, "betas": [0.9, 0.999]}, "name": "vae"}
    a = a_run(
        tmp_path, "a", [NLL], config={**shared, "paths": {"log_dir": "x"}, "latent_dim": 2, "objective": {"beta": None}}
    )  # fmt: skip
    b = a_run(
        tmp_path, "b", [NLL], config={**shared, "paths": {"log_dir": "y"}, "latent_dim": "2", "prior": {"k": True}}
    )  # fmt: skip
    assert compared(capsys, a, b)["settings"] == {
        "latent_dim": {"a": 2, "b": "2"},
        "objective.beta": {"a": None},
        "prior.k": {"b": True},
    }
    lines = [line.split() for line in answer(capsys, "--diff", a, b)[1].splitlines()]
    assert ["objective.beta", "null", "absent"] in lines
    assert ["prior.k", "absent", "true"] in lines
    assert ["latent_dim", "2", "'2'"] in lines
    twin = tmp_path / "twin"
    shutil.copytree(a, twin)
    assert "no setting differs" in answer(capsys, "--diff", a, twin)[1]


def test_code_and_environment_that_differ_are_shown(tmp_path, capsys):
    a, b = a_run(tmp_path, "a", [NLL]), a_run(tmp_path, "b", [NLL])
    assert compared(capsys, a, b)["environment"] == []
    assert "code and environment are the same" in answer(capsys, "--diff", a, b)[1]
    manifest = json.loads((b / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    manifest["threads"] = 7
    (b / "manifest.json").write_text(json.dumps(manifest))
    rows = {row["what"]: (row["b"], row["drift"]) for row in compared(capsys, a, b)["environment"]}
    assert rows == {"torch": ("1.0", "different"), "threads": ("7", "compatible")}
    assert "torch" in answer(capsys, "--diff", a, b)[1]
    (b / "manifest.json").unlink()
    assert compared(capsys, a, b)["environment"] is None


def test_one_run_is_not_compared_with_itself(tmp_path, capsys):
    a = a_run(tmp_path, "a", [NLL])
    status, out, err = answer(capsys, "--diff", a, a / ".." / "a")
    assert (status, out) == (2, "")
    assert "is one run twice" in err


def test_a_run_without_numbers_still_has_settings(tmp_path, capsys):
    a, b = a_run(tmp_path, "a", [NLL]), a_run(tmp_path, "b", None, config={"latent_dim": 3})
    status, out, _ = answer(capsys, "--diff", a, b)
    assert status == 0
    assert "B holds no number card" in out
    assert "latent_dim" in out
    (b / "config.yaml").write_text("{")
    out = answer(capsys, "--diff", a, b)[1]
    assert "config.yaml: unreadable" in out
    assert "the settings cannot be compared" in out


def test_what_is_no_run_and_a_third_run_are_refused(tmp_path, capsys):
    a, b = a_run(tmp_path, "run-one", [NLL]), a_run(tmp_path, "run-two", [NLL])
    status, _, err = answer(capsys, "--diff", a, tmp_path / "run-tow")
    assert status == 2
    assert f"did you mean '{b}'?" in err
    status, _, err = answer(capsys, "--diff", a, b, a)
    assert (status, err) == (2, f"vae-runs: --diff takes two runs, and {a} is another one\n")
    status, _, err = answer(capsys, "--diff", a, b, "--metric", "nl")
    assert status == 2
    assert "did you mean 'nll'?" in err


def test_80_columns_hold_every_number_and_no_control_character(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rng = np.random.default_rng(0)
    base = 1000 + 300 * rng.standard_normal(200)
    index = np.arange(200.0)
    cards, columns = [], []
    for shift in (0.0, 1e-2):
        values = base + shift * rng.standard_normal(200)
        card = card_of(
            values,
            metric="distortion",
            num_samples=5000,
            warning="\x1b[2Jlower",
            protocol={"x\x1b": "\x1b[0m"},
        )
        cards.append(card)
        columns.append(values)
    a, b = (
        a_run(tmp_path, f"2026-11-22_20-48-41_2eaca{i}", [cards[i]], config={"x\x1b[1m" * 30: "\x1b" * i},
              index=index, distortion=columns[i])
        for i in (0, 1)
    )  # fmt: skip
    status, out, _ = answer(capsys, "--diff", a, b)
    assert status == 0
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    assert "\x1b" not in out
    row = next(line for line in out.splitlines() if line.startswith(" distortion")).split()
    spread = float(np.std(columns[1] - columns[0], ddof=1)) / math.sqrt(200)
    assert row[:3] == ["distortion", "importance", "5000"]
    assert row[6:] == ["±", f"{spread:.4f}", "paired", "!"]
    # said once of both
    warning = "! A distortion by importance K=5000, B distortion by importance K=5000: �[2Jlower"
    assert warning in " ".join(out.split())


def test_the_refusal_names_the_fields_of_the_two_most_similar_cards_of_each_metric(tmp_path, capsys):
    far = dataclasses.replace(NLL, estimator="ais", num_samples=64, protocol=STATIC)
    near = dataclasses.replace(NLL, num_samples=5000)
    elbo = dataclasses.replace(NLL, metric="elbo", estimator="elbo", num_samples=1)
    other = dataclasses.replace(elbo, protocol={**PROTOCOL, "likelihood": "beta"})
    a, b = a_run(tmp_path, "a", [NLL, elbo]), a_run(tmp_path, "b", [far, near, other])
    err = answer(capsys, "--diff", a, b)[2]
    assert (
        "num_samples: 100 (A) against 5000 (B), protocol.likelihood: bernoulli (A) against beta (B);" in err
    )
    assert err.count("(A) against") == 2
