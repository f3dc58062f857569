import json
import os

import pytest

from vaelab.errors import SettingError
from vaelab.runs import files


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"x": 1})

    def broken(_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        files.write_json(path, {"x": 2})
    assert files.read_json(path) == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_json_is_strict_and_non_finite_floats_read_back(tmp_path):
    files.write_json(tmp_path / "a.json", {"x": [float("nan"), float("-inf"), 0.1]})
    values = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)["x"]
    assert [str(float(v)) for v in values] == ["nan", "-inf", "0.1"]


@pytest.mark.parametrize("value", [{"a": {1: 2}}, {"a": {"b": object()}}, {"a": [b"x"]}])
def test_what_is_no_json_primitive_is_named(tmp_path, value):
    with pytest.raises(TypeError, match=r"f\.json\.a"):
        files.write_json(tmp_path / "f.json", value)
    assert not list(tmp_path.iterdir())


def test_yaml_reads_numbers_as_omegaconf_does(tmp_path):
    (tmp_path / "a.yaml").write_text("lr: 1e-3\nbig: 2E+5\nday: 2026-01-02\nn: 3\nt: '1e-3'\n")
    content = files.read_yaml(tmp_path / "a.yaml")
    assert content == {"lr": 1e-3, "big": 2e5, "day": "2026-01-02", "n": 3, "t": "1e-3"}


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.json", b'{"x": ', "not valid JSON"),
        ("a.yaml", b"x: [1", "not valid YAML"),
        ("a.yaml", b"!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a.json", b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_damaged_file_is_one_message(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    read = files.read_json if name.endswith("json") else files.read_yaml
    with pytest.raises(SettingError, match=words) as raised:
        read(tmp_path / name)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_json_as_deep_as_it_may_be_is_read_and_no_deeper(tmp_path):
    def nested(depth):
        value = 1
        for _ in range(depth):
            value = [value]
        files.write_json(tmp_path / "x.json", value)
        return tmp_path / "x.json"

    files.read_json(nested(files.DEPTH))
    with pytest.raises(SettingError, match="nested"):
        files.read_json(nested(files.DEPTH + 1))


def test_an_anchor_that_is_used_twice_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &x [1, 2]\nb: *x\nc: {<<: {d: *x}, e: &y 3}\nf: *y\n")
    expected = {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2], "e": 3}, "f": 3}
    assert files.read_yaml(tmp_path / "a.yaml") == expected
