"""``vae-runs``: the table of runs."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaelab.commands.arguments import Parser
from vaelab.commands.environment import load_env_file
from vaelab.errors import SettingError, nearest

if TYPE_CHECKING:
    from vaelab.runs.selection import Selection
    from vaelab.runs.sweep import Sweep
    from vaelab.runs.sweep_table import Block
    from vaelab.runs.table import Row


SELECTING = ("metric", "split", "estimator", "num_samples")  # the fields of runs.selection.Selection


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table, or free space, and return the exit status: 0; 2 for what is not there, for numbers that cannot be compared, and where nobody can be asked."""
    arguments = _parser().parse_args(argv)
    try:
        load_env_file()
        if problem := _misplaced(arguments):
            print(f"vae-runs: {problem}", file=sys.stderr)
            return 2
        if arguments.diff is not None:
            return _diff(arguments)
        if arguments.bounds:
            return _bounds(arguments)
        directories = [Path(d) for d in arguments.directories or [os.environ.get("VAELAB_LOG_DIR") or "logs"]]
        for directory in directories:
            _check(directory)
        if arguments.prune:
            return _prune(directories, arguments.yes)
        return _tables(directories, arguments)
    except SettingError as error:
        # it may quote what a file holds
        print("".join(c if c.isprintable() else "�" for c in f"vae-runs: {error}"), file=sys.stderr)
        return 2
    except BrokenPipeError:  # `vae-runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> Parser:
    parser = Parser(
        prog="vae-runs",
        description="Table of runs, ranked by their validation score among runs that were measured alike.",
    )
    parser.add_argument(
        "directories", nargs="*", metavar="DIR", help="run directories or folders of them (default: logs)"
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="the cards of one metric (nll, elbo, ...) side by side, in blocks that can be compared",
    )
    parser.add_argument(
        "--diff",
        nargs=2,
        metavar=("A", "B"),
        help="two runs: settings that differ, and B - A of each number with its error",
    )
    parser.add_argument(
        "--bounds",
        action="store_true",
        help="the estimates of log p(x) of one run, paired by image: which bound is tighter",
    )
    parser.add_argument(
        "--rate-distortion",
        action="store_true",
        help="rate and distortion of runs that differ in objective.beta and seed, and a picture of them in DIR",
    )
    parser.add_argument(
        "--pictures",
        action="store_true",
        help="of the folder of a sweep: the number against each setting that was swept, drawn into it",
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove the checkpoints of completed runs, after a question; their weights and records stay",
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="with --prune: unasked, and also of runs named here that did not complete",
    )
    parser.add_argument("--split", metavar="NAME", help="only cards of this split: test, val")
    parser.add_argument(
        "--estimator", metavar="NAME", help="only cards by this estimator: importance, ais, ..."
    )
    parser.add_argument("--num-samples", metavar="K", type=int, help="only cards with this number of samples")
    parser.add_argument(
        "--force", action="store_true", help="show numbers that cannot be compared, in separate blocks"
    )
    parser.add_argument("--json", action="store_true", help="the same content as JSON")
    return parser


def _misplaced(arguments: argparse.Namespace) -> str | None:
    """What an option says that no table follows here."""
    if arguments.diff is not None and arguments.directories:
        return f"--diff takes two runs, and {arguments.directories[0]} is another one"
    ways = [
        name for name in ("metric", "diff", "bounds", "rate_distortion", "prune") if getattr(arguments, name)
    ]
    if len(ways) > 1 and ways != ["metric", "diff"]:  # the differences of one metric
        return f"--{ways[0]} and --{ways[1].replace('_', '-')} go one at a time"
    if arguments.bounds and len(arguments.directories) != 1:
        return "--bounds takes one run"
    if arguments.rate_distortion and len(arguments.directories) > 1:
        return "--rate-distortion takes one folder of runs, where the picture goes"
    if arguments.pictures and ways not in ([], ["metric"]):
        return f"--pictures and --{ways[0].replace('_', '-')} go one at a time"
    if arguments.yes and not arguments.prune:
        return "--yes goes with --prune"
    if arguments.json and arguments.prune:
        return "--json goes with tables, and --prune makes none"
    if ways in ([], ["bounds"], ["prune"]):
        given = [name for name in SELECTING if getattr(arguments, name) is not None]
        if given:
            return f"--{given[0].replace('_', '-')} goes with --metric NAME, --diff A B or --rate-distortion"
    if arguments.force and ways not in (["metric"], ["diff"], ["metric", "diff"]):
        return "--force goes with --metric NAME or --diff A B"
    return None


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


