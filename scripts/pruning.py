"""How much of a search pruning saves, and whether it finds the same: one sequence of configurations, with every run carried to its end and with a pruner.

    DATA_DIR=... .venv/bin/python scripts/pruning.py [--pruner median] [--trials 40] [--folder DIR]

Configurations are drawn at random from a fixed seed and run one at a time, so both searches have the same ones in the same order. A table of epochs and of the
best is printed; the sweeps stay in the folder, and the same command goes on with them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from vaelab.runs import RunDirectory, find_runs
from vaelab.runs.metrics import read

SPACE = (
    "latent_dim=int(interval(2,32))",
    "optimizer.lr=tag(log,interval(1e-5,1e-2))",
    "encoder=mlp,gated_mlp",
)
USUAL = ("data=digits", "trainer=cpu", "logger=none", "trainer.enable_progress_bar=false", "hydra/sweeper=optuna", "sweep.sampler=random", "sweep.slots=1")  # fmt: skip


def main() -> None:
    arguments = parser().parse_args()
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="vaelab-pruning-"))
    print(f"in {folder}")
    found = {}
    for pruner in ("none", arguments.pruner):
        name = f"pruner_{pruner}"
        typed = (
            *SPACE,
            *USUAL,
            f"sweep.trials={arguments.trials}",
            f"sweep.pruner={pruner}",
            f"sweep.name={name}",
        )
        command = [
            str(Path(sys.executable).with_name("vae-train")),
            "-m",
            *typed,
            f"trainer.max_epochs={arguments.epochs}",
        ]
        subprocess.run(command, cwd=folder, check=True)
        found[pruner] = outcome(folder / "logs" / "sweeps" / name)
    print(
        "\n| pruner | completed | pruned | epochs | of all | best trial | its configuration | its validation ELBO |"
    )
    print("|---|---|---|---|---|---|---|---|")
    whole = found["none"]["epochs"]
    for pruner, one in found.items():
        print(
            f"| {pruner} | {one['complete']} | {one['pruned']} | {one['epochs']} | {one['epochs'] / whole:.2f} "
            f"| {one['best']} | {one['params']} | {one['value']:.3f} |"
        )
    none, other = found["none"], found[arguments.pruner]
    assert none["all"] == other["all"], "the two searches had not the same configurations"
    same = none["best"] == other["best"]
    print(f"\nthe same {arguments.trials} configurations; the same best one: {same}")
    sys.exit(not same or other["epochs"] > 0.7 * whole)


def outcome(folder: Path) -> dict[str, Any]:
    """What a search has found, and the epochs that its runs took."""
    record = json.loads((folder / "search.json").read_text())
    states = [trial["state"] for trial in record["trials"]]
    (best,) = record["best"]
    trial = record["trials"][best]
    return {
        "complete": states.count("complete"),
        "pruned": states.count("pruned"),
        "epochs": sum(epochs(run) for run in find_runs(folder)),
        "best": best,
        "params": " ".join(f"{key}={value}" for key, value in trial["params"].items()),
        "value": trial["values"][0],
        "all": [one["params"] for one in record["trials"]],
    }


def epochs(run: RunDirectory) -> int:
    """Validations of a run: there is one at the end of each epoch."""
    return sum("val/elbo" in row for row in read(run.metrics_file))


def parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--pruner", default="median", choices=("median", "hyperband"))
    found.add_argument("--trials", type=int, default=40, help="configurations")
    found.add_argument("--epochs", type=int, default=10, help="of a run that is carried to its end")
    found.add_argument("--folder", help="that the sweeps lie in; default: a new temporary one")
    return found


if __name__ == "__main__":
    main()
