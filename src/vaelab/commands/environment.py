"""What surrounds a command: the ``.env`` file, and how threads wait."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vaelab.errors import SettingError


def load_env_file() -> None:
    """Set the variables of the nearest ``.env``; those that are set already win.

    Looked for from the current directory up to the root of its repository or to the home directory; outside
    both (``/tmp``, where other people write too) only in the current directory.
    """
    here = Path.cwd()
    folders = [here, *here.parents]
    ends = [i for i, folder in enumerate(folders) if folder == Path.home() or (folder / ".git").exists()]
    for folder in folders[: ends[0] + 1 if ends else 1]:
        path = folder / ".env"
        if path.is_file() and not of_a_run(path):
            from dotenv import load_dotenv

            try:
                load_dotenv(path, override=False)
            except (OSError, UnicodeDecodeError) as error:
                raise SettingError(".env", path, f"cannot be read ({error})") from error
            return


def of_a_run(path: Path) -> bool:
    """Whether what lies in the current directory came with a run directory: then it is data, and no setting of whoever stands there. Says so."""
    from vaelab.runs.directory import is_run  # 0.1 s: not for --help

    if not is_run(path.parent):
        return False
    print(f"{path} is not used: {path.parent} is a run directory", file=sys.stderr)
    return True


def let_threads_sleep() -> None:
    """Have idle OpenMP threads sleep soon instead of spinning; before torch is imported.

    Where two trainings share the cores, threads that spin keep the other's from running: with the default a step took 150 ms instead of 20 (two cores, two
    trainings of the reference). Alone, no difference was measured.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
