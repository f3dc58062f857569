"""The processes of one run. The first one makes the run directory; the others, which compute on other devices, learn of it. Imports no torch.

They are started by Lightning, which runs the command again with what they have to know in variables, or all at once by Slurm's ``srun``: then they meet by a file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vaelab.errors import RunFailed, SettingError
from vaelab.runs import read_json, write_json

#: set by the first process for ranks that are processes of their own, which would otherwise make a run directory each
RUN_DIRECTORY = "VAELAB_RUN_DIRECTORY"
#: beside it: the checkpoint that the run goes on from
CHECKPOINT = "VAELAB_CHECKPOINT"
#: set beside them in a run that may be given up: the others have to listen
PRUNING = "VAELAB_PRUNING"
#: of processes that srun has started: the file by which they meet
MEETING = "VAELAB_MEETING"
LONGEST = 1800.0  # seconds that the others wait for the first one, which may have to fetch the data
POLL = 0.2


def tasks() -> int:
    """How many processes ``srun`` has started as this one; 1 where it has started none, or this one alone."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def is_main_process() -> bool:
    """False in a rank that was started to compute beside the first one."""
    if tasks() > 1:
        return os.environ.get("SLURM_PROCID", "0") == "0"
    return os.environ.get("LOCAL_RANK", "0") == "0" or RUN_DIRECTORY not in os.environ


def refuse_tasks(command: str) -> None:
    """Refuse to be one of several processes that srun has started, in a command that knows nothing of the others."""
    if tasks() > 1:
        rule = f"{command} takes one process: srun --ntasks=1"
        raise SettingError("SLURM_STEP_NUM_TASKS", tasks(), rule)


@contextmanager
def meeting(folder: Path) -> Iterator[bool | None]:
    """Within, processes of one ``srun`` carry out one run: they are let in once the first one has said which (:func:`announce`).

    Args:
        folder: that all of them know and see.

    Yields:
        None in the first process, and where there are no others; in the others whether the run was there already, and is resumed.

    Raises:
        RunFailed: in the others, if the first one has ended without a run.
    """
    if tasks() == 1:
        yield None
        return
    step = [os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")]
    place = folder / f".ranks_{'.'.join(step)}"
    if not is_main_process():
        yield _told(place)
        return
    os.environ[MEETING] = str(place)
    status, why = 1, "it ended"
    try:
        yield None
        status, why = 0, "there was nothing to do"
    except (SettingError, RunFailed) as error:
        status, why = getattr(error, "exit_status", 2), str(error)
        raise
    finally:
        del os.environ[MEETING]
        if place.is_file():
            place.unlink()  # the others have read it, or will not be let in
        else:
            _write(place, {"exit_status": status, "why": why})


def announce(
    directory: Path, checkpoint: Path | None, *, resumed: bool, may_be_given_up: bool = False
) -> None:
    """Tell the other processes which run it is, by variables and, where srun has started them, by the file of the meeting."""
    told = {RUN_DIRECTORY: str(directory.resolve())}
    if checkpoint is not None:
        told[CHECKPOINT] = str(directory.resolve() / checkpoint.relative_to(directory))
    if may_be_given_up:
        told[PRUNING] = "1"
    os.environ.update(told)
    if (place := os.environ.get(MEETING)) is not None:
        _write(Path(place), {"variables": told, "resumed": resumed})


def _write(place: Path, content: dict[str, object]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, content)


def _told(place: Path) -> bool:
    deadline = time.monotonic() + LONGEST
    while not place.is_file():
        if time.monotonic() > deadline:
            rule = "was not written by the first process; do all nodes see this folder?"
            raise RunFailed(f"{place} {rule}")
        time.sleep(POLL)
    content = read_json(place)
    if "variables" not in content:
        raise RunFailed(f"the first process has no run: {content['why']}", content["exit_status"])
    os.environ.update(content["variables"])
    return bool(content["resumed"])
