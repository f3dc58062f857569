"""From a directory to its page."""

from __future__ import annotations

import os
from pathlib import Path

from vaelab.errors import SettingError
from vaelab.report import page, run, runs
from vaelab.runs import RunDirectory, find_runs, write_atomically
from vaelab.runs.directory import is_run

NAME = "report.html"
MOST = 5_000_000  #: bytes of the page of a run


def report(directory: Path | str, output: Path | str | None = None) -> Path:
    """Write the page of a run, of a sweep, or of any folder of runs, whole or not at all, and return where it is.

    The same directory makes the same bytes, seen from the same place: no time of making is in them.

    Args:
        directory: of a run, or a folder that holds some.
        output: where the page goes; None = ``report.html`` in the directory.

    Raises:
        SettingError: of ``DIR``: there is no run, or what is in it leads out of it; of ``--output``: nothing can be written there.
    """
    directory = Path(directory)
    path = directory / NAME if output is None else Path(output)
    found = opened(directory)
    if found is not None:
        content, room = run.content(found, from_here(directory)), MOST
    else:
        content, room = runs.content(directory, path.parent, from_here(directory)), None
    text = page.render(content, room)
    try:
        write_atomically(path, text.encode(errors="replace"))  # a file's name may be no text
    except OSError as error:
        setting, received = ("DIR", directory) if output is None else ("--output", path)
        raise SettingError(
            setting, received, f"the page cannot be written ({error.strerror or error})"
        ) from None
    return path


def opened(directory: Path) -> RunDirectory | None:
    """The run of a directory; None of a sweep or a folder of runs.

    Raises:
        SettingError: of ``DIR``: there is neither.
    """
    if is_run(directory) or not directory.is_dir():
        return RunDirectory.open(directory, "DIR")  # says what is wrong with it, and which one was meant
    if not any(True for _ in find_runs(directory)) and not (directory / "sweep.json").is_file():
        raise SettingError("DIR", directory, "holds no run (one has manifest.json)")
    return None


def try_to_report(directory: Path) -> None:
    """The page of what has just ended, and a line that says where it is. One that cannot be made costs nobody the run: why is said in a line."""
    try:
        print(f"report  {report(directory)}", flush=True)
    except Exception as error:  # whatever it is, the run is there and on record
        text = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"no {NAME}: {text[:300]}; vae-report {directory} tries again", flush=True)


def from_here(path: Path) -> str:
    """A directory as one types it where one stands: relative below the current directory, else absolute."""
    whole, here = Path(os.path.abspath(path)), Path.cwd()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)
