"""Seconds of 64 short jobs that differ in their seed, trained together (``hydra/launcher=stacked``) and in a process each (``hydra/launcher=local``), from typing to table."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vaelab.sweeps.slots import Slots

TITLE = "Stacked sweeps"
ABOUT = """\
Seconds for 64 jobs on the 8x8 digits that differ in their seed (`debug=fast`: three steps of training, validation, test, pictures; with reports), from typing to the table, with two slots of one thread each on the CPU.

`stacked` and `local`: `vae-train -m` with these launchers. The aim: stacked takes at most 0.5 times as long."""
JOBS = 64
SETTINGS = ("data=digits", "debug=fast", "trainer=cpu", "logger=none", "trainer.enable_progress_bar=false", "sweep.slots=2")  # fmt: skip


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Seconds of each repetition, of each variant. No warming up: each job, or stack of jobs, is a process."""
    environment = {**os.environ, **Slots(1, 1).environment(0), "DATA_DIR": str(data_dir)}
    train = str(Path(sys.executable).with_name("vae-train"))
    times: dict[str, list[float]] = {"stacked": [], "local": []}
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(prefix="vaelab-bench-") as folder:
            for launcher, seconds in times.items():
                seeds = f"seed={','.join(map(str, range(JOBS)))}"
                command = (
                    train,
                    "-m",
                    f"hydra/launcher={launcher}",
                    seeds,
                    *SETTINGS,
                    f"sweep.name={launcher}",
                )
                started = time.perf_counter()
                subprocess.run(command, env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                seconds.append(time.perf_counter() - started)
    return times
