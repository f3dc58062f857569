"""Images from elsewhere become what a run's data are stored as, and what was done to them is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vaelab.data.images import find, read
from vaelab.errors import SettingError

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def test_an_image_of_the_right_kind_is_taken_as_it_is(tmp_path: Path) -> None:
    found = read("images", png(tmp_path / "a.png", GREY), tmp_path, (1, 16, 16), 256)
    np.testing.assert_array_equal(found.x[0, 0], GREY)
    assert (found.names, found.notes, found.unreadable, found.y.tolist()) == (("a.png",), (), {}, [-1])


def test_a_folder_with_everything_in_it(tmp_path: Path) -> None:
    png(tmp_path / "small.png", GREY)
    png(tmp_path / "below" / "large.png", np.full((30, 20), 200, np.uint8))
    colour = np.zeros((16, 16, 3), np.uint8)
    colour[..., 1] = 255  # green is 0.587 of grey
    png(tmp_path / "colour.png", colour)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    noise = png(tmp_path / "half.png", np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8))
    noise.write_bytes(noise.read_bytes()[:150])
    (tmp_path / "notes.txt").write_text("not looked at")
    found = read("images", tmp_path, tmp_path, (1, 16, 16), 256)
    assert found.names == ("below/large.png", "colour.png", "small.png")
    assert found.unreadable.keys() == {"broken.png", "half.png"}
    assert found.unreadable["broken.png"] == "UnidentifiedImageError: cannot identify image file"
    assert (found.x[0] == 200).all()
    assert abs(int(found.x[1, 0, 0, 0]) - 150) <= 1
    np.testing.assert_array_equal(found.x[2, 0], GREY)
    assert found.notes == (
        "cut and resized to 16 x 16: 1 of 20 x 30",
        "in colour, made grey: 1",
    )
    found = read("images", tmp_path, tmp_path, (3, 16, 16), 256)
    assert found.x.shape == (3, 3, 16, 16)
    assert found.notes[1:] == ("grey, given three equal channels: 2",)


def test_what_shows_through_is_white_and_said(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:8, :, 3] = 255  # black above, nothing below
    png(tmp_path / "a.png", pixels)
    found = read("images", tmp_path, tmp_path, (1, 16, 16), 256)
    assert (found.x[0, 0, :8] == 0).all()
    assert (found.x[0, 0, 8:] == 255).all()
    assert found.notes == ("in colour, made grey: 1", "with transparency, laid on white: 1")


def test_the_identity_is_that_of_what_is_in_the_files(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 1), ("c", 2)):
        png(tmp_path / folder / "x.png", np.full((8, 8), value, np.uint8))
    a, b, c = (read("images", tmp_path / folder, tmp_path, (1, 8, 8), 256).identity for folder in "abc")
    assert a == b != c


def test_levels_are_spread_and_rounded(tmp_path: Path) -> None:
    place = png(tmp_path / "a.png", GREY)
    few = read("images", place, tmp_path, (1, 16, 16), 17)
    np.testing.assert_array_equal(few.x[0, 0], np.rint(GREY / 255 * 16))
    assert "256 levels are rounded to 17" in few.notes
    binary = read("images", place, tmp_path, (1, 16, 16), 2)
    np.testing.assert_array_equal(binary.x[0, 0], GREY > 127)
    np.savez(tmp_path / "b.npz", images=np.eye(16, dtype=np.uint8)[None])
    spread = read("images", tmp_path / "b.npz", tmp_path, (1, 16, 16), 256)
    assert "2 levels are spread to 256" in spread.notes
    np.testing.assert_array_equal(spread.x[0, 0], 255 * np.eye(16))


@pytest.mark.parametrize("layout", [(3, 16, 16), (16, 16, 3), (16, 16)])
def test_arrays_of_any_layout(layout: tuple[int, ...], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", images=random.random((5, *layout)).astype(np.float32), labels=np.arange(5))
    found = read("images", tmp_path / "a.npz", tmp_path, (1, 8, 8), 256)
    assert found.x.shape == (5, 1, 8, 8)
    assert found.y.tolist() == [0, 1, 2, 3, 4]
    assert found.names is None
    assert found.notes[0] == "key images"
    assert "16 x 16 pixels are cut and resized to 8 x 8" in found.notes
    assert ("colour is made grey" in found.notes) == (len(layout) == 3)


def test_the_test_split_of_a_data_set_or_of_arrays_to_train_on(tmp_path: Path) -> None:
    digits = read("against", "digits", tmp_path, (1, 8, 8), 17)
    assert digits.x.shape == (360, 1, 8, 8)
    assert (digits.identity, digits.notes) == ("digits", ("its test split",))
    np.savez(tmp_path / "own.npz", train=digits.x[:9, 0], test=digits.x[9:12, 0], test_labels=digits.y[9:12])
    own = read("against", tmp_path / "own.npz", tmp_path, (1, 8, 8), 256)
    np.testing.assert_array_equal(own.x, digits.x[9:12])
    np.testing.assert_array_equal(own.y, digits.y[9:12])
    larger = read("against", "digits", tmp_path, (1, 12, 10), 256)
    assert larger.x.shape == (360, 1, 12, 10)
    assert larger.x.max() > 200  # of levels up to 16


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (None, "must be the name of a data set, a folder"),
    "a typo": ("digit", "no such thing .did you mean 'digits'"),
    "an empty folder": ("empty", "holds no images"),
    "a file of another kind": ("a.txt", "a file ends in one of"),
    "no arrays": ("a.npz", "cannot be read as a file of numpy.savez"),
    "other arrays": ("b.npz", "has neither the key images nor test; it has pictures"),
    "arrays that are no images": ("c.npz", "key images: pixels must be uint8"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_holds_no_images_is_refused_by_the_setting(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, message = WRONG[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "a.npz").write_text("none")
    np.savez(tmp_path / "b.npz", pictures=np.zeros(3))
    np.savez(tmp_path / "c.npz", images=np.zeros((2, 4, 4), np.int64))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=f"^against.*{message}"):
        read("against", where, tmp_path, (1, 8, 8), 256)


def test_a_folder_of_nothing_but_broken_files_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert find("images", tmp_path, tmp_path) == tmp_path  # nothing is decoded yet
    with pytest.raises(SettingError, match=r"none of the 1 images can be decoded: a\.png .Unidentified"):
        read("images", tmp_path, tmp_path, (1, 8, 8), 256)
