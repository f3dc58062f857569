"""Whether a training is the same twice; if not, the settings to blame are found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from vaelab.errors import RunFailed
from vaelab.experiments.doctor.finding import Finding, Status
from vaelab.experiments.doctor.repeatability import (
    Attempt,
    Change,
    Outcome,
    changes,
    in_child,
    repeatability,
    weights_digest,
)
from vaelab.runs.record import Record

Compose = Callable[..., dict[str, Any]]
CONFIG = {"trainer": {"precision": "bf16-mixed", "deterministic": None}, "engine": {"kind": "fast"}}
EXACT = Change("trainer.precision=bf16-mixed", "trainer.precision=32-true", {"trainer": {"precision": "32-true"}})  # fmt: skip
SURE = Change("trainer.deterministic=null", "trainer.deterministic=true", {"trainer": {"deterministic": True}})  # fmt: skip
ALONE = Change("2 threads", "OMP_NUM_THREADS=1", variables={"OMP_NUM_THREADS": "1"})
USUAL = Change("engine.kind=fast", "engine=eager", {"engine": {"chunk_steps": 50}}, replaces=True)
ALL = (EXACT, SURE, ALONE, USUAL)


class Machine:
    """Carries out three steps; the third loss, or else the weights, are others every time unless an attempt is ``steady``."""

    def __init__(self, steady: Callable[[Attempt], bool], of_weights: bool = False) -> None:
        self.steady, self.of_weights = steady, of_weights
        self.attempts: list[Attempt] = []
        self.said: list[str] = []

    def run(self, attempt: Attempt) -> Outcome:
        self.attempts.append(attempt)
        noise = 0.0 if self.steady(attempt) else 1e-7 * len(self.attempts)
        weights = f"digest {noise}" if self.of_weights else "digest"
        losses = {1: 3.0, 2: 2.0, 3: 1.0 + (0.0 if self.of_weights else noise)}
        return Outcome(Record(Path(), None, {"weights": weights}, attempt.config, losses), 12.34)

    def examine(self, *tried: Change) -> Finding:
        return repeatability(Attempt(CONFIG), tried, self.run, self.said.append)


def test_the_same_twice_takes_two_runs() -> None:
    machine = Machine(lambda attempt: True)
    found = machine.examine(*ALL)
    assert (found.status, found.is_difference, found.advice) == (Status.OK, False, None)
    assert (
        found.found
        == "3 steps twice: losses and final weights are the same bit for bit (loss 3 -> 1); 12.3 ms a step"
    )
    assert [attempt.config for attempt in machine.attempts] == [CONFIG, CONFIG]
    assert machine.said == ["run 1 of 2", "run 2 of 2"]


def test_the_setting_to_blame_is_named() -> None:
    machine = Machine(lambda attempt: attempt.config["trainer"]["precision"] == "32-true")
    found = machine.examine(*ALL)
    assert (found.status, found.is_difference) == (Status.WRONG, True)
    assert found.found.startswith("3 steps twice: not the same from step 3 on, where the loss is 1.0000001 and 1.0000002")  # fmt: skip
    assert (
        found.advice
        == "trainer.precision=bf16-mixed breaks it: with trainer.precision=32-true it is the same bit for bit"
    )
    assert len(machine.attempts) == 2 + 2 * len(ALL)
    assert machine.said[2] == "not the same; run 3 of 10, with trainer.precision=32-true"


def test_each_change_is_tried_alone_and_all_that_help_are_named() -> None:
    machine = Machine(
        lambda attempt: "OMP_NUM_THREADS" in attempt.variables or attempt.config["engine"] == {"chunk_steps": 50}
    )  # fmt: skip
    found = machine.examine(*ALL)
    assert found.advice is not None
    assert [line.split(" breaks")[0] for line in found.advice.splitlines()] == ["2 threads", "engine.kind=fast"]  # fmt: skip
    tried = [(attempt.config, dict(attempt.variables)) for attempt in machine.attempts[2::2]]
    assert tried == [
        ({**CONFIG, "trainer": {**CONFIG["trainer"], "precision": "32-true"}}, {}),
        ({**CONFIG, "trainer": {**CONFIG["trainer"], "deterministic": True}}, {}),
        (CONFIG, {"OMP_NUM_THREADS": "1"}),
        ({**CONFIG, "engine": {"chunk_steps": 50}}, {}),
    ]


def test_where_none_is_enough_all_are_tried_together() -> None:
    machine = Machine(
        lambda attempt: attempt.config["trainer"] == {"precision": "32-true", "deterministic": True}
    )
    found = machine.examine(EXACT, SURE)
    assert found.advice == "none of trainer.precision=32-true, trainer.deterministic=true is enough alone; all of them together make it the same bit for bit"  # fmt: skip
    assert machine.said[-1] == "not the same; run 8 of 8, with trainer.precision=32-true trainer.deterministic=true"  # fmt: skip


def test_where_nothing_helps_it_says_so() -> None:
    machine = Machine(lambda attempt: False)
    found = machine.examine(EXACT, SURE)
    assert len(machine.attempts) == 8
    assert found.advice is not None
    assert found.advice.startswith("with trainer.precision=32-true, trainer.deterministic=true, alone or together it is not the same either")  # fmt: skip
    only = Machine(lambda attempt: False).examine(SURE)
    assert only.advice is not None
    assert only.advice.startswith("with trainer.deterministic=true it is not the same either")
    assert "no setting is at a value" in (Machine(lambda attempt: False).examine().advice or "")


def test_weights_count_where_the_losses_are_the_same() -> None:
    found = Machine(lambda attempt: False, of_weights=True).examine()
    assert (found.status, found.found) == (
        Status.WRONG,
        "3 steps twice: the losses are the same, and the final weights are not",
    )


def test_a_change_that_does_not_run_is_said_and_the_search_goes_on() -> None:
    machine = Machine(lambda attempt: attempt.config["trainer"]["precision"] == "32-true")

    def run(attempt: Attempt) -> Outcome:
        if attempt.config["trainer"]["deterministic"]:
            raise RunFailed("no deterministic kernel")
        return machine.run(attempt)

    advice = repeatability(Attempt(CONFIG), [SURE, EXACT], run, lambda text: None).advice
    assert advice is not None
    assert advice.splitlines() == [
        "trainer.precision=bf16-mixed breaks it: with trainer.precision=32-true it is the same bit for bit",
        "with trainer.deterministic=true it does not run: no deterministic kernel",
    ]


def test_a_training_that_does_not_run_at_all_is_no_difference() -> None:
    def run(attempt: Attempt) -> Outcome:
        raise RunFailed("it burns")

    with pytest.raises(RunFailed, match="it burns"):
        repeatability(Attempt(CONFIG), ALL, run, lambda text: None)


def test_only_what_has_another_value_is_to_blame(compose: Compose) -> None:
    def typed(threads: int, *overrides: str) -> dict[str, str]:
        config = compose(*overrides)
        found = changes(config, threads, ("eager", compose()["engine"]))
        return {change.typed: change.given for change in found}

    assert typed(1, "trainer.deterministic=true") == {}
    assert typed(2) == {
        "trainer.deterministic=true": "trainer.deterministic=null",
        "OMP_NUM_THREADS=1": "2 threads",
    }
    assert typed(
        1, "trainer.deterministic=true", "trainer.precision=bf16-mixed", "trainer=ddp_cpu", "engine.chunk_steps=7"
    ) == {
        "trainer.precision=32-true": "trainer.precision=bf16-mixed",
        "trainer.devices=1 trainer.strategy=auto": "trainer.devices=2 trainer.strategy=ddp_fork",
        "engine=eager": "engine.chunk_steps=7",
    }  # fmt: skip


def test_a_change_leaves_what_it_is_made_from(compose: Compose) -> None:
    config = compose("trainer.precision=bf16-mixed")
    attempt = Attempt(config)
    (change,) = changes({**config, "trainer": {**config["trainer"], "deterministic": True}}, 1, ("eager", config["engine"]))  # fmt: skip
    changed = attempt.changed(change).config
    assert changed == compose()
    assert config["trainer"]["precision"] == "bf16-mixed"


def test_the_digest_of_weights_is_of_names_shapes_and_bits() -> None:
    weights = {"a": torch.zeros(2, 3), "b": torch.tensor(1.0, dtype=torch.bfloat16)}
    digest = weights_digest(weights)
    assert digest == weights_digest(dict(reversed(weights.items())))
    assert digest != weights_digest({**weights, "a": torch.zeros(3, 2)})
    assert digest != weights_digest({**weights, "a": -torch.zeros(2, 3)})
    assert digest != weights_digest({"c": weights["a"], "b": weights["b"]})


def test_a_child_carries_out_the_first_steps_of_the_whole_training(compose: Compose, tmp_path: Path) -> None:
    config = compose("data=digits", "latent_dim=2", "encoder.hidden=[4]", "decoder.hidden=[4]", "trainer=cpu",
                     "optimizer.schedule=cosine", "logger=csv", "trainer.max_epochs=3")  # fmt: skip
    outcome = in_child(20, tmp_path)(Attempt(config))
    assert [*outcome.record.fingerprint] == [*range(1, 21)]
    assert outcome.record.weights is not None
    assert outcome.milliseconds > 0
    (rates,) = tmp_path.glob("1/run/metrics.csv")
    rate = rates.read_text().splitlines()
    column = rate[0].split(",").index("optim/lr")
    assert float(rate[-1].split(",")[column]) == pytest.approx(1e-3, rel=0.03), (
        "cosine over 225 steps, not 20"
    )
    assert not list(tmp_path.glob("1/run/csv")), "no logger"
    assert config["logger"]["name"] == "csv"


def test_a_child_that_fails_says_why(compose: Compose, tmp_path: Path) -> None:
    config = compose("data=digits", "latent_dim=-1")
    with pytest.raises(RunFailed, match=r"^latent_dim=-1"):
        in_child(3, tmp_path)(Attempt(config))


NOISY = """
    import os

    import torch

    from vaelab.networks import MLPEncoder


    class Noisy(MLPEncoder):
        def forward(self, x, context=None):
            h = super().forward(x, context)
            if torch.are_deterministic_algorithms_enabled():
                return h
            return h + int.from_bytes(os.urandom(2), "big") / 2**20
    """


@pytest.mark.slow
def test_doctor_in_real_processes_names_the_setting_that_breaks_equality(tmp_path: Path) -> None:
    """An installed package's encoder that makes random numbers of its own, unless it is asked not to."""
    package = tmp_path / "site"
    (package / "noisy-1.0.dist-info").mkdir(parents=True)
    (package / "noisy.py").write_text(dedent(NOISY))
    (package / "noisy-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: noisy\nVersion: 1.0\n"
    )
    (package / "noisy-1.0.dist-info" / "entry_points.txt").write_text(
        "[vaelab.components]\nnoisy.Noisy = noisy:Noisy\n"
    )
    script = Path(sys.executable).parent / "vae-doctor"
    typed = [
        "--json",
        "data=digits",
        "debug=fast",
        "logger=none",
        "trainer=cpu",
        "encoder._target_=noisy.Noisy",
    ]

    def doctor(*more: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [script, *typed, *more], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(package)},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        (found,) = (f for f in json.loads(done.stdout)["findings"] if f["name"] == "repeatability")
        return done.returncode, found

    status, found = doctor()
    assert (status, found["status"]) == (3, "wrong")
    assert found["found"].startswith("3 steps twice: not the same from step 1 on")
    assert found["advice"] == "trainer.deterministic=null breaks it: with trainer.deterministic=true it is the same bit for bit"  # fmt: skip
    status, found = doctor("trainer.deterministic=true")
    assert (status, found["status"]) == (0, "ok")
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
