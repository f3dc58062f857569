"""Seconds of sixteen short jobs of ``vae-train -m``, in two slots and in one, beside the same commands typed one after the other, and beside their imports alone."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vaelab.sweeps.slots import Slots

TITLE = "Sweeps"
ABOUT = """\
Seconds for 16 jobs on the 8x8 digits (`debug=fast`: three steps of training, validation, test, pictures), each with one thread on the CPU.

`two slots` and `one slot`: `vae-train -m` with `sweep.slots` of 2 and 1. `by hand`: the 16 commands of these jobs, one after the other. `imports`: 16 processes that import what
vae-train imports, and end. The aims: two slots take at most 0.6 times as long as one; one slot takes at most 16 s longer than by hand (a second a job)."""
SETTINGS = ("data=digits", "debug=fast", "trainer=cpu", "logger=none", "trainer.enable_progress_bar=false")
DIMS, SEEDS = range(2, 6), range(4)
IMPORTS = "import vaelab.commands.train, vaelab.experiments.train"


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Seconds of each repetition, of each variant. No warming up: each job is a process."""
    environment = {**os.environ, **Slots(1, 1).environment(0), "DATA_DIR": str(data_dir)}
    train = str(Path(sys.executable).with_name("vae-train"))
    grid = (f"latent_dim={','.join(map(str, DIMS))}", f"seed={','.join(map(str, SEEDS))}")
    times: dict[str, list[float]] = {"two slots": [], "one slot": [], "by hand": [], "imports": []}

    def run(*command: str) -> None:
        subprocess.run(command, env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(prefix="vaelab-bench-") as folder:
            for name, slots in (("two slots", 2), ("one slot", 1)):
                started = time.perf_counter()
                run(train, "-m", *grid, *SETTINGS, f"sweep.slots={slots}", f"sweep.name=in_{slots}")
                times[name].append(time.perf_counter() - started)
            started = time.perf_counter()
            for dim, seed in itertools.product(DIMS, SEEDS):
                run(train, f"latent_dim={dim}", f"seed={seed}", *SETTINGS)
            times["by hand"].append(time.perf_counter() - started)
            started = time.perf_counter()
            for _ in range(len(DIMS) * len(SEEDS)):
                run(sys.executable, "-c", IMPORTS)
            times["imports"].append(time.perf_counter() - started)
    return times
