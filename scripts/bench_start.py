"""From typing to the first optimizer step."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TITLE = "Start"
ABOUT = """\
Seconds from typing `vae-train data=digits` to the end of its first optimizer step, each in a process of its own, in turn with processes that only `import lightning.pytorch, torchmetrics` and end. The aim: two seconds more."""

FIRST_STEP = """
import os, sys, time
from vaelab.training.step import OptimisationStep
whole = OptimisationStep.__call__
def first(self, *rest):
    whole(self, *rest)
    sys.stdout.flush()
    os._exit(0)
OptimisationStep.__call__ = first
"""


def measure(repetitions: int, data_dir: Path) -> dict[str, list[float]]:
    """Seconds of each process."""
    times: dict[str, list[float]] = {"vae-train": [], "imports": []}
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder) / "logs"
        # patched where the task begins, so that nothing is imported earlier than it would be
        script = Path(folder) / "vae-train"
        script.write_text(
            "import sys\nfrom vaelab.commands import train\ntask = train.task\n"
            f"def patched(*rest):\n    exec({FIRST_STEP!r}, {{}})\n    return task(*rest)\n"
            "train.task = patched\nsys.exit(train.main())\n"
        )
        commands = {
            "vae-train": [str(script), "data=digits", "logger=none", f"paths.log_dir={logs}", "trainer=cpu", "trainer.enable_progress_bar=false"],
            "imports": ["-c", "import torch, lightning.pytorch, torchmetrics"],
        }  # fmt: skip
        for _ in range(repetitions + 1):
            for name, command in commands.items():
                began = time.perf_counter()
                done = subprocess.run([sys.executable, *command], cwd=folder, env=os.environ, capture_output=True, text=True)  # fmt: skip
                if done.returncode:
                    raise RuntimeError(done.stdout + done.stderr)
                times[name].append(time.perf_counter() - began)
    return {name: seconds[1:] for name, seconds in times.items()}
