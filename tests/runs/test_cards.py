import dataclasses
import io
import json

import pytest
from rich.console import Console

from vaelab.errors import SettingError
from vaelab.runs.cards import Card, comparable, read_cards, table, write_cards

PROTOCOL = {"data": "mnist", "binarize": "none", "likelihood": "bernoulli", "label": "grey-bce"}
ELBO = Card("elbo", -104.2049, 0.25, 0.01, "nats", "test", 10000, "elbo", 1, PROTOCOL, "ab" * 32, 1.2)
NLL = dataclasses.replace(
    ELBO, metric="nll", value=98.5, estimator="importance", num_samples=100, ess_median=12.5, ess_min=1.0,
    warning="effective sample size below 5 for 3.1 % of the images", protocol={**PROTOCOL, "label": "nll"},
)  # fmt: skip


def shown(cards, width, **options):
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False, **options).print(table(cards))
    return stream.getvalue()


def test_cards_read_back_equal_and_the_file_is_that_of_the_design(tmp_path):
    path = tmp_path / "evaluation.json"
    write_cards(path, [ELBO, dataclasses.replace(NLL, se_images=float("inf"))])
    assert read_cards(path) == [ELBO, dataclasses.replace(NLL, se_images=float("inf"))]
    content = json.loads(path.read_text())
    assert content["schema"] == 1
    assert set(content["cards"][0]) == {
        "metric", "value", "se_images", "se_mc", "units", "split", "num_images", "estimator", "num_samples",
        "ess_median", "ess_min", "acceptance", "bits_per_dim", "bias_hint", "curve", "kl", "floor", "seed", "warning", "protocol", "checkpoint", "seconds",
    }  # fmt: skip


CURVE = {"1": -101.2, "10": -98.4, "100": -97.12, "1000": -96.55, "5000": -96.31}


def test_the_k_curve_and_the_hint_read_back_and_older_files_have_neither(tmp_path):
    path = tmp_path / "evaluation.json"
    card = dataclasses.replace(NLL, bias_hint=0.031, curve={"1": float("-inf"), "100": -98.5})
    write_cards(path, [card])
    assert read_cards(path) == [card]
    older = {k: v for k, v in NLL.to_dict().items() if k not in ("bias_hint", "curve")}
    path.write_text(json.dumps({"schema": 1, "cards": [older]}))
    assert read_cards(path) == [NLL]


def test_the_table_shows_ess_and_the_k_curve_in_the_order_of_k_on_80_columns():
    card = dataclasses.replace(
        NLL, num_samples=5000, ess_median=4321.4, bits_per_dim=0.18, curve={"20": -98.0, **CURVE}
    )
    lines = shown([ELBO, card], 80).splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.split()[:1] == ["nll"])
    assert row.split()[-4:] == ["importance", "5000", "4321", "nll"]
    text = " ".join(" ".join(lines).split())
    assert "K-curve 1: -101.20 10: -98.40 20: -98.00 100: -97.12 1000: -96.55 5000: -96.31" in text
    (line,) = [
        x for x in shown([ELBO, dataclasses.replace(card, curve=CURVE)], 80).splitlines() if "K-curve" in x
    ]
    assert " ".join(line.split()) == "K-curve 1: -101.20 10: -98.40 100: -97.12 1000: -96.55 5000: -96.31"
    assert "ESS" not in shown([ELBO], 80)


def test_two_k_curves_say_whose_they_are():
    cards = [dataclasses.replace(NLL, num_samples=k, curve={"1": -101.0}) for k in (100, 5000)]
    text = shown(cards, 80)
    assert "K-curve (importance, K=100) 1: -101.00" in text
    assert "K-curve (importance, K=5000) 1: -101.00" in text


