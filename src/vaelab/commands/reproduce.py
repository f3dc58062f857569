"""``vae-reproduce``: a recorded run is made again from its record, and compared with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vaelab.commands.arguments import Parser
from vaelab.commands.environment import let_threads_sleep, load_env_file
from vaelab.errors import MISSING, RunFailed, SettingError, integer
from vaelab.runs.cards import printable
from vaelab.runs.interruption import Interrupted

if TYPE_CHECKING:
    from vaelab.experiments.reproduce import Reproduction

DIVERGED = 3  # exit status
SHOWN = 8  # lines of differences


def main(argv: Sequence[str] | None = None) -> int:
    """Reproduce and return the exit status: 0 bitwise or within tolerance; 1 failed; 2 refused; 3 diverged; 75, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.steps is not None:
            integer("--steps", arguments.steps, 1)
        load_env_file()
        let_threads_sleep()
        from vaelab.experiments.reproduce import reproduce  # seconds to import

        logs = Path(os.environ.get("VAELAB_LOG_DIR") or "logs")
        found = reproduce(
            arguments.directory,
            confirm=lambda question: _agreed(question, yes=arguments.yes),
            here=arguments.here,
            steps=arguments.steps,
            data_dir=arguments.data_dir,
            keep=logs / "reproductions" if arguments.keep else None,
        )
    except SettingError as error:
        print(printable(f"vae-reproduce: {error}"), file=sys.stderr)  # it may quote what a file holds
        return 2
    except RunFailed as error:
        print(f"vae-reproduce: {error}", file=sys.stderr)
        return error.exit_status
    except Interrupted as error:
        print(f"vae-reproduce: stopped by {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("vae-reproduce: stopped by Ctrl-C", file=sys.stderr)
        return 130
    return _show(found)


def _agreed(question: str, yes: bool) -> bool:
    """Whether a person says yes, on the command line or to the question."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise SettingError(
            "--yes", MISSING, printable(f"has to be given where nobody can be asked: {question}")
        )
    return input(f"{printable(question)} [y/N] ").strip().lower() in ("y", "yes")


def _show(found: Reproduction) -> int:
    from rich.console import Console

    from vaelab.runs.drift import Drift
    from vaelab.runs.verdict import TOLERANCE, Agreement

    verdict, console = found.verdict, Console(highlight=False)
    for line in verdict.lines[:SHOWN]:
        console.print(f"  {printable(line)}", markup=False)
    if len(verdict.lines) > SHOWN:
        console.print(f"  and {len(verdict.lines) - SHOWN:,} more")
    if verdict.largest:
        where = (
            "largest difference of losses"
            if verdict.first is None
            else f"up to step {verdict.first} losses differ by"
        )
        console.print(f"{where}: {verdict.largest:.1e} relative, at step {verdict.largest_step}")
    if verdict.agreement is not Agreement.BITWISE:
        console.print(f"tolerance: {TOLERANCE}", markup=False)
        if all(row.drift is Drift.SAME for row in found.rows):
            console.print(
                "nothing that is on record has changed, so every bit should be the same; on a GPU that takes trainer.deterministic=true"
            )
    console.print(f"compared: {'; '.join(verdict.compared)}", markup=False)
    if verdict.not_compared:
        console.print(f"not on record: {', '.join(verdict.not_compared)}", markup=False)
    if found.kept is not None:
        console.print(f"kept: {found.kept}", markup=False)
    console.print(str(verdict), style="bold")
    return DIVERGED if verdict.agreement is Agreement.DIVERGED else 0


def _parser() -> Parser:
    parser = Parser(
        prog="vae-reproduce",
        description="Make a recorded run again from its record, and say whether it is the same: bitwise, within tolerance, or diverged from which step on.",
    )
    parser.add_argument("directory", metavar="DIR", help="a run directory, or that of a W&B run")
    parser.add_argument(
        "--here", action="store_true", help="run the code that is here, whatever the record says"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="stop after N optimizer steps and compare their losses only"
    )
    parser.add_argument(
        "--yes", action="store_true", help="run recorded code that is not this repository's own, unasked"
    )
    parser.add_argument(
        "--data-dir", metavar="D", help="where the data lie, if not where they lay when the run was made"
    )
    parser.add_argument("--keep", action="store_true", help="keep the new run, in logs/reproductions")
    return parser
