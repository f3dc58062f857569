"""What has changed since a run was recorded."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from vaelab.runs.drift import code_words, data_rows, device_rows, environment_rows, table

RECORDED: dict[str, Any] = {
    "vaelab": "0.1.0",
    "git": {"repository": "package", "commit": "1" * 40, "dirty": True, "branch": "main"},
    "code": {"patch": {"file": "code/changes.patch"}, "untracked": None},
    "lock": {"file": "requirements/lock.txt", "sha256": "a" * 64},
    "versions": {"python": "3.11.7", "torch": "2.15.0", "numpy": "2.3.1", "rich": "14.0", "vaelab": "0.1.0"},
    "platform": {"system": "Linux", "machine": "x86_64", "cpu": "one"},
    "device": {"kind": "cpu", "number": 1, "cpu_capability": "AVX512"},
    "threads": {"intra_op": 2, "inter_op": 1},
    "precision": "32-true",
    "determinism": {"mkldnn": True, "fp32_precision": {"cuda.matmul": "none"}},
    "variables": {"OMP_NUM_THREADS": "2"},
}
DATA = {"actual": "mnist", "digests": {"train": "1" * 64}, "splits": {"train": "2" * 64}}


def test_nothing_has_changed() -> None:
    rows = [*environment_rows(RECORDED, RECORDED), *device_rows(RECORDED, RECORDED), *data_rows(DATA, DATA)]
    assert {row.drift.value for row in rows} == {"same"}
    names = ["lock", "python", "torch", "other packages", "system", "processor", "device", "vector instructions", "threads", "precision", "determinism", "variables", "data", "splits"]  # fmt: skip
    assert [row.what for row in rows] == names
    assert table(rows, "x").row_count == len(rows)


@pytest.mark.parametrize(
    "path, value, row, drift",
    [
        (("versions", "torch"), "2.15.1", "torch", "compatible"),
        (("versions", "torch"), "2.16.0", "torch", "different"),
        (("versions", "numpy"), "3.0.0", "numpy", "different"),
        (("versions", "rich"), "15.0", "other packages", "compatible"),
        (("versions", "python"), "3.12.1", "python", "different"),
        (("lock", "sha256"), "b" * 64, "lock", "compatible"),
        (("platform", "cpu"), "two", "processor", "compatible"),
        (("platform", "system"), "Darwin", "system", "different"),
        (("device", "kind"), "cuda", "device", "compatible"),
        (("device", "cpu_capability"), "AVX2", "vector instructions", "compatible"),
        (("threads", "intra_op"), 1, "threads", "compatible"),
        (("precision",), "bf16-mixed", "precision", "different"),
        (("determinism", "fp32_precision", "cuda.matmul"), "tf32", "determinism", "compatible"),
        (("variables", "OMP_NUM_THREADS"), "4", "variables", "compatible"),
    ],
)
def test_what_has_changed_is_named(path: tuple[str, ...], value: Any, row: str, drift: str) -> None:
    here = copy.deepcopy(RECORDED)
    node = here
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    rows = [*environment_rows(RECORDED, here), *device_rows(RECORDED, here)]
    (found,) = (one for one in rows if one.drift != "same")
    assert (found.what, found.drift.value) == (row, drift)
    assert found.recorded != found.here


def test_other_data_are_different() -> None:
    found = data_rows(DATA, {**DATA, "digests": {"train": "3" * 64}})
    assert [(row.what, row.drift.value) for row in found] == [("data", "different"), ("splits", "same")]
    assert found[0].here == "train 333333333"
    assert data_rows({"actual": "mnist", "digests": {"train": "1" * 64}}, DATA)[1].drift == "not on record"


def test_an_early_manifest_says_less() -> None:
    early = {k: v for k, v in RECORDED.items() if k not in ("lock", "determinism", "variables", "code")}
    early["threads"] = 2
    rows = [*environment_rows(early, RECORDED), *device_rows(early, RECORDED)]
    assert {row.what: row.drift.value for row in rows if row.drift != "same"} == {
        "lock": "not on record",
        "determinism": "not on record",
    }
    assert code_words(early) == "111111111 + changes"


def test_the_code_in_words() -> None:
    assert code_words(RECORDED) == "111111111 + patch"
    assert code_words({**RECORDED, "git": None}) == "vaelab 0.1.0, installed"
    clean = {**RECORDED, "git": {**RECORDED["git"], "dirty": False}, "code": {}}
    assert code_words(clean) == "111111111"
