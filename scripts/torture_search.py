"""A search that two processes share, which are killed at random moments and started again; beside the same search in peace."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from torture_damage import said
from torture_sweep import completed, entries, finished, started, sweep_folder
from vaelab.runs import read_json

TITLE = "Searches"
#: proposals at random depend on the seed and the trial alone, so both searches have to end with the same trials
SEARCH = (
    "hydra/sweeper=optuna", "sweep.sampler=random", "latent_dim=int(interval(2,9))", "optimizer.lr=tag(log,interval(1e-4,1e-2))",
    "encoder=mlp,gated_mlp",
)  # fmt: skip
STORAGES = {"SQLite": None, "a journal": "logs/study.journal"}


def torture(trials: int, seed: int) -> tuple[list[str], int]:
    """``trials`` kills for each kind of storage. Returns lines of Markdown, and how many searches did not end as they should have."""
    generator = np.random.default_rng(seed)
    number = 24 if trials >= 10 else 8
    problems: list[str | None] = []
    with tempfile.TemporaryDirectory(prefix="vaelab-torture-") as folder:
        root = Path(folder)
        words = (*SEARCH, f"sweep.trials={number}")
        status, out = finished(started(root / "peace", words))
        if status != 0:
            return [f"- **not as it should be**: exit status {status}: {out[-2000:]}"], 1
        lines = [
            f"- the 8x8 digits, three epochs; {number} trials of random search, two processes with two jobs each"
        ]
        for what, where in STORAGES.items():
            place = root / what.replace(" ", "_")
            storage = () if where is None else (f"sweep.storage={place / where}",)
            problem, moments = kills(place, root / "peace", (*words, *storage), trials, generator)
            after = ", ".join(f"{moment:.0f}" for moment in moments)
            lines += said(
                f"{what}: one of the two killed {len(moments)} times (after {after} s more each) and started again: every trial was made once, with the values and numbers of the search in peace",
                [problem],
            )
            problems.append(problem)
    return lines, sum(problem is not None for problem in problems)


def kills(
    root: Path, peace: Path, words: tuple[str, ...], trials: int, generator: np.random.Generator
) -> tuple[str | None, list[float]]:
    """The search in two processes, of which one is killed each time and started again. Returns what was not as it should be, and the seconds between kills."""
    processes = [started(root, words), started(root, words)]
    moments: list[float] = []
    while len(moments) < trials and any(process.poll() is None for process in processes):
        moment, which = float(generator.uniform(2.0, 15.0)), int(generator.integers(2))
        time.sleep(moment)
        if processes[which].poll() is None:
            processes[which].send_signal(signal.SIGKILL)
            processes[which].communicate()
            moments.append(moment)
            processes[which] = started(root, words)
    for process in processes:
        try:
            status, out = finished(process)
        except subprocess.TimeoutExpired:
            return "it does not end", moments
        if status != 0:
            return f"exit status {status}: {out[-2000:]}", moments
    found, expected = record(root), record(peace)
    if found != expected:
        different = [place for place in expected if found.get(place) != expected[place]]
        return f"other trials: {different}: {[found.get(place) for place in different]}", moments
    runs = completed(root)
    if doubled := [identity for identity, ones in runs.items() if len(ones) != 1]:
        return f"completed more than once: {doubled}", moments
    if len(runs) != len(expected):
        return f"{len(runs)} runs for {len(expected)} trials", moments
    states = Counter(entry["status"] for entry in entries(root).values())
    return (None if states == {"completed": len(expected)} else f"in sweep.json: {dict(states)}"), moments


def record(root: Path) -> dict[int, tuple[Any, ...]]:
    """Place of each trial -> state, values of the settings, numbers."""
    trials = read_json(sweep_folder(root) / "search.json")["trials"]
    return {one["place"]: (one["state"], one["params"], one["values"]) for one in trials}
