"""Speed, as ratios to what the hardware could do: seconds of each variant, measured in turn in one process.

    .venv/bin/python scripts/bench.py WHAT [--repetitions 5] [--write docs/benchmarks.md]

What else the machine does hits all variants alike; what counts are the ratios of medians.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import bench_cost
import bench_engines
import bench_evaluate
import bench_importance
import bench_matmul
import bench_memory
import bench_sample
import bench_stack
import bench_stacked_step
import bench_start
import bench_sweep
import bench_train
from vaelab.commands.environment import let_threads_sleep

BENCHMARKS = {
    "cost": bench_cost,
    "engines": bench_engines,
    "importance": bench_importance,
    "matmul": bench_matmul,
    "memory": bench_memory,
    "start": bench_start,
    "train": bench_train,
    "evaluate": bench_evaluate,
    "sample": bench_sample,
    "sweep": bench_sweep,
    "stack": bench_stack,
    "stacked_step": bench_stacked_step,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=sorted(BENCHMARKS))
    parser.add_argument("--repetitions", type=int, default=5, help="that count (one more warms up)")
    parser.add_argument("--write", type=Path, help="also put the section into this Markdown file")
    arguments = parser.parse_args()

    let_threads_sleep()

    from vaelab.experiments.train import prepare_process

    prepare_process()
    benchmark = BENCHMARKS[arguments.what]
    times = benchmark.measure(arguments.repetitions, Path(os.environ.get("DATA_DIR", "data")))
    text = section(arguments.what, benchmark, times)
    print(text)
    if arguments.write:
        put(arguments.write, benchmark.TITLE, text)
        print(f"written: {arguments.write}")
    return 0


def section(what: str, benchmark: ModuleType, times: dict[str, list[float]]) -> str:
    """Markdown: what was measured, on what, and a table of medians, spreads and ratios to the first variant."""
    import torch

    from vaelab.runs.manifest import platform_record

    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    ours, *_ = times
    rows = [
        f"| {name} | {shown(medians[name])} | {shown(min(seconds))} to {shown(max(seconds))} | {medians[ours] / medians[name]:.2f} |"
        for name, seconds in times.items()
    ]
    return "\n".join(
        [
            f"## {benchmark.TITLE}",
            "",
            benchmark.ABOUT,
            "",
            f"- medians of {len(times[ours])}, measured {date.today()}",
            f"- hardware: {platform_record()['cpu']}, {os.cpu_count()} cores ({torch.get_num_threads()} threads)",
            f"- versions: Python {sys.version.split()[0]}, torch {version('torch')}, lightning {version('lightning')}",
            *(f"- {note}" for note in getattr(benchmark, "NOTES", [])),
            f"- command: `DATA_DIR=... .venv/bin/python scripts/bench.py {what} --write docs/benchmarks.md`",
            "",
            f"| variant | median | spread | {ours}, times this |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def shown(value: float) -> str:
    """With two digits after the point, or three that count."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def put(path: Path, title: str, text: str, new: str = "# Benchmarks\n") -> None:
    """Replace the section of that title in a Markdown file, or add it."""
    old = path.read_text(encoding="utf-8") if path.exists() else new
    there = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.M | re.S)
    found = there.search(old)
    new = old[: found.start()] + text + "\n" + old[found.end() :] if found else f"{old.rstrip()}\n\n{text}"
    path.write_text(new.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