def _tables(directories: Sequence[Path], arguments: argparse.Namespace) -> int:
    """The runs below ``directories``: ranked in one table for each protocol, or one metric of theirs; of a sweep, its configurations."""
    from vaelab.runs import sweep, table  # rich costs 0.1 s: not for --help
    from vaelab.runs.directory import find_runs, is_run

    found = {run.path.resolve(): table.read_row(run, root) for root in directories for run in find_runs(root)}
    rows = list(found.values())
    if arguments.rate_distortion:
        return _rate_distortion(rows, directories[0], arguments)
    if len(directories) == 1 and sweep.is_sweep(directories[0], rows):
        return _sweep(directories[0], rows, arguments)
    if arguments.pictures:
        rule = "--pictures draws the runs of one sweep, and this is not the folder of one"
        raise SettingError("DIR", " ".join(map(str, directories)), rule)
    if arguments.metric is None:
        rankings = table.rank(rows)
        return _show(
            table.as_json(rankings), table.render(rankings) if rows else _none(directories), arguments
        )

    from vaelab.runs import side_by_side

    if not rows:
        return _show({"shared": {}, "blocks": [], "without": []}, _none(directories), arguments)
    selection = _selection(arguments)
    names = [row.name for row in rows]
    if len({*names}) < len(names):  # runs of one name in several folders
        rows = [dataclasses.replace(row, name=str(row.path)) for row in rows]
    blocks = side_by_side.blocks(rows, selection)
    # a folder is asked for whatever is in it, a run for its number
    named = {path.resolve() for path in directories if is_run(path)}
    if len(named) > 1 and not arguments.force:
        side_by_side.refuse_mixture([row for row in rows if row.path.resolve() in named], selection)
    without = [row.name for row in rows if not selection.of(row.cards)]
    return _show(side_by_side.as_json(blocks, without), side_by_side.render(blocks, without), arguments)


def _sweep(directory: Path, rows: Sequence[Row], arguments: argparse.Namespace) -> int:
    """A row a configuration; the same in files beside the runs, and pictures where they are asked for."""
    from vaelab.runs import sweep, sweep_results, sweep_table
    from vaelab.runs.cards import printable
    from vaelab.runs.rate_distortion import BETA

    found = sweep.read(directory, rows)
    scores = sweep_table.by_score(found)
    blocks = scores if arguments.metric is None else sweep_table.by_metric(found, _selection(arguments))
    drawn = _draw(found, blocks) if arguments.pictures else []
    below = [str(path) for path in drawn]
    try:
        runs, configurations = sweep_results.write(found, scores)
        below[:0] = [f"{runs}: a row a run; {configurations.name}: a row a configuration"]
    except OSError as error:  # somebody else's folder, a full disk: the table can be shown all the same
        print(f"vae-runs: the tables could not be written ({error})", file=sys.stderr)
    if found.keys and not arguments.pictures:
        below.append(f"--pictures draws it against {', '.join(found.keys)}")
    if found.keys == (BETA,):
        below.append("--rate-distortion draws rate against distortion")
    content = {**sweep_table.as_json(found, blocks), "pictures": [str(path) for path in drawn]}
    _show(content, sweep_table.render(found, blocks), arguments)
    if not arguments.json:
        for line in below:  # paths stay whole on a narrow screen
            print(printable(line))
    return 0


