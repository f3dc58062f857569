"""What the tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch: for tensors this small a second thread only waits

REPOSITORY = Path(__file__).resolve().parents[1]
MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches a tracker's server or reads the settings of whoever runs it."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "VAELAB_LOG_DIR", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """A data directory that holds MNIST; the test is skipped, with a word that says so, where there is none."""
    for folder in (os.environ.get("DATA_DIR"), REPOSITORY / "data", REPOSITORY.parent / "shared" / "data"):
        if folder and all((Path(folder) / "MNIST" / "raw" / name).is_file() for name in MNIST_FILES):
            return Path(folder).resolve()
    pytest.skip("MNIST is not here: set DATA_DIR")


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """overrides -> the resolved configuration of vae-train, with logs under ``tmp_path`` and no tracker."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    def _compose(*overrides: str, config_name: str = "train") -> dict[str, Any]:
        quiet = (
            ()
            if config_name != "train" or any(o.startswith("logger") for o in overrides)
            else ("logger=none",)
        )
        with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
            cfg = hydra_compose(config_name, overrides=[*quiet, f"paths.log_dir={tmp_path}/logs", *overrides])
        config = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(config, dict)
        return {str(key): value for key, value in config.items()}

    return _compose
