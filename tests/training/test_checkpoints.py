"""Checkpoints: whole or not at all, tensors and primitives only."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from vaelab.errors import SettingError
from vaelab.training.checkpoints import AtomicCheckpointIO, digest_file, file_digest, read_checkpoint

CONTENT = {"state_dict": {"w": torch.arange(5.0)}, "global_step": 3}


def test_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    back = read_checkpoint(path)
    assert back["global_step"] == 3
    assert torch.equal(back["state_dict"]["w"], torch.arange(5.0))
    assert digest_file(path).read_text().split() == [file_digest(path), "last.ckpt"]
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("damage", ["truncated", "flipped", "other"])
def test_damage_is_noticed(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-10]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        content = bytearray(b"something else")
    path.write_bytes(bytes(content))
    with pytest.raises(SettingError, match="damaged"):
        read_checkpoint(path)


def test_a_write_that_fails_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        AtomicCheckpointIO().save_checkpoint({"global_step": 4}, path)
    assert read_checkpoint(path)["global_step"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]


def test_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps(Payload()))
    digest_file(path).write_text(file_digest(path))
    with pytest.raises(SettingError, match="cannot be read"):
        read_checkpoint(path)
    torch.save({"state_dict": Payload()}, path)
    digest_file(path).write_text(file_digest(path))
    with pytest.raises(SettingError, match="cannot be read"):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_a_missing_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"last\.ckpt: no such file"):
        read_checkpoint(tmp_path / "last.ckpt")
