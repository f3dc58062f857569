"""Values of single images on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vaelab.training import PerImageParts


def add(parts: PerImageParts, *index: int, seconds: float = 1.0) -> None:
    i = torch.tensor(index)
    parts.add(i, {"elbo": -i.double()}, seconds)


def test_parts_of_several_processes_are_merged_in_the_order_of_the_images(tmp_path: Path) -> None:
    first, second = (PerImageParts(tmp_path / "per_image") for _ in range(2))
    add(first, 4, 0)
    add(second, 1, 3, 5)
    add(first, 2)
    first.flush()
    second.flush()
    assert first.merge(tmp_path / "per_image.npz") == 3
    with np.load(tmp_path / "per_image.npz") as file:
        assert sorted(file.files) == ["elbo", "index"], "time is no value of an image"
        np.testing.assert_array_equal(file["index"], range(6))
        np.testing.assert_array_equal(file["elbo"], -file["index"])
    assert not (tmp_path / "per_image").exists()


def test_an_image_that_was_measured_twice_counts_once(tmp_path: Path) -> None:
    parts = PerImageParts(tmp_path / "per_image")
    add(parts, 0, 1)
    parts.flush()
    add(parts, 1, 2)
    parts.flush()
    np.testing.assert_array_equal(parts.read()["index"], [0, 1, 2])


def test_what_comes_is_written_after_a_while(tmp_path: Path) -> None:
    patient, hasty = PerImageParts(tmp_path / "a"), PerImageParts(tmp_path / "b", seconds_between=0)
    for parts in (patient, hasty):
        add(parts, 0)
        add(parts, 1)
    assert patient.read() == {}
    np.testing.assert_array_equal(hasty.read()["index"], [0, 1])
