"""Which settings are part of a run's identity: all of the shipped configuration, one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from vaelab.runs.identity import ADDED, IGNORED, SHOWING, config_hash

Compose = Callable[..., dict[str, Any]]


def leaves(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def changed(config: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    result = copy.deepcopy(dict(config))
    node: Any = result
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = "something else"
    return result


def test_every_setting_counts_but_for_those_that_change_no_number(compose: Compose) -> None:
    config = compose("callbacks=early_stopping")
    before = config_hash(config)
    ignored = {".".join(path) for path in leaves(config) if config_hash(changed(config, path)) == before}
    assert ignored == {
        "name", "tags", "report", "paths.log_dir", "paths.data_dir", "logger.name", "checkpoints.every_n_steps", "checkpoints.keep", "trainer.enable_progress_bar",
        "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "engine.name", "engine.chunk_steps", "data.eval_batch_size",
        "data.fallback", "estimator.max_rows", "callbacks.tracker_pictures.every_n_epochs", "sweep.name",
        "sweep.retry", "sweep.slots", "sweep.threads", "sweep.stack_size", "sweep.trials", "sweep.sampler", "sweep.sampler_options", "sweep.pruner",
        "sweep.pruner_options", "sweep.objectives", "sweep.storage", "sweep.seed",
    }  # fmt: skip
    assert all(any(name == key or name.startswith(f"{key}.") for name in ignored) for key in IGNORED if key != "hydra")  # fmt: skip


def test_what_only_shows_is_no_callback(compose: Compose) -> None:
    plain = config_hash(compose("callbacks=none"))
    assert config_hash(compose("callbacks=default")) == plain
    assert config_hash(compose("callbacks=early_stopping", "callbacks.early_stopping=null")) == plain
    assert config_hash(compose("callbacks=early_stopping")) != plain
    assert all(name.startswith("vaelab.") for name in SHOWING)


def test_a_run_keeps_its_identity_when_a_setting_is_added_at_its_former_value(compose: Compose) -> None:
    now = compose()
    before = copy.deepcopy(now)
    for key in ADDED:
        group, _, name = key.partition(".")
        del before[group][name]
    assert config_hash(before) == config_hash(now)
    assert config_hash(compose("engine.matmul=null")) == config_hash(now) != config_hash(compose("engine.matmul=bf16"))  # fmt: skip
    assert config_hash(compose("data.classes=[0,1]")) != config_hash(now)
    assert config_hash(compose("data.mutate=0.1")) != config_hash(now)


def test_a_parent_is_known_by_its_weights_and_not_by_where_it_lies() -> None:
    here, there = {"init_from": "logs/a"}, {"init_from": "/else/where"}
    assert config_hash(here, "abc") == config_hash(there, "abc") != config_hash(here, "def")
    assert config_hash(here) != config_hash(there)
    assert config_hash({"init_from": None}) != config_hash(here, "abc")


@pytest.mark.parametrize(
    "one, other, equal",
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"lr": 1}, {"lr": 1.0}, True),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": None}, {}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": float("inf")}, {"a": float("inf")}, True),
        ({"a": 0.1}, {"a": 0.1000000000000000055}, True),
        ({"a": 0.3}, {"a": 0.1 + 0.2}, False),
    ],
)
def test_the_canonical_form(one: dict[str, Any], other: dict[str, Any], equal: bool) -> None:
    assert (config_hash(one) == config_hash(other)) is equal


def test_the_hash_is_the_same_on_every_machine() -> None:
    """If this has to be changed, SCHEMA has to be, too."""
    config = {"seed": 0, "optimizer": {"lr": 1e-3, "betas": [0.9, 0.999]}, "name": "ignored", "tag": "é"}
    assert config_hash(config) == {
        "schema": 1,
        "sha256": "4c45eb77faeae69b1993670c7009777aa332e0a337c6a278e17e3939d8d2eacc",
    }
