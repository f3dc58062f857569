"""How many cores a process may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from vaelab.runs import cores
from vaelab.runs.cores import quota


def test_the_quota_of_a_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "a" / "b"
    own.mkdir(parents=True)
    (tmp_path / "self").write_text("4:cpu:/elsewhere\n0::/a/b\n")
    monkeypatch.setattr(cores, "OWN_GROUP", tmp_path / "self")
    assert quota(tmp_path) is None
    (own / "cpu.max").write_text("max 100000\n")
    assert quota(tmp_path) is None
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    assert quota(tmp_path) == 1.5
    (own / "cpu.max").write_text("50000 100000\n")
    assert quota(tmp_path) == 0.5


def test_the_quota_of_version_1(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert quota(tmp_path) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    assert quota(tmp_path) == 2.0