def _draw(found: Sweep, blocks: Sequence[Block]) -> list[Path]:
    from vaelab import figures
    from vaelab.runs import sweep_table

    paths = []
    for i, block in enumerate(blocks, start=1):
        for one in sweep_table.pictures(found, block):
            units = {None: "", "nats": " (nats per image)"}.get(one.units, f" ({one.units})")
            picture = figures.against_setting(
                one.values, one.means, one.errors, one.lines, setting=one.key, number=one.number + units,
                title=one.title, legend=one.legend,
            )  # fmt: skip
            number = f"_{i}" if len(blocks) > 1 else ""
            name = re.sub(r"[^A-Za-z0-9.=-]+", "_", f"{one.number}_against_{one.key}")[:150] + f"{number}.png"
            paths.append(figures.save(picture, found.folder / name))
    return paths


def _rate_distortion(rows: Sequence[Row], directory: Path, arguments: argparse.Namespace) -> int:
    """A sweep over beta as a table and a picture in its folder."""
    from vaelab import figures
    from vaelab.runs import rate_distortion

    selection = dataclasses.replace(_selection(arguments), split=arguments.split or "test")
    found = rate_distortion.curve(rows, selection)
    points = found.points
    errors = [p.errors for p in points if p.errors is not None]
    picture = figures.rate_distortion(
        [p.rate for p in points],
        [p.distortion for p in points],
        [p.beta for p in points],
        errors if len(errors) == len(points) else None,
        title=f"rate and distortion, labelled {found.label}"
        + (f"; errors over {found.errors_over}" if len(errors) == len(points) else ""),
    )
    path = figures.save(picture, directory / "rate_distortion.png")
    _show({**rate_distortion.as_json(found), "picture": str(path)}, rate_distortion.render(found), arguments)
    if not arguments.json:
        print(path)
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from vaelab.runs import difference, table
    from vaelab.runs.directory import RunDirectory

    a, b = (table.read_row(RunDirectory.open(path, "--diff")) for path in arguments.diff)
    comparison = difference.compare(a, b, _selection(arguments), force=arguments.force)
    content = difference.as_json(comparison, force=arguments.force)
    return _show(content, difference.render(comparison, force=arguments.force), arguments)


def _bounds(arguments: argparse.Namespace) -> int:
    from vaelab.runs import bounds, table
    from vaelab.runs.directory import RunDirectory

    row = table.read_row(RunDirectory.open(arguments.directories[0], "--bounds"))
    found = bounds.pairs(row)
    return _show(bounds.as_json(found), bounds.render(row, found), arguments)


def _prune(directories: Sequence[Path], yes: bool) -> int:
    """Free the space of finished runs: listed first, removed after a yes."""
    from rich.console import Console

    from vaelab.runs import pruning
    from vaelab.runs.cards import printable

    console = Console(highlight=False)
    found, left = pruning.survey(directories, yes)
    for run in left:
        console.print(f"kept: {printable(str(run.run.path))}: {printable(run.reason)}", markup=False)
    status = 2 if any(run.named for run in left) else 0
    if not found:
        print("Nothing to remove.")
        return status
    console.print(pruning.render(found))
    if not yes:
        if not sys.stdin.isatty():
            print("vae-runs: nothing is removed; --prune --yes removes it", file=sys.stderr)
            return 2
        if not _agreed("Remove these files? Weights and records stay."):
            print("Nothing is removed.")
            return status
    for one in found:
        pruning.prune(one)
    print(f"{pruning.size_text(sum(one.size for one in found))} freed")
    return status


def _agreed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _selection(arguments: argparse.Namespace) -> Selection:
    from vaelab.runs.selection import Selection

    return Selection(**{name: getattr(arguments, name) for name in SELECTING})


def _none(directories: Sequence[Path]) -> str:
    return f"No runs in {', '.join(map(str, directories))}."


def _show(content: Any, screen: Any, arguments: argparse.Namespace) -> int:
    if arguments.json:
        from vaelab.runs.files import to_json

        print(to_json(content, "vae-runs --json"))
    elif isinstance(screen, str):
        print(screen)
    else:
        from rich.console import Console

        Console(highlight=False).print(screen)
    return 0
