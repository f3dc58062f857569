import os
import re

import pytest

from vaelab.errors import SettingError
from vaelab.runs import RunDirectory, check_writable, find_latest, find_runs


def make(path, created=None):
    path.mkdir(parents=True)
    stamp = f'{{"created": "{created}"}}' if created else "{}"
    (path / "manifest.json").write_text(stamp)
    return path


def test_names_carry_the_time_and_never_collide(tmp_path):
    names = {RunDirectory.create(tmp_path / "exp").name for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{6}", name) for name in names)


def test_a_taken_or_hostile_name_is_refused(tmp_path):
    run = RunDirectory.create(tmp_path, "job")
    assert run.checkpoints.is_dir()
    assert run.figures.is_dir()
    for name in ("job", "..", "a/b", ""):
        with pytest.raises(SettingError) as raised:
            RunDirectory.create(tmp_path, name)
        assert raised.value.setting == "name"
    assert os.listdir(tmp_path) == ["job"]


@pytest.mark.parametrize(
    "parent", ["file", "file/below", "/proc", "/proc/below/it", "link", "x" * 300, "nul\0"]
)
def test_an_unwritable_parent_is_noticed_also_by_root(tmp_path, monkeypatch, parent):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    if parent.startswith("/proc") and not os.path.isdir("/proc"):
        pytest.skip("no /proc here")
    for attempt in (check_writable, RunDirectory.create):
        with pytest.raises(SettingError) as raised:
            attempt(parent)
        assert raised.value.setting == "paths.log_dir"
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_a_writable_parent_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path)
    check_writable(tmp_path / "logs" / "deep")
    check_writable(tmp_path / "logs" / ".." / "other")
    assert not list(tmp_path.iterdir())


def test_opening_what_is_no_run_names_the_nearest(tmp_path):
    run = make(tmp_path / "logs" / "reference" / "run-one")
    assert RunDirectory.open(run).path == run
    with pytest.raises(SettingError, match=r"did you mean .*reference/run-one"):
        RunDirectory.open(tmp_path / "logs" / "referense" / "run-one")
    with pytest.raises(SettingError, match=r"holds 1 run;.*run-one"):
        RunDirectory.open(tmp_path / "logs")
    with pytest.raises(SettingError, match=r"manifest\.json"):
        RunDirectory.open(run / "manifest.json")


def test_runs_are_found_once_and_the_latest_is_by_creation(tmp_path):
    newest = make(tmp_path / "a" / "1", "2026-03-01T00:00:00+00:00")
    make(tmp_path / "sweeps" / "s" / "2", "2026-01-01T00:00:00+00:00")
    make(newest / "wandb" / "inside")
    make(tmp_path / ".hidden" / "3", "2027-01-01T00:00:00+00:00")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [run.path.name for run in find_runs(tmp_path)] == ["1", "2"]
    assert find_latest(tmp_path).path == newest
    with pytest.raises(SettingError, match="no run"):
        find_latest(tmp_path / "a" / "1" / "nothing")
