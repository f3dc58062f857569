"""The tortures of scripts/torture.py, in reduced size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TORTURE = Path(__file__).resolve().parents[1] / "scripts" / "torture.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    "what, trials", [("kill", 12), ("damage", 5), ("signals", 1), ("sweep", 3), ("search", 2)]
)
def test_torture_in_reduced_size(what: str, trials: int, tmp_path: Path) -> None:
    """A process of its own: it forks, which one that has computed with threads had better not."""
    command = [sys.executable, str(TORTURE), what, "--trials", str(trials), "--seed", "1", "--write", str(tmp_path / "found.md")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "found.md").read_text().startswith("# Reliability")
