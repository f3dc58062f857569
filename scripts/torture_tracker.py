"""A tracker that cannot be reached, that never answers, whose process is killed, whose files can grow no further: does the run complete, with the same numbers, and how much later?"""

from __future__ import annotations

import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from forks import SETTINGS, compared, directory_of
from torture_damage import said

TITLE = "Trackers in trouble"
SECONDS = 10.0
LONGER = ("trainer.max_epochs=60", "estimator=elbo")


def torture(trials: int, seed: int) -> tuple[list[str], int]:
    """``trials`` of each trouble. Returns lines of Markdown, and how many did not end as they should have."""
    lines: list[str] = []
    failures = 0
    with tempfile.TemporaryDirectory(prefix="vaelab-torture-") as folder:
        root = Path(folder)
        alone = [run(root / "alone" / str(trial), "logger=none") for trial in range(trials)]
        whole, usual = alone[0][0], statistics.median(seconds for _, seconds in alone)
        for number, (name, trouble) in enumerate(TROUBLES.items()):
            latest, problems = 0.0, []
            for trial in range(trials):
                logs = root / str(number) / str(trial)
                with trouble() as (environment, during):
                    directory, seconds = run(logs, "logger=wandb", environment=environment, during=during)
                problem = compared(whole, directory)
                if problem is None and seconds - usual > SECONDS:
                    problem = f"{seconds - usual:.1f} s later"
                latest = max(latest, seconds - usual)
                problems.append(problem)
            lines += said(
                f"{name}: completed with the same numbers, at most {latest:.1f} s later in all", problems
            )
            failures += sum(problem is not None for problem in problems)
        lines.append(f"- Without a tracker such a run takes {usual:.1f} s from the command to its end.")
    return lines, failures


Environment = dict[str, str]
During = Callable[[int], None]


def run(
    logs: Path,
    *overrides: str,
    environment: Environment | None = None,
    during: During = lambda pid: None,
) -> tuple[Path, float]:
    """A run by its command; ``during`` is told its process once three epochs are done. Returns the directory, and the seconds."""
    logs.mkdir(parents=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    settings = [
        setting
        for setting in SETTINGS
        if not setting.startswith(("logger", "trainer.max_epochs", "trainer.enable", "estimator"))
    ]
    command = [
        str(Path(sys.executable).parent / "vae-train"),
        *settings,
        *LONGER,
        *overrides,
        f"paths.log_dir={logs}",
    ]
    began = time.monotonic()
    with (
        (logs / "errors").open("w") as errors,
        subprocess.Popen(
            command,
            env={**kept, "HOME": str(logs), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 3/"):
                during(process.pid)
    seconds = time.monotonic() - began
    directory = directory_of(logs)
    assert process.returncode == 0, (logs / "errors").read_text()
    assert directory is not None
    return directory, seconds


@contextmanager
def unreachable() -> Iterator[tuple[Environment, During]]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    yield server(port), lambda pid: None


@contextmanager
def silent() -> Iterator[tuple[Environment, During]]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield server(listening.getsockname()[1]), lambda pid: None


@contextmanager
def killed() -> Iterator[tuple[Environment, During]]:
    def during(pid: int) -> None:
        for child in services(pid):
            os.kill(child, signal.SIGKILL)

    yield {"WANDB_MODE": "offline"}, during


@contextmanager
def no_room() -> Iterator[tuple[Environment, During]]:
    def during(pid: int) -> None:
        for child in services(pid):
            resource.prlimit(child, resource.RLIMIT_FSIZE, (1, 1))

    yield {"WANDB_MODE": "offline"}, during


def server(port: int) -> Environment:
    return {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{port}"}


def services(pid: int) -> list[int]:
    """The processes of W&B that a run has started."""
    found = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in found.splitlines()]
    named = [int(row[0]) for row in rows if int(row[1]) == pid and "wandb" in row[2]]
    assert named, "no process of W&B was found"
    return named


TROUBLES = {
    "a server that cannot be reached": unreachable,
    "a server that never answers": silent,
    "its process killed after three epochs": killed,
    "its files not allowed to grow after three epochs (RLIMIT_FSIZE)": no_room,
}
