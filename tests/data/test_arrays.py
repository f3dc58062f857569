"""A person's own arrays: what comes out is what was put in, and what cannot be meant is refused."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaelab.data import arrays, datasets
from vaelab.errors import SettingError

RNG = np.random.default_rng(0)


def grey(n: int, *shape: int) -> np.ndarray:
    """Images that differ, the first pixel of each its number."""
    x = RNG.integers(0, 256, (n, *shape), np.uint8)
    x.reshape(n, -1)[:, 0] = np.arange(n)
    return x


def write(path: Path, **values: Any) -> Path:
    np.savez(path, **values)
    return path


def load(tmp_path: Path, **values: Any) -> datasets.ImageData:
    return datasets.load("arrays", tmp_path, path=write(tmp_path / "own.npz", **values))


@pytest.mark.parametrize(
    "shape, channels_first",
    [
        ((5, 4), (1, 5, 4)),
        ((5, 4, 1), (1, 5, 4)),
        ((1, 5, 4), (1, 5, 4)),
        ((5, 4, 3), (3, 5, 4)),
        ((3, 5, 4), (3, 5, 4)),
    ],
)
def test_every_layout_comes_out_as_it_went_in(
    tmp_path: Path, shape: tuple[int, ...], channels_first: tuple[int, ...]
) -> None:
    sizes = {"train": 7, "val": 2, "test": 3}
    x = {split: grey(n, *shape) for split, n in sizes.items()}
    y = {f"{split}_labels": np.arange(n) % 3 for split, n in sizes.items()}
    images = load(tmp_path, **x, **y)
    assert (images.num_levels, images.image_shape, images.notes) == (256, channels_first, ())
    for split, found in {"train": images.train, "val": images.val, "test": images.test}.items():
        assert found is not None
        expected = (
            x[split]
            if len(shape) == 3 and shape[0] in (1, 3)
            else np.moveaxis(x[split].reshape(-1, 5, 4, channels_first[0]), 3, 1)
        )
        np.testing.assert_array_equal(found.x.numpy(), expected)
        np.testing.assert_array_equal(found.y.numpy(), y[f"{split}_labels"])
    digest = hashlib.sha256((tmp_path / "own.npz").read_bytes()).hexdigest()
    assert images.digests == {"own.npz": digest}
    assert images.identity == f"arrays:{digest[:12]}"


def test_floats_become_the_nearest_of_256_levels_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = grey(4, 3, 2)
    for dtype in (np.float16, np.float32, np.float64):
        exact = (levels / 255).astype(dtype)
        np.testing.assert_array_equal(
            load(tmp_path, train=exact, val=exact, test=exact).train.x[:, 0].numpy(), levels
        )
    near = np.full((2, 3, 2), (100.4) / 255)
    images = load(tmp_path, train=near, val=near, test=near)
    assert set(images.train.x.unique().tolist()) == {100}
    assert "float pixels are rounded to 256 levels; none moves by more than 0.0016" in capsys.readouterr().err
    assert images.notes == ("float pixels are rounded to 256 levels; none moves by more than 0.0016",)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.bool_])
def test_nothing_but_0_and_1_is_binary_data(tmp_path: Path, dtype: Any) -> None:
    bits = RNG.integers(0, 2, (6, 4, 4)).astype(dtype)
    images = load(tmp_path, train=bits, val=bits, test=bits)
    assert images.num_levels == 2
    np.testing.assert_array_equal(images.train.x[:, 0].numpy(), bits)
    assert images.notes == ("nothing but 0 and 1: binary data of 2 levels",)


def test_a_dark_image_does_not_make_binary_data(tmp_path: Path) -> None:
    bits, more = np.ones((6, 4, 4), np.uint8), np.full((1, 4, 4), 2, np.uint8)
    assert load(tmp_path, train=bits, test=bits, val=more).num_levels == 256
    assert load(tmp_path, train=bits * 0, test=bits * 0, val=more * 0).num_levels == 256


@pytest.mark.parametrize("has_val", [False, True])
def test_without_test_a_tenth_of_train_is_the_test_split(tmp_path: Path, has_val: bool) -> None:
    x = grey(105, 4, 4)
    more = {"val": grey(5, 4, 4)} if has_val else {}
    first, again = (load(tmp_path, train=x, train_labels=np.arange(105), **more) for _ in range(2))
    assert (len(first.train), len(first.test)) == (95, 10)
    number = np.concatenate([first.train.y.numpy(), first.test.y.numpy()])
    assert sorted(number) == list(range(105)), "disjoint and complete"
    assert list(number) != list(range(105)), "a file sorted by class is not cut by class"
    np.testing.assert_array_equal(
        x[number], np.concatenate([first.train.x[:, 0].numpy(), first.test.x[:, 0].numpy()])
    )
    assert first.test.y.tolist() == again.test.y.tolist()
    assert first.notes == again.notes
    assert any("the last tenth in that order, 10 images, is the test split" in note for note in first.notes)
    assert (first.val is None) != has_val


def test_the_fixed_order_is_fixed_for_good() -> None:
    """Another order would be another test split under the same name."""
    assert arrays.fixed_order(10).tolist() == [9, 8, 4, 3, 0, 1, 7, 2, 6, 5]


def test_without_val_the_order_is_fixed_and_the_test_split_stays(tmp_path: Path) -> None:
    x, test = grey(20, 4, 4), grey(3, 4, 4)
    images = load(tmp_path, train=x, test=test)
    np.testing.assert_array_equal(images.train.x[:, 0].numpy(), x[arrays.fixed_order(20)])
    np.testing.assert_array_equal(images.test.x[:, 0].numpy(), test)
    assert images.train.y.unique().tolist() == [-1]


def test_keys_that_nobody_reads_are_told(tmp_path: Path) -> None:
    x = grey(3, 4, 4)
    images = load(tmp_path, train=x, val=x, test=x, tset=x)
    assert images.notes == (
        "keys that nobody reads: tset (may have train, val, test, train_labels, val_labels, test_labels)",
    )


X, F = grey(6, 5, 4), np.full((6, 5, 4), 0.5)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no train": ({"x": X}, "has no key train; it has x, and may have train, val"),
    "dtype": ({"train": X.astype(np.int64)}, "key train: pixels must be uint8 .* they are int64"),
    "above 1": ({"train": F * 3}, "key train: float pixels must lie in .0, 1.; they reach from 1.5 to 1.5"),
    "below 0": (
        {"train": F, "test": F - 1},
        "key test: float pixels must lie in .0, 1.; they reach from -0.5",
    ),
    "nan": ({"train": np.where(np.arange(4) == 1, np.nan, F)}, "key train: pixels must be finite"),
    "inf": ({"train": F, "val": F * np.inf}, "key val: pixels must be finite"),
    "two axes": ({"train": X.reshape(6, 20)}, r"key train: images are \[N, H, W\].*its shape is \[6, 20\]"),
    "both ends": ({"train": grey(6, 3, 5, 1)}, r"exactly one of the second and the last.*\[6, 3, 5, 1\]"),
    "no end": ({"train": grey(6, 2, 5, 4)}, r"exactly one of the second and the last.*\[6, 2, 5, 4\]"),
    "shapes": (
        {"train": X, "test": X[:, 1:]},
        r"one shape \[C, H, W\]; they have train \[1, 5, 4\], test \[1, 4, 4\]",
    ),
    "kinds": ({"train": X, "test": F}, "of one kind.* train uint8, test float64"),
    "empty": ({"train": X, "test": X[:0]}, "key test: holds no images"),
    "one image": ({"train": X[:1]}, "too few images"),
    "label count": (
        {"train": X, "train_labels": np.arange(5)},
        r"key train_labels: .*each of the 6 images; they are int64 \[5\]",
    ),
    "label type": (
        {"train": X, "train_labels": np.arange(6) / 2},
        "key train_labels: must be integers.*float64",
    ),
    "label value": (
        {"train": X, "train_labels": np.arange(6) - 2},
        "key train_labels: .*-1 for unlabelled; they reach from -2",
    ),
    "labels alone": ({"train": X, "test_labels": np.arange(6)}, "has test_labels without test"),
    "objects": ({"train": np.array([X, None], dtype=object)}, "without pickled objects"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    values, rule = REFUSED[name]
    with pytest.raises(SettingError, match=rule) as caught:
        load(tmp_path, **values)
    assert str(caught.value).startswith(f"data.path={tmp_path}/own.npz: ")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    def refused(path: object, rule: str, **more: Any) -> None:
        with pytest.raises(
            SettingError, match=f"^data.path={re.escape(str(path)) if path is not None else 'null'}: {rule}"
        ):
            datasets.load("arrays", tmp_path, path=path, **more)

    refused(tmp_path / "away.npz", r"there is no such file of arrays \(.npz\)")
    refused(tmp_path, "must be a file of arrays.*data=folder")
    refused(None, "must be the name of a file")
    np.save(tmp_path / "one.npy", X)
    refused(tmp_path / "one.npy", "cannot be read as a file of numpy.savez")
    path = write(tmp_path / "own.npz", train=X)
    path.write_bytes(path.read_bytes()[:-40])
    refused(path, "cannot be read as a file of numpy.savez")
    content = bytearray(write(path, train=X).read_bytes())
    content[250] ^= 1  # a pixel; the archive's checksum no longer fits
    path.write_bytes(content)
    refused(path, "cannot be read as a file of numpy.savez")


def test_settings_that_a_data_set_does_not_take_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "own.npz", train=X)
    with pytest.raises(SettingError, match=r"data\.size=8: data=arrays does not take it; data=folder does"):
        datasets.load("arrays", tmp_path, path=path, size=8)
    with pytest.raises(
        SettingError, match=r"data\.path=.*: data=digits does not take it; data=arrays, data=folder does"
    ):
        datasets.load("digits", tmp_path, path=path)
