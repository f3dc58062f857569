"""What a run ran on."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

from vaelab.runs.environment import lock_record, platform_record, variables, versions


def test_variables_are_those_of_the_list_that_are_set() -> None:
    given = {
        "OMP_NUM_THREADS": "2", "MKL_CBWR": "COMPATIBLE", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OPENBLAS_NUM_THREADS": "1", "NVIDIA_TF32_OVERRIDE": "0",
        "PYTHONHASHSEED": "0", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "HOME": "/home/me", "USER": "me", "WANDB_API_KEY": "x", "MKL_LICENSE_KEY": "y", "PATH": "/bin",
    }  # fmt: skip
    expected = {
        "CUBLAS_WORKSPACE_CONFIG", "MKL_CBWR", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    }  # fmt: skip
    assert variables(given) == {name: given[name] for name in sorted(expected)}


def test_every_installed_distribution_is_listed() -> None:
    found = versions()
    for name in ("torch", "hydra-core", "scikit-learn", "pytest", "vaelab", "antlr4-python3-runtime"):
        assert found[name] == importlib.metadata.version(name)
    assert found["python"].startswith("3.")
    assert len(found) > 50


def test_the_lock_is_known_by_its_bytes(tmp_path: Path) -> None:
    assert lock_record(tmp_path) is None
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "lock.txt").write_text("torch==2\n")
    digest = hashlib.sha256(b"torch==2\n").hexdigest()
    assert lock_record(tmp_path) == {"file": "requirements/lock.txt", "sha256": digest}
    here = Path(__file__).parents[2] / "requirements" / "lock.txt"
    assert (lock_record() or {})["sha256"] == hashlib.sha256(here.read_bytes()).hexdigest()


def test_the_machine_tells_its_memory() -> None:
    record = platform_record()
    assert record["memory"] is None or record["memory"] > 1 << 28
    assert record["cpu_count"] >= record["cpu_usable"] >= 1
