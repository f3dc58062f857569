"""``vae-runs``: the table of runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vaelab.commands.environment import load_env_file
from vaelab.errors import SettingError, nearest


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and return the exit status: 0, or 2 for a directory that does not exist."""
    parser = argparse.ArgumentParser(
        prog="vae-runs",
        description="Table of runs, ranked by their validation score among runs that were measured alike.",
    )
    parser.add_argument(
        "directories", nargs="*", metavar="DIR", help="run directories or folders of them (default: logs)"
    )
    parser.add_argument("--json", action="store_true", help="the same content as JSON")
    arguments = parser.parse_args(argv)
    try:
        load_env_file()
    except SettingError as error:
        print(f"vae-runs: {error}", file=sys.stderr)
        return 2
    directories = [Path(d) for d in arguments.directories or [os.environ.get("VAELAB_LOG_DIR") or "logs"]]
    try:
        for directory in directories:
            _check(directory)
        return _print(directories, as_json=arguments.json)
    except SettingError as error:
        print(f"vae-runs: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `vae-runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _check(directory: Path) -> None:
    if directory.is_dir():
        return
    if os.path.lexists(directory):
        raise SettingError("DIR", directory, "is not a directory")
    beside = [str(directory.parent / p.name) for p in _folders(directory.parent)]
    raise SettingError("DIR", directory, "no such directory", nearest=nearest(str(directory), beside))


def _folders(parent: Path) -> list[Path]:
    try:
        return [p for p in parent.iterdir() if p.is_dir()]
    except OSError:
        return []


def _print(directories: Sequence[Path], *, as_json: bool) -> int:
    from vaelab.runs import table  # rich costs 0.1 s: not for --help
    from vaelab.runs.directory import find_runs

    found = {run.path.resolve(): table.read_row(run, root) for root in directories for run in find_runs(root)}
    rankings = table.rank(found.values())
    if as_json:
        print(json.dumps(table.as_json(rankings), indent=2, ensure_ascii=False))
    elif not found:
        print(f"No runs in {', '.join(map(str, directories))}.")
    else:
        from rich.console import Console

        Console(highlight=False).print(table.render(rankings))
    return 0
