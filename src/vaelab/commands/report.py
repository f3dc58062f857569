"""``vae-report``: one page of HTML from a run, a sweep or a folder of runs."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from vaelab.commands.arguments import Parser
from vaelab.commands.environment import load_env_file
from vaelab.errors import SettingError


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages, print where they are, and return the exit status: 0; 2 for what is no run and no folder of runs."""
    arguments = _parser().parse_args(argv)
    try:
        load_env_file()
        directories = [Path(directory) for directory in arguments.directories]
        if arguments.output is not None and len(directories) > 1:
            raise SettingError("--output", arguments.output, "is one file, and takes one directory")
        from vaelab.report import opened, report  # what it needs costs 0.2 s: not for --help

        for directory in directories:
            opened(directory)  # what is wrong with one is said before any page is written
        for directory in directories:
            page = report(directory, arguments.output)
            print(_printable(str(page)), flush=True)
            if arguments.open:
                webbrowser.open(page.absolute().as_uri())
    except SettingError as error:
        print(_printable(f"vae-report: {error}"), file=sys.stderr)
        return 2
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="vae-report",
        description="A page of HTML for a run, a sweep or a folder of runs, in one file that needs nothing else: DIR/report.html.",
    )
    parser.add_argument("directories", nargs="+", metavar="DIR", help="a run directory, or a folder of them")
    parser.add_argument("--output", metavar="FILE", help="where the page goes")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    return parser


def _printable(text: str) -> str:
    """It may quote a file's name."""
    return "".join(c if c.isprintable() else "�" for c in text)
