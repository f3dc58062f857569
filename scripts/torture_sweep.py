"""A grid in which one job raises, one is killed and one runs out of memory; and a grid whose own process is killed at random moments and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np

from torture_damage import said
from vaelab.runs import RunDirectory, Status, find_runs, read_cards, read_json, read_manifest, read_status

TITLE = "Sweeps"
#: a few seconds of training behind the imports, with checkpoints to go on from
SETTINGS = (
    "data=digits", "trainer=cpu", "logger=none", "trainer.enable_progress_bar=false", "trainer.max_epochs=3", "checkpoints.every_n_steps=5",
    "estimator.num_samples=10", "callbacks=none",
)  # fmt: skip
GRID = ("latent_dim=2,3,4", "encoder=mlp,gated_mlp", "seed=0,1,2,3")
SMALL_GRID = ("latent_dim=2,3", "encoder=mlp,gated_mlp", "seed=0,1")
#: what goes wrong in which job, and what is then on record
FAULTS = {
    ("2", "mlp", "0"): ("raise", "RuntimeError: planted"),
    ("3", "gated_mlp", "1"): ("kill", "killed by SIGKILL (out of memory?)"),
    ("2", "gated_mlp", "1"): ("memory", "memory"),
}
#: a package that somebody has installed: its callback ends a job in the middle of its training
CALLBACK = """
    import json, os, resource, signal
    import torch
    from vaelab.training import Callback

    class Fault(Callback):
        def __init__(self, job):
            self.what = json.loads(os.environ.get("FAULTS", "{}")).get(job)

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step < 7 or self.what is None:
                return
            if self.what == "raise":
                raise RuntimeError("planted")
            if self.what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            resource.setrlimit(resource.RLIMIT_DATA, (2**28, 2**28))
            torch.ones(2**28)
    """


def torture(trials: int, seed: int) -> tuple[list[str], int]:
    """The faults, and ``trials`` kills. Returns lines of Markdown, and how many did not end as they should have."""
    generator = np.random.default_rng(seed)
    grid = GRID if trials >= 10 else SMALL_GRID
    number = int(np.prod([part.count(",") + 1 for part in grid]))
    with tempfile.TemporaryDirectory(prefix="vaelab-torture-") as folder:
        root = Path(folder)
        with_faults = faulty(root / "faulty", grid, number)
        killed, seconds, begun = kills(root / "killed", root / "faulty", grid, trials, generator)
    lines = [
        f"- the 8x8 digits, three epochs; {number} jobs, two at a time; with faults, then with {trials} kills"
    ]
    lines += said(
        f"{number - 3} completed, 3 failed with their causes, exit status 3; the same command again ran those 3",
        [with_faults],
    )
    moments = ", ".join(f"{second:.0f}" for second in seconds)
    lines += said(
        f"killed {len(seconds)} times (after {moments} s) and started again: every configuration completed once, in {begun} processes, with the numbers of the grid above",
        [killed],
    )
    return lines, sum(problem is not None for problem in (with_faults, killed))


def faulty(root: Path, grid: Sequence[str], number: int) -> str | None:
    """The grid with faults, then without. Returns what was not as it should be."""
    faults = {"-".join(job): what for job, (what, _) in FAULTS.items()}
    status, out = finished(started(root, grid, {"FAULTS": json.dumps(faults)}))
    first, folder = entries(root), sweep_folder(root)
    failed = {name: entry for name, entry in first.items() if entry["status"] == "failed"}
    expected = {
        f"latent_dim={job[0]},encoder={job[1]},seed={job[2]}": cause for job, (_, cause) in FAULTS.items()
    }
    if status != 3 or len(first) != number or failed.keys() != expected.keys():
        return f"exit status {status}, {len(first)} jobs, failed {sorted(failed)}: {out[-2000:]}"
    for name, cause in expected.items():
        if cause not in failed[name]["error"]:
            return f"{name}: {failed[name]['error']!r} says nothing of {cause!r}"
    if sum(entry["status"] == "completed" for entry in first.values()) != number - len(FAULTS):
        return "not all others completed"
    before = {name: updated(folder / entry["run"]) for name, entry in first.items()}
    status, out = finished(started(root, grid))
    after = {name: updated(folder / entry["run"]) for name, entry in entries(root).items()}
    again = {name for name in after if after[name] != before[name]}
    if status != 0 or again != expected.keys():
        return f"started again: exit status {status}, ran {sorted(again)}: {out[-2000:]}"
    return None


def kills(
    root: Path, whole: Path, grid: Sequence[str], trials: int, generator: np.random.Generator
) -> tuple[str | None, list[float], int]:
    """The grid with its process killed, started again each time. Returns what was not as it should be, when it was killed, and how many processes were begun."""
    moments: list[float] = []
    while len(moments) < trials:
        process = started(root, grid)
        began, moment = time.monotonic(), float(generator.uniform(2.0, 20.0))
        while process.poll() is None and time.monotonic() - began < moment:
            time.sleep(0.05)
        if process.poll() is not None:
            break  # it was done before that: there is nothing left to kill
        process.send_signal(signal.SIGKILL)
        process.communicate()
        moments.append(moment)
    status, out = finished(started(root, grid))
    begun = sum(entry["tries"] for entry in entries(root).values())
    if status != 0:
        return f"exit status {status}: {out[-2000:]}", moments, begun
    expected, found = completed(whole), completed(root)
    if doubled := [identity for identity, runs in found.items() if len(runs) != 1]:
        return f"completed more than once: {doubled}", moments, begun
    if expected.keys() != found.keys():
        return (
            f"missing {expected.keys() - found.keys()}, beyond {found.keys() - expected.keys()}",
            moments,
            begun,
        )
    different = [
        found[identity][0].path.name
        for identity in found
        if numbers(found[identity][0]) != numbers(expected[identity][0])
    ]
    return (f"other numbers: {different}" if different else None), moments, begun


def started(root: Path, grid: Sequence[str], variables: Mapping[str, str] = {}) -> subprocess.Popen[str]:
    """The sweep in a process of its own, with logs below ``root``."""
    package = root / "site"
    (package / "fault-1.0.dist-info").mkdir(parents=True, exist_ok=True)
    (package / "fault.py").write_text(dedent(CALLBACK))
    info = package / "fault-1.0.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fault\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vaelab.components]\nfault.Fault = fault:Fault\n")
    job = "${latent_dim}-${hydra:runtime.choices.encoder}-${seed}"
    callback = f"+callbacks.fault={{_target_: fault.Fault, job: '{job}'}}"
    command = [Path(sys.executable).with_name("vae-train"), "-m", *grid, *SETTINGS, callback, "sweep.slots=2"]
    environment = {
        **os.environ,
        **variables,
        "PYTHONPATH": str(package),
        "VAELAB_LOG_DIR": str(root / "logs"),
    }
    return subprocess.Popen(
        [*command, "sweep.name=tortured"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=3600)
    return process.returncode, out


def sweep_folder(root: Path) -> Path:
    return root / "logs" / "sweeps" / "tortured"


def entries(root: Path) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in read_json(sweep_folder(root) / "sweep.json")["jobs"]}


def updated(run: Path) -> str:
    return read_status(run / "status.json").updated


def completed(root: Path) -> dict[str, list[RunDirectory]]:
    """The completed runs by identity."""
    found: dict[str, list[RunDirectory]] = {}
    for run in find_runs(sweep_folder(root)):
        if read_status(run.status_file).status is Status.COMPLETED:
            found.setdefault(read_manifest(run)["identity"]["sha256"], []).append(run)
    return found


def numbers(run: RunDirectory) -> dict[str, Any]:
    cards = {f"{card.split}/{card.metric}": card.value for card in read_cards(run.evaluation_file)}
    manifest = read_manifest(run)
    return {**cards, "score": manifest["best_score"], "weights": manifest["weights"]}