@pytest.mark.parametrize(
    "change, words",
    [
        ({"cards": [{**ELBO.to_dict(), "curve": [1.0]}]}, "curve is not a record"),
        ({"cards": [{**ELBO.to_dict(), "curve": {"many": 1.0}}]}, "curve is not a record"),
        ({"cards": [{**ELBO.to_dict(), "curve": {"1": "high"}}]}, "cannot be read"),
        ({"cards": [{**ELBO.to_dict(), "bias_hint": {}}]}, "cannot be read"),
        ({"schema": 2}, "schema 1"),
        ({"cards": {}}, "schema 1"),
        ({"cards": [{**ELBO.to_dict(), "valeu": 1}]}, "unknown fields: valeu"),
        (
            {"cards": [{k: v for k, v in ELBO.to_dict().items() if k != "protocol"}]},
            "missing fields: protocol",
        ),
        ({"cards": [{**ELBO.to_dict(), "value": "many"}]}, "cannot be read"),
        ({"cards": [{**ELBO.to_dict(), "units": []}]}, "units is not text"),
        ({"cards": [{**ELBO.to_dict(), "estimator": ["elbo"]}]}, "estimator is not text"),
        ({"cards": [{**ELBO.to_dict(), "warning": [1]}]}, "warning is not text"),
        ({"cards": ["x"]}, "cannot be read"),
    ],
)
def test_a_foreign_or_damaged_file_is_refused(tmp_path, change, words):
    (tmp_path / "evaluation.json").write_text(json.dumps({"schema": 1, "cards": [ELBO.to_dict()], **change}))
    with pytest.raises(SettingError, match=words):
        read_cards(tmp_path / "evaluation.json")


@pytest.mark.parametrize("name", ["metric", "units", "split", "num_images", "estimator", "num_samples"])
def test_comparable_names_each_field_that_differs(name):
    assert comparable(ELBO, dataclasses.replace(ELBO, **{name: 77})) == [name]


def test_comparable_looks_at_the_protocol_and_not_at_the_result():
    other = dataclasses.replace(
        ELBO, value=0.0, se_mc=9.0, checkpoint=None, seconds=0.0, warning="w", ess_min=2.0
    )
    assert comparable(ELBO, other) == []
    assert comparable(ELBO, dataclasses.replace(ELBO, protocol={**PROTOCOL, "extra": None})) == [
        "protocol.extra"
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_holds_the_number_with_its_errors_and_fits(width):
    text = shown([ELBO, dataclasses.replace(NLL, bits_per_dim=0.18)], width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if line.split()[:1] == ["elbo"])
    assert row.split() == ["elbo", "-104.20", "±", "0.25", "±", "0.01", "elbo", "1", "grey-bce"]
    assert "10000 images" in text
    assert "importance" in text
    assert "warning" in text
    assert "effective sample size below 5" in text
    assert "\x1b" not in text


def test_a_warning_that_several_numbers_share_is_said_once():
    warnings = {"a": "few", "b": "few", "c": None}
    cards = [dataclasses.replace(ELBO, metric=name, warning=text) for name, text in warnings.items()]
    assert "warning test a, test b: few" in shown(cards, 120)
    cards[2] = dataclasses.replace(cards[2], warning="few")
    assert "warning few" in shown(cards, 120)


def test_what_a_file_holds_cannot_drive_the_terminal():
    evil = dataclasses.replace(ELBO, warning="\x1b[2Jgone [red]x[/red]", protocol={"label": "\x1b]0;t\x07"})
    text = shown([evil], 120, force_terminal=True, color_system=None)
    assert "\x1b[2J" not in text
    assert "\x1b]0" not in text
    assert "[red]x[/red]" in text


def test_a_number_beside_its_floor_with_the_decimals_of_its_unit():
    share = dataclasses.replace(
        ELBO, metric="precision", value=0.68432, se_images=None, se_mc=0.0046, units="share", floor=0.9045,
        estimator="sample_quality", num_samples=10000, protocol={"data": "mnist"},
    )  # fmt: skip
    kernel = dataclasses.replace(
        share, metric="lenet_kid", value=0.00179, se_mc=None, units="distance", floor=0.0000123
    )
    count = dataclasses.replace(share, metric="active_units", value=23.0, units="count", floor=None)
    lines = shown([share, kernel], 80).splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.split()[:1] != []}
    assert rows["precision"][:6] == ["precision", "(share)", "0.6843", "0.9045", "±", "0.0046"]
    assert rows["lenet_kid"][:3] == ["lenet_kid", "0.00179", "0.00001"]
    (line,) = [x for x in shown([count], 80).splitlines() if "active_units" in x]
    assert line.split()[:2] == ["active_units", "23"], "the unit is in the heading"
    assert "label" not in rows["metric"]
    assert max(map(len, lines)) <= 80
    assert "floor" not in shown([ELBO], 80)
