"""A person's own image files: which pixels, which split, and what is left out."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vaelab.data import cache, datasets, folder
from vaelab.errors import SettingError

RNG = np.random.default_rng(0)
# Names that fill every split.
NAMES = [f"{i:02}.png" for i in range(40)]


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the cache of the person who runs the tests."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, np.ndarray]:
    """Forty 8x8 colour pictures by name, written into ``tmp_path/own``."""
    return fill(tmp_path / "own", NAMES)


def fill(place: Path, names: list[str]) -> dict[str, np.ndarray]:
    made = {}
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        made[name] = RNG.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(made[name]).save(place / name)
    return made


def load(
    tmp_path: Path, size: int = 8, channels: int = 3, place: str = "own", **more: Any
) -> datasets.ImageData:
    return datasets.load(
        "folder", tmp_path / "data", path=tmp_path / place, size=size, channels=channels, **more
    )


def rows(images: datasets.ImageData, pictures: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """For each split the names of its images, found by their pixels."""
    name_of = {picture.transpose(2, 0, 1).tobytes(): name for name, picture in pictures.items()}
    splits = {"train": images.train, "val": images.val, "test": images.test}
    return {
        key: [name_of[x.numpy().tobytes()] for x in split.x]
        for key, split in splits.items()
        if split is not None
    }


def test_every_picture_is_in_one_split_pixel_by_pixel(
    tmp_path: Path, pictures: dict[str, np.ndarray]
) -> None:
    images = load(tmp_path)
    found = rows(images, pictures)
    assert sorted(chain(*found.values())) == NAMES, "disjoint and complete"
    assert all(found.values())
    assert {name: split for split, names in found.items() for name in names} == {
        name: folder.split_of(name) for name in NAMES
    }
    assert (images.num_levels, images.image_shape) == (256, (3, 8, 8))
    assert set(images.train.y.tolist()) == {-1}
    counts = ", ".join(f"{len(found[split])} {split}" for split in ("train", "val", "test"))
    assert images.notes == (f"split by the SHA-256 of the file names: {counts}",)


def test_splits_are_a_tenth_each_and_do_not_change_when_files_are_added(
    tmp_path: Path, pictures: dict[str, np.ndarray]
) -> None:
    before = rows(load(tmp_path), pictures)
    more = {**pictures, **fill(tmp_path / "own", [f"new{i}.png" for i in range(20)])}
    after = rows(load(tmp_path), more)
    for split, names in before.items():
        assert [name for name in after[split] if name in pictures] == names
    counts = Counter(folder.split_of(f"image_{i}.png") for i in range(20_000))
    for split, share in {"train": 0.8, "val": 0.1, "test": 0.1}.items():
        assert counts[split] / 20_000 == pytest.approx(share, abs=4 * (share * (1 - share) / 20_000) ** 0.5)


def test_the_split_of_a_name_is_fixed_for_good() -> None:
    """The first 16 hexadecimal digits of the SHA-256 of the name, modulo 10: 0, 1, 2, 6, as another program has them."""
    names = ("1.png", "4.png", "a.png", "cat/1.jpg")
    assert [folder.split_of(name) for name in names] == ["test", "val", "train", "train"]
    composed, decomposed = [f"{i}\u00fc.png" for i in range(50)], [f"{i}u\u0308.png" for i in range(50)]
    assert [folder.split_of(name) for name in composed] == [folder.split_of(name) for name in decomposed]


def test_classes_are_the_subfolders_where_all_pictures_lie_in_one(tmp_path: Path) -> None:
    names = [f"{kind}/{deep}{i}.png" for kind in ("cat", "ant") for deep in ("", "more/") for i in range(20)]
    pictures = fill(tmp_path / "own", names)
    images = load(tmp_path)
    found = rows(images, pictures)
    assert [name[:3] for name in found["train"]] == [("ant", "cat")[y] for y in images.train.y]
    assert images.val is not None
    assert [name[:3] for name in found["val"]] == [("ant", "cat")[y] for y in images.val.y]
    assert "labels 0 to 1 are the subfolders ant, cat" in images.notes
    fill(tmp_path / "own", ["loose.png"])
    assert set(load(tmp_path).train.y.tolist()) == {-1}


def test_pictures_are_cut_to_the_middle_square_and_averaged(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (np.indices((20, 20)).sum(0) % 2 * 200)[
        ..., None
    ]  # a chessboard: aliasing would leave 0 or 200
    wide[:, :20] = 255
    os.makedirs(tmp_path / "own")
    for i in range(40):
        picture = wide if i % 2 else wide.transpose(1, 0, 2)
        Image.fromarray(picture).save(tmp_path / "own" / f"{i:02}.bmp")
    x = load(tmp_path, size=4).train.x
    assert x.shape[1:] == (3, 4, 4)
    assert 80 < int(x.min()) <= int(x.max()) < 120
    assert load(tmp_path, size=4, channels=1).image_shape == (1, 4, 4)


MODES = {
    "grey.png": (Image.new("L", (8, 8), 77), 77),
    "bits.png": (Image.new("1", (8, 8), 1), 255),
    "colour.png": (Image.new("RGB", (8, 8), (50, 50, 50)), 50),
    "palette.png": (Image.new("RGB", (8, 8), (50, 50, 50)).quantize(4), 50),
    "through.png": (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), 255),
    "half.png": (Image.new("LA", (8, 8), (0, 128)), 127),
    "deep.png": (Image.fromarray(np.full((8, 8), 257 * 99, np.uint16)), 99),
    "photo.jpg": (Image.new("RGB", (8, 8), (200, 200, 200)), 200),
    "print.jpg": (Image.new("CMYK", (8, 8), (0, 0, 0, 55)), 200),
    "web.webp": (Image.new("RGB", (8, 8), (120, 120, 120)), 120),
    "moving.gif": (Image.new("L", (8, 8), 30), 30),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MODES)
def test_every_kind_of_picture_has_its_grey_level(tmp_path: Path, name: str, channels: int) -> None:
    image, level = MODES[name]
    image.save(tmp_path / name)
    (file,) = folder.listing(tmp_path)
    digest, pixels = folder._decode(file, (channels, 4, 4))
    assert isinstance(digest, bytes), digest
    assert pixels is not None
    assert pixels.shape == (channels, 4, 4)
    np.testing.assert_allclose(pixels, level, atol=2)


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    picture = np.zeros((8, 8), np.uint8)
    picture[:4] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    _, pixels = folder._decode(folder.listing(tmp_path)[0], (1, 8, 8))
    assert pixels is not None
    np.testing.assert_array_equal(pixels[0], picture[::-1])


def test_damaged_pictures_are_named_and_left_out(
    tmp_path: Path, pictures: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    lost = [name for name in NAMES if folder.split_of(name) == "train"][:7]
    whole = (tmp_path / "own" / lost[0]).read_bytes()
    (tmp_path / "own" / lost[0]).write_bytes(whole[: len(whole) // 2])
    for name in lost[1:]:
        (tmp_path / "own" / name).write_bytes(b"no picture")
    (tmp_path / "own" / "readme.txt").write_text("not looked at")
    (tmp_path / "own" / "._00.png").write_bytes(b"not looked at")
    message = f"7 of 40 files cannot be decoded and are left out: {', '.join(lost[:5])}, ..."
    for _ in range(2):  # decoded, then from the cache
        images = load(tmp_path)
        assert sorted(chain(*rows(images, pictures).values())) == sorted(set(NAMES) - set(lost))
        assert message in images.notes
        assert capsys.readouterr().err.count(f"data.path={tmp_path}/own: {message}\n") == 1


def test_the_cache_is_used_until_something_changes(
    tmp_path: Path, pictures: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = folder._decode
    monkeypatch.setattr(
        folder, "_decode", lambda file, *rest: decoded.append(file.name) or decode(file, *rest)
    )
    first = load(tmp_path)
    assert sorted(decoded) == NAMES
    decoded.clear()
    again = load(tmp_path)
    assert decoded == []
    assert rows(again, pictures) == rows(first, pictures)
    assert (again.digests, again.notes, again.identity) == (first.digests, first.notes, first.identity)
    (kept,) = (path for path in (tmp_path / "data" / ".vaelab").iterdir())
    content = bytearray((kept / "test_x.npy").read_bytes())
    content[-1] ^= 1
    (kept / "test_x.npy").write_bytes(content)
    assert rows(load(tmp_path), pictures) == rows(first, pictures), "a damaged cache is made again"
    for change in (
        lambda: os.utime(tmp_path / "own" / NAMES[0], (0, 0)),
        lambda: (tmp_path / "own" / NAMES[1]).unlink(),
        lambda: os.rename(tmp_path / "own" / NAMES[2], tmp_path / "own" / "other.png"),
    ):
        change()
        decoded.clear()
        load(tmp_path)
        assert len(decoded) >= 39
    for size, channels in ((4, 3), (8, 1)):
        decoded.clear()
        assert load(tmp_path, size, channels).identity != load(tmp_path).identity
        assert decoded


def test_the_digest_is_of_names_and_contents(tmp_path: Path, pictures: dict[str, np.ndarray]) -> None:
    first = load(tmp_path)
    os.rename(tmp_path / "own", tmp_path / "moved")
    os.utime(tmp_path / "moved" / NAMES[0], (0, 0))
    moved = load(tmp_path, place="moved")
    assert (moved.digests, moved.identity) == (first.digests, first.identity)
    Image.fromarray(pictures[NAMES[0]] ^ 1).save(tmp_path / "moved" / NAMES[0])
    assert load(tmp_path, place="moved").digests != first.digests


def test_a_link_that_leads_back_is_followed_once(tmp_path: Path, pictures: dict[str, np.ndarray]) -> None:
    (tmp_path / "own" / "back").symlink_to(tmp_path / "own")
    assert [file.name for file in folder.listing(tmp_path / "own")] == NAMES


def test_a_large_folder_shows_that_it_is_at_work(
    tmp_path: Path,
    pictures: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load(tmp_path)
    assert "decoding" not in capsys.readouterr().err
    monkeypatch.setattr(folder, "LARGE", 40)
    load(tmp_path, size=4)
    assert capsys.readouterr().err.startswith("decoding 40 images, once\n")
    load(tmp_path, size=3, progress=False)
    assert capsys.readouterr().err == ""


def test_refused(tmp_path: Path, pictures: dict[str, np.ndarray]) -> None:
    def refused(place: str, rule: str, setting: str = "data.path", **settings: Any) -> None:
        with pytest.raises(SettingError, match=f"^{re.escape(setting)}=.*: {rule}"):
            load(tmp_path, place=place, **settings)

    (tmp_path / "empty").mkdir()
    refused("empty", "holds no images, none of .bmp, ")
    refused("away", "there is no such folder of images")
    refused(f"own/{NAMES[0]}", "must be a folder of images; a file of arrays is data=arrays")
    refused("own", "must be a positive integer", "data.size", size=0)
    refused("own", "must be one of 1, 3", "data.channels", channels=4)
    fill(tmp_path / "few", ["a.png", "b.png"])
    refused(
        "few", "holds too few images: split by the SHA-256 of their names they are 2 train, 0 val, 0 test"
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    refused("broken", r"none of the 1 images can be decoded: a.png \(UnidentifiedImageError")
    assert cache.folders("folder", "", tmp_path / "data") == []
