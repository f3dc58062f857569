"""What is said of a run that was made again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from vaelab.errors import SettingError
from vaelab.runs import Card, MetricsWriter, RunDirectory, read_json, write_cards, write_json, write_yaml
from vaelab.runs.record import TRACKER_CONFIG, TRACKER_MANIFEST, Record
from vaelab.runs.verdict import Agreement, judge, tolerance

STEPS = (*range(1, 21), 100, 200, 300)
CARD = Card("elbo", -100.0, 0.3, 0.01, "nats", "test", 50, "elbo", 1, {"binarize": "none"}, None, 1.0)


def run(folder: Path, change: dict[int, float] | None = None, **more: Any) -> RunDirectory:
    """A run whose loss of step s is 100 + s, but for the factors of ``change``."""
    made = RunDirectory.create(folder)
    losses = {step: (100.0 + step) * (change or {}).get(step, 1.0) for step in more.get("steps", STEPS)}
    with MetricsWriter(made.fingerprint_file) as writer:
        for step, loss in losses.items():
            writer.append(step, {"loss": loss})
    rates = more.get("rates", {50: 1e-3, 250: 1e-3, 300: 1e-4})
    with MetricsWriter(made.metrics_file) as writer:
        for step in sorted({*losses, *rates}):
            values = {"train/loss": losses.get(step), "optim/lr": rates.get(step)}
            logged = {key: value for key, value in values.items() if value is not None}
            writer.append(step, {**logged, "time/seconds": hash(folder) % 1000})
    write_cards(made.evaluation_file, more.get("cards", [CARD]))
    needed = {"data": {}, "device": {}, "threads": 1, "precision": "32-true", "git": None, "tracker": None}
    manifest = {
        "schema": 2, "status": more.get("status", "completed"), "weights": more.get("weights", "abc"), **needed,
    }  # fmt: skip
    write_json(made.manifest_file, manifest)
    write_yaml(made.config_file, {"seed": 1})
    return made


def verdict(a: RunDirectory, b: RunDirectory, steps: int | None = None) -> Any:
    return judge(Record.open(a.path), Record.open(b.path), steps)


def test_cards_that_a_later_evaluation_replaced_are_those_of_the_training_still(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    for made in (a, b):
        write_json(made.manifest_file, {**read_json(made.manifest_file), "cards": [CARD.to_dict()]})
    write_cards(a.evaluation_file, [dataclasses.replace(CARD, value=-100.001, se_mc=0.001, seed=7)])
    found = verdict(a, b)
    assert (str(found), found.lines) == ("bitwise", ())
    assert "cards test/elbo" in found.compared


@pytest.mark.parametrize("name", ["status", "device", "threads", "git"])
def test_a_manifest_that_lacks_something_is_refused_by_name(tmp_path: Path, name: str) -> None:
    made = run(tmp_path / "a")
    content = read_json(made.manifest_file)
    for damaged in ({k: v for k, v in content.items() if k != name}, {**content, name: 3.5}):
        write_json(made.manifest_file, damaged)
        with pytest.raises(SettingError, match=f"lacks {name}, or holds something else there"):
            Record.open(made.path)


def test_a_fingerprint_without_losses_is_refused(tmp_path: Path) -> None:
    made = run(tmp_path / "a")
    made.fingerprint_file.write_text("step,other\n1,2.0\n")
    with pytest.raises(SettingError, match="has steps without a loss"):
        Record.open(made.path)


def test_losses_of_the_first_steps_are_no_more_than_that(tmp_path: Path) -> None:
    found = verdict(run(tmp_path / "a"), run(tmp_path / "b", {200: 1.2, 300: 1.2}), steps=150)
    assert str(found) == "bitwise up to step 100"


def test_the_same_bits(tmp_path: Path) -> None:
    found = verdict(run(tmp_path / "a"), run(tmp_path / "b"))
    assert (str(found), found.lines, found.largest, found.first) == ("bitwise", (), 0.0, None)
    assert found.last == 300
    assert found.compared[0] == "23 losses up to step 300"
    assert found.not_compared == ()


@pytest.mark.parametrize(
    "change, said",
    [
        ({1: 1 + 1e-4}, "diverged between steps 0 and 1"),
        ({2: 1 + 1e-5}, "diverged between steps 1 and 2"),
        ({100: 1.01}, "diverged between steps 20 and 100"),
        ({100: 1.2}, "diverged between steps 20 and 100"),
        ({200: 1.2, 300: 1.2}, "diverged between steps 100 and 200"),
        ({2: 1 + 1e-7, 300: float("nan")}, "diverged between steps 200 and 300"),
        ({2: 1 + 1e-7}, "within tolerance"),
        ({2: 1 + 1e-7, 100: 1 + 1e-3, 300: 0.98}, "within tolerance"),
    ],
)
def test_the_step_from_which_it_is_another_run(tmp_path: Path, change: dict[int, float], said: str) -> None:
    found = verdict(run(tmp_path / "a"), run(tmp_path / "b", change))
    assert str(found) == said
    assert found.agreement is not Agreement.BITWISE
    assert any(line.startswith("metrics: train/loss") for line in found.lines)


def test_rounding_may_grow_but_not_begin_large() -> None:
    assert [tolerance(step) for step in (1, 11)] == [2e-6, 4e-6]
    assert tolerance(1000) == tolerance(10**9) == 0.05


def test_a_loss_of_nan_is_itself(tmp_path: Path) -> None:
    a, b = (run(tmp_path / name, {300: float("nan")}) for name in "ab")
    assert str(verdict(a, b)) == "bitwise"


def test_a_loss_near_zero_is_no_scale(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", {200: 1e-6}), run(tmp_path / "b", {200: 2e-6})
    assert str(verdict(a, b)) == "within tolerance"


def test_a_run_that_ended_earlier_diverged_where_it_ended(tmp_path: Path) -> None:
    found = verdict(run(tmp_path / "a"), run(tmp_path / "b", steps=STEPS[:-2]))
    assert str(found) == "diverged between steps 100 and 200"


def test_numbers_beside_the_losses_count(tmp_path: Path) -> None:
    a = run(tmp_path / "a")
    near, far = (dataclasses.replace(CARD, value=value) for value in (-100.5, -103.0))
    assert str(verdict(a, run(tmp_path / "b", cards=[near]))) == "within tolerance"
    found = verdict(a, run(tmp_path / "c", cards=[far]))
    assert str(found) == "diverged in other numbers than the losses up to step 300"
    assert found.lines == ("cards: test/elbo value is -100.0 and -103.0",)
    found = verdict(a, run(tmp_path / "d", weights="def"))
    assert (str(found), found.lines) == ("within tolerance", ("weights: SHA-256 is 'abc' and 'def'",))


def test_another_learning_rate_is_no_rounding(tmp_path: Path) -> None:
    """Not even where the losses differ by as little as they would by rounding."""
    a = run(tmp_path / "a")
    b = run(tmp_path / "b", rates={50: 1e-3, 250: 1.001e-3, 300: 1e-4})
    assert str(verdict(a, b)) == "diverged between steps 50 and 250"
    c = run(tmp_path / "c", rates={50: 1e-3, 250: 1e-3 * (1 + 1e-9), 300: 1e-4})
    assert str(verdict(a, c)) == "within tolerance"


def test_what_was_measured_later_is_none_of_the_training(tmp_path: Path) -> None:
    later = dataclasses.replace(CARD, value=-98.0, num_samples=5000, estimator="importance", metric="nll")
    found = verdict(run(tmp_path / "a", cards=[later, CARD]), run(tmp_path / "b"))
    assert (str(found), found.not_compared) == ("bitwise", ())
    found = verdict(run(tmp_path / "c", cards=[later]), run(tmp_path / "d"))
    assert found.not_compared == ("card test/elbo (it was measured otherwise)",)


def test_up_to_a_step_the_losses_alone_count(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b", {200: 1.5}, weights="def", cards=[])
    found = verdict(a, b, 150)
    assert (str(found), found.compared) == ("bitwise up to step 100", ("21 losses up to step 100",))
    assert str(verdict(a, b, 200)) == "diverged between steps 100 and 200"


@pytest.mark.parametrize("below", ["", "files"])
def test_the_files_of_a_tracker_hold_a_record(tmp_path: Path, below: str) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    folder = tmp_path / "offline-run-1" / below
    folder.mkdir(parents=True)
    manifest = json.loads(a.manifest_file.read_text())
    manifest["fingerprint"] = {"step": [1, 100], "loss": [101.0, 200.0]}
    write_json(folder / TRACKER_MANIFEST, manifest)
    write_yaml(folder / TRACKER_CONFIG, {"seed": 7})
    record = Record.open(tmp_path / "offline-run-1")
    assert (record.run, record.config, record.path) == (None, {"seed": 7}, folder)
    both = dataclasses.replace(Record.open(b.path), fingerprint={1: 101.0, 100: 200.0})
    found = judge(record, both)
    assert (str(found), found.not_compared) == ("bitwise", ("metrics", "cards"))
    assert found.compared == ("2 losses up to step 100", "SHA-256 of the weights")
    assert str(judge(record, dataclasses.replace(both, fingerprint={1: 101.0, 100: 300.0}))) == "diverged between steps 1 and 100"  # fmt: skip


def test_a_damaged_fingerprint_is_refused(tmp_path: Path) -> None:
    made = run(tmp_path)
    made.fingerprint_file.unlink()
    manifest = json.loads(made.manifest_file.read_text())
    write_json(made.manifest_file, {**manifest, "fingerprint": {"step": [1], "loss": []}})
    with pytest.raises(SettingError, match="cannot be read in the manifest"):
        Record.open(made.path)


def test_a_link_among_the_files_of_a_tracker_is_not_followed(tmp_path: Path) -> None:
    made = run(tmp_path / "a")
    folder = tmp_path / "files"
    folder.mkdir()
    write_yaml(folder / TRACKER_CONFIG, {"seed": 7})
    (folder / TRACKER_MANIFEST).symlink_to(made.manifest_file)
    with pytest.raises(SettingError, match="is a link"):
        Record.open(folder)
