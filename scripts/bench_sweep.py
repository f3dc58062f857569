"""Seconds of sixteen short jobs of ``vae-train -m``, in two slots and in one, beside the same commands typed one after the other, and beside their imports alone.

Where others use the same cores, jobs that compute say little; so there are also jobs that sleep, which show what the sweep itself takes.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vaelab.sweeps.slots import Slots

TITLE = "Sweeps"
ABOUT = """\
Seconds for 16 jobs on the 8x8 digits (`debug=fast`: three steps of training, validation, test, pictures), each with one thread on the CPU.

`two slots` and `one slot`: `vae-train -m` with `sweep.slots` of 2 and 1. `by hand`: the 16 commands of these jobs, one after the other. `imports`: 16 processes that import what
vae-train imports, and end. `asleep`: the same with jobs that sleep for four seconds in place of the training, so that only the sweep itself computes. The aims: two slots take at most 0.6 times as long as one; one slot takes at most 16 s longer than by hand (a second a job)."""
SETTINGS = ("data=digits", "debug=fast", "trainer=cpu", "logger=none", "trainer.enable_progress_bar=false")
DIMS, SEEDS = range(2, 6), range(4)
IMPORTS = "import vaelab.commands.train, vaelab.experiments.train"
#: takes the place of vae-train: with -m it is that, and without it sleeps and leaves a run directory that says it is complete
SLEEPER = """#!{python}
import sys, time
if "-m" in sys.argv:
    from vaelab.commands.train import main
    sys.exit(main())
from vaelab.runs import RunDirectory, Status, write_json, write_status
from vaelab.sweeps.job import Place
time.sleep(4)
place = Place.told()
if place is not None:
    run = RunDirectory.create(place.folder, place.directory)
    write_json(run.manifest_file, {{"schema": 2, "best_score": 0.0}})
    write_status(run.status_file, Status.COMPLETED, exit_status=0)
"""


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Seconds of each repetition, of each variant. No warming up: each job is a process."""
    environment = {**os.environ, **Slots(1, 1).environment(0), "DATA_DIR": str(data_dir)}
    train = str(Path(sys.executable).with_name("vae-train"))
    grid = (f"latent_dim={','.join(map(str, DIMS))}", f"seed={','.join(map(str, SEEDS))}")
    times: dict[str, list[float]] = {}

    def run(*command: str) -> None:
        subprocess.run(command, env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    def sweeps_and_by_hand(program: str, suffix: str) -> None:
        for name, slots in (("two slots", 2), ("one slot", 1)):
            with timed(name + suffix):
                run(
                    program,
                    "-m",
                    *grid,
                    *SETTINGS,
                    f"sweep.slots={slots}",
                    f"sweep.name=in_{slots}{suffix[2:]}",
                )
        with timed("by hand" + suffix):
            for dim, seed in itertools.product(DIMS, SEEDS):
                run(program, f"latent_dim={dim}", f"seed={seed}", *SETTINGS)

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        times.setdefault(name, []).append(time.perf_counter() - started)

    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(prefix="vaelab-bench-") as folder:
            sweeps_and_by_hand(train, "")
            with timed("imports"):
                for _ in range(len(DIMS) * len(SEEDS)):
                    run(sys.executable, "-c", IMPORTS)
            sleeper = Path(folder) / "vae-train"
            sleeper.write_text(SLEEPER.format(python=sys.executable))
            sleeper.chmod(0o755)
            sweeps_and_by_hand(str(sleeper), ", asleep")
    return times
