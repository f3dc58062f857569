"""The frames of a run: bounded, and a function of the newest step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaelab.errors import SettingError
from vaelab.runs import frames
from vaelab.runs.frames import MOST, Frames

PICTURE = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)


def steps_after(folder: Path, steps: range) -> list[int]:
    kept = Frames(folder)
    for step in steps:
        kept.add(step, PICTURE, every=steps.step)
    return kept.steps()


def test_what_was_kept_is_read_back(tmp_path: Path) -> None:
    kept = Frames(tmp_path / "frames")
    assert kept.steps() == kept.read() == []
    kept.add(0, PICTURE, 10)
    kept.add(10, 20 * PICTURE, 10)
    first, second = kept.read()
    assert (first.step, second.step) == (0, 10)
    np.testing.assert_array_equal(second.picture, np.repeat(20 * PICTURE, 3, axis=-1))


def test_never_more_than_so_many_and_always_the_first_and_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "MOST", 4)
    kept = Frames(tmp_path / "frames")
    for step in range(0, 300, 10):
        kept.add(step, PICTURE, 10)
        assert len(kept.steps()) <= 5
        assert (kept.steps()[0], kept.steps()[-1]) == (0, step)
    assert kept.steps() == [0, 80, 160, 240, 290]
    assert MOST == 60


@pytest.mark.parametrize("at", [35, 40, 75, 150])
def test_a_run_that_was_cut_back_ends_with_the_same_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(frames, "MOST", 4)
    whole = steps_after(tmp_path / "whole", range(0, 300, 10))
    steps_after(tmp_path / "cut", range(0, at + 30, 10))
    Frames(tmp_path / "cut").cut_back(at)
    assert Frames(tmp_path / "cut").steps()[-1] <= at
    assert steps_after(tmp_path / "cut", range((at // 10 + 1) * 10, 300, 10)) == whole


def test_anything_else_in_the_folder_is_no_frame_and_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step_x.png").write_text("mine")
    kept = Frames(tmp_path)
    kept.add(5, PICTURE, 5)
    kept.cut_back(0)
    assert kept.steps() == []
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "step_x.png"}


def test_what_is_no_frame_is_refused(tmp_path: Path) -> None:
    kept = Frames(tmp_path)
    (tmp_path / "step_1.png").write_bytes(b"GIF89a")
    with pytest.raises(SettingError, match=r"step_1\.png: is no frame of a run"):
        kept.read()
    Image.new("1", (60_000, 60_000)).save(tmp_path / "step_1.png")  # a few kilobytes
    with pytest.raises(SettingError, match="is no frame of a run"):
        kept.read()
    kept.add(1, PICTURE, 1)
    kept.add(2, PICTURE[:2], 1)
    with pytest.raises(SettingError, match=r"step_2\.png: is no frame of a run: it has another size"):
        kept.read()
