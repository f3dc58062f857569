"""A command of ours as a process: where it is, and how Python code, as in a notebook, has it carried out. Imports neither Hydra nor torch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from vaelab.errors import MISSING, RunFailed, SettingError
from vaelab.sweeps.pool import dies_with

#: the variable that names the file in which a command is to leave the path of its run directory
RUN_FILE = "VAELAB_RUN_FILE"
#: what a notebook's kernel sets for what it shows itself: colours in a pipe, a backend of matplotlib that only it has
OF_A_KERNEL = ("FORCE_COLOR", "CLICOLOR_FORCE", "MPLBACKEND")
REFUSED, CTRL_C = 2, 130


def train(overrides: Sequence[str]) -> Path:
    """See :func:`vaelab.train`."""
    for override in overrides:
        if override.startswith("-"):
            rule = "is no setting; flags and sweeps (-m) are the command line's"
            raise SettingError("vaelab.train", override, rule)
    with TemporaryDirectory(prefix="vaelab-train-") as folder:
        file = Path(folder) / "run"
        _carry_out("vae-train", overrides, {RUN_FILE: str(file)})
        return Path(file.read_text(encoding="utf-8"))


def told() -> Path | None:
    """The file that :data:`RUN_FILE` names; None where nobody waits for it. Processes that this one starts are not told."""
    name = os.environ.pop(RUN_FILE, None)
    return None if name is None else Path(name)


def program(command: str) -> str:
    """Where a command of ours is: the one that runs, or that of this environment.

    Raises:
        RunFailed: it is not installed.
    """
    own = Path(sys.argv[0])
    if own.name == command and own.is_file():
        return str(own.absolute())
    beside = Path(sys.executable).with_name(command)
    found = str(beside) if beside.is_file() else shutil.which(command)
    if found is None:
        raise RunFailed(f"{command} is started as a command of its own, and is not installed: install the package")  # fmt: skip
    return found


def _carry_out(command: str, arguments: Sequence[str], variables: dict[str, str]) -> None:
    """Run a command to its end; what it prints is printed here, line by line.

    Raises:
        SettingError: it was refused.
        RunFailed: it ended with any other status than 0.
        KeyboardInterrupt: as here; the command was told, too, and has saved.
    """
    environment = {key: value for key, value in os.environ.items() if key not in OF_A_KERNEL}
    process = subprocess.Popen(
        [program(command), *arguments],
        env={**environment, **variables, "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # of an interrupt of the notebook it hears once, from here
        preexec_fn=dies_with(os.getpid()),
    )
    assert process.stdout is not None
    last, interrupted = "", False
    with process:
        while True:
            try:
                for line in process.stdout:
                    print(line.rstrip(), flush=True)
                    last = line.strip() or last
                break
            except KeyboardInterrupt:
                interrupted = True  # a second one does not wait for it to save
                process.send_signal(signal.SIGINT)
    said = last.removeprefix(f"{command}: ")
    if interrupted and process.returncode == CTRL_C:
        raise KeyboardInterrupt(said)
    if process.returncode == REFUSED:
        raise SettingError(command, MISSING, said)
    if process.returncode != 0:
        raise RunFailed(f"{command}: {said}", process.returncode)
