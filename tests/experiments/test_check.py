"""Configurations of runs that earlier versions made."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vaelab.experiments.check import ADDED, CHOICES, INTEGERS, INTEGERS_OR_NULL, accepted, check_settings

Compose = Callable[..., dict[str, Any]]
#: settings that every run has had, of those that have to be given
FIRST = {
    "checkpoints.every_n_steps",
    "data.fallback",
    "engine.chunk_steps",
    "latent_dim",
    "optimizer.accumulate",
    "score.mode",
    "trainer.check_val_every_n_epoch",
    "trainer.deterministic",
    "trainer.enable_progress_bar",
    "trainer.limit_train_batches",
    "trainer.log_every_n_steps",
    "trainer.val_check_interval",
}


@pytest.mark.parametrize("added", [*ADDED, "sweep"])
def test_a_run_that_has_not_got_a_setting_of_later_is_read_as_it_was(compose: Compose, added: str) -> None:
    config = compose("data=digits")
    group, _, key = added.rpartition(".")
    older = copy.deepcopy(config)
    del (older[group] if group else older)[key]
    found = accepted(older, "run", Path("config.yaml"))
    check_settings(found)
    ours = {name: value for name, value in ADDED.items() if name == added or name.startswith(f"{added}.")}
    for name, value in ours.items():
        group, _, key = name.rpartition(".")
        assert (found[group] if group else found)[key] == value


def test_what_is_asked_for_every_run_has_or_is_given() -> None:
    assert {*INTEGERS, *INTEGERS_OR_NULL, *CHOICES} == FIRST | (
        {*ADDED} & {*INTEGERS, *INTEGERS_OR_NULL, *CHOICES}
    )
