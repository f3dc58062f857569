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
        "ess_median", "ess_min", "bits_per_dim", "warning", "protocol", "checkpoint", "seconds",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change, words",
    [
        ({"schema": 2}, "schema 1"),
        ({"cards": {}}, "schema 1"),
        ({"cards": [{**ELBO.to_dict(), "valeu": 1}]}, "unknown fields: valeu"),
        (
            {"cards": [{k: v for k, v in ELBO.to_dict().items() if k != "protocol"}]},
            "missing fields: protocol",
        ),
        ({"cards": [{**ELBO.to_dict(), "value": "many"}]}, "cannot be read"),
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


def test_what_a_file_holds_cannot_drive_the_terminal():
    evil = dataclasses.replace(ELBO, warning="\x1b[2Jgone [red]x[/red]", protocol={"label": "\x1b]0;t\x07"})
    text = shown([evil], 120, force_terminal=True, color_system=None)
    assert "\x1b[2J" not in text
    assert "\x1b]0" not in text
    assert "[red]x[/red]" in text
