import json
import math

import numpy as np
import pytest

from recorded import PROTOCOL, a_run, card_of
from vaelab.commands.runs import main

IWAE = [90.0, 92.0, 97.0, 101.0]
AIS = [92.5, 89.0, 96.5]  # of the images 1, 0, 2


def measured(tmp_path, *evaluations):
    """A run with an importance-weighted estimate, and others of ``(values, index, changes of the card)``."""
    first = card_of(IWAE, checkpoint="w")
    cards = [
        first,
        *(card_of(values, **{"checkpoint": "w", **changes}) for values, _, changes in evaluations),
    ]
    run = a_run(tmp_path, "run", cards, log_px=-np.array(IWAE), index=np.arange(4))
    for i, (values, index, _) in enumerate(evaluations):
        folder = run / "evaluations" / f"other_{i}"
        folder.mkdir(parents=True)
        np.savez(folder / "per_image.npz", index=np.array(index), log_px=-np.array(values))
    return run


def by_ais(values=AIS, index=(1, 0, 2), **changes):
    annealing = {"num_steps": 100, "start": "posterior"}
    settings = {"protocol": {**PROTOCOL, "annealing": annealing}, "estimator": "ais", "num_samples": 16}
    return values, index, {**settings, **changes}


def answer(capsys, *words):
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_images_that_both_have_are_paired(tmp_path, capsys):
    run = measured(tmp_path, by_ais())
    status, out, _ = answer(capsys, "--bounds", run, "--json")
    (pair,) = json.loads(out)
    differences = [-1.0, 0.5, -0.5]
    assert (status, pair["num_images"]) == (0, 3)
    assert pair["difference"] == pytest.approx(-1 / 3)
    assert pair["se"] == pytest.approx(np.std(differences, ddof=1) / math.sqrt(3))
    assert pair["tighter"] is None
    assert "importance K=100" in answer(capsys, "--bounds", run)[1]


@pytest.mark.parametrize("shift, tighter", [(-3.0, "b"), (3.0, "a")])
def test_the_lower_bound_of_minus_log_p_is_the_tighter_one(tmp_path, capsys, shift, tighter):
    run = measured(tmp_path, by_ais([value + shift for value in AIS]))
    (pair,) = json.loads(answer(capsys, "--bounds", run, "--json")[1])
    assert abs(pair["difference"]) > 2 * pair["se"]
    assert pair["tighter"] is None, "three images say too little"
    rng = np.random.default_rng(0)
    values = 100 + 10 * rng.standard_normal(40)
    other = values + shift + rng.standard_normal(40)
    cards = [card_of(values, checkpoint="w"), card_of(other, checkpoint="w", **by_ais()[2])]
    many = a_run(tmp_path, "many", cards, log_px=-values, index=np.arange(40))
    (many / "evaluations" / "other").mkdir(parents=True)
    np.savez(many / "evaluations" / "other" / "per_image.npz", index=np.arange(40), log_px=-other)
    (pair,) = json.loads(answer(capsys, "--bounds", many, "--json")[1])
    assert pair["tighter"] == tighter


def test_settings_of_an_estimator_tell_its_estimates_apart(tmp_path, capsys):
    longer = {**PROTOCOL, "annealing": {"num_steps": 200, "start": "posterior"}}
    run = measured(tmp_path, by_ais(), by_ais([v - 0.1 for v in AIS], protocol=longer))
    assert len(json.loads(answer(capsys, "--bounds", run, "--json")[1])) == 3
    out = answer(capsys, "--bounds", run)[1]
    assert "num_steps=100" in out
    assert "num_steps=200" in out
    assert "start=" not in out, "what they share"


@pytest.mark.parametrize(
    "changes",
    [{"checkpoint": "other"}, {"split": "val"}, {"protocol": {**PROTOCOL, "binarize": "fixed"}}, {"split": "simulated"}],
)  # fmt: skip
def test_what_is_of_another_evidence_is_not_paired(tmp_path, capsys, changes):
    run = measured(tmp_path, by_ais(**changes))
    status, out, err = answer(capsys, "--bounds", run)
    assert (status, out) == (2, "")
    assert "no two estimates of log p(x)" in err


def test_one_run_is_asked_for(tmp_path, capsys):
    assert answer(capsys, "--bounds")[0] == 2
    assert answer(capsys, "--bounds", tmp_path)[0] == 2


def test_a_single_image_has_no_error_and_no_verdict(tmp_path, capsys):
    run = measured(tmp_path, by_ais([50.0, 60.0], [3, 7]))
    (pair,) = json.loads(answer(capsys, "--bounds", run, "--json")[1])
    assert (pair["num_images"], pair["difference"], pair["se"], pair["tighter"]) == (1, -51.0, None, None)
