"""What runs go through, and whether their numbers survive it.

    .venv/bin/python scripts/torture.py kill|damage|signals|tracker|sweep|search [--trials 200] [--seed 0] [--write docs/reliability.md]

Each prints what it did and how it ended; the exit status is 1 if anything did not end as it should have.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; processes are forked

import torture_damage
import torture_kill
import torture_search
import torture_signals
import torture_sweep
import torture_tracker
from bench import put
from vaelab.runs.manifest import platform_record

TORTURES = {
    "kill": (torture_kill, 200),
    "damage": (torture_damage, 50),
    "signals": (torture_signals, 5),
    "tracker": (torture_tracker, 3),
    "sweep": (torture_sweep, 10),
    "search": (torture_search, 10),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=sorted(TORTURES))
    parser.add_argument(
        "--trials",
        type=int,
        help="200 kills, 50 of each damage, 5 signals, 3 trackers, 10 kills of a sweep or search",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="also put the section into this Markdown file")
    arguments = parser.parse_args()
    torture, usual = TORTURES[arguments.what]
    trials = arguments.trials or usual

    # paid for once, before the forks
    import vaelab.experiments.evaluate
    import vaelab.experiments.resume
    import vaelab.experiments.train  # noqa: F401

    began = time.monotonic()
    lines, failures = torture.torture(trials, arguments.seed)
    command = f"scripts/torture.py {arguments.what} --trials {trials} --seed {arguments.seed}"
    text = "\n".join(
        [
            f"## {torture.TITLE}",
            "",
            " ".join((torture.__doc__ or "").split()),
            "",
            *lines,
            "",
            f"`{command}`, {date.today()}, {time.monotonic() - began:.0f} s; {platform_record()['cpu']}, {os.cpu_count()} cores; "
            f"Python {sys.version.split()[0]}, torch {version('torch')}, lightning {version('lightning')}.",
            "",
        ]
    )
    print(text)
    if arguments.write:
        put(arguments.write, torture.TITLE, text, new="# Reliability\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
