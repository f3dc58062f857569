"""How a run ends is on record, whatever happens in between."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vaelab.errors import RunFailed
from vaelab.runs import RunDirectory, Status, complete_manifest, write_status
from vaelab.runs.interruption import CTRL_C, Interrupted, StopRequest
from vaelab.runs.status import Heartbeat


@dataclass
class Ending:
    """How a run may end.

    Attributes:
        stop: whether somebody wants it to.
        status: if nothing goes wrong: completed, or pruned.
        why: it was pruned.
        heartbeat: says that it goes on; is told how far it is.
        actions: what is done at the end, with the exit status.
    """

    stop: StopRequest = field(default_factory=StopRequest)
    status: Status = Status.COMPLETED
    why: str | None = None
    heartbeat: Heartbeat | None = None
    actions: list[Callable[[int], None]] = field(default_factory=list)


@contextmanager
def recorded(run: RunDirectory, redact: Callable[[str], str] = str) -> Iterator[Ending]:
    """``status.json`` says running, then completed, pruned, failed or interrupted; the actions of the :class:`Ending` are done in each case.

    Args:
        run: its directory.
        redact: takes out of the error's text what must not be written.

    Raises:
        RunFailed: in place of whatever ended the run; the traceback is in ``console.log``.
    """
    ending = Ending()
    write_status(run.status_file, Status.RUNNING)
    with ending.stop.watching():
        try:
            with Heartbeat(run.status_file) as ending.heartbeat:
                yield ending
        except BaseException as error:
            with _no_second_ctrl_c():
                found = interruption(error, ending.stop)
                status, text = (1, _one_line(error, redact)) if found is None else found
                _end(run, ending, Status.FAILED if found is None else Status.INTERRUPTED, status, text)
            if found is None:
                raise RunFailed(f"the run failed: {text}; the traceback is in {run.console_file}") from error
            raise RunFailed(f"interrupted by {text}; {_what_is_left(run)}", status) from error
    _end(run, ending, ending.status, 0, ending.why)


@contextmanager
def interruptible(what_next: Callable[[], str]) -> Iterator[None]:
    """For what has no ``status.json``: a signal ends it at once. ``what_next`` says how what is interrupted goes on.

    Raises:
        RunFailed: in place of the interruption.
    """
    stop = StopRequest()
    try:
        with stop.watching():
            yield
    except (Interrupted, KeyboardInterrupt, SystemExit) as error:
        found = interruption(error, stop)
        assert found is not None
        status, text = found
        raise RunFailed(f"interrupted by {text}; {what_next()}", status) from error


def interruption(error: BaseException, stop: StopRequest) -> tuple[int, str] | None:
    """Exit status and name of what interrupted a run; None for what is no interruption."""
    if isinstance(error, Interrupted):
        return error.exit_status, str(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return CTRL_C, "Ctrl-C"
    # a rank that was told, too, has ended before this one; a disk that is full is no such thing
    if stop.signum is not None and not isinstance(error, OSError):
        told = Interrupted(stop.signum)
        return told.exit_status, str(told)
    return None


def _end(run: RunDirectory, ending: Ending, status: Status, exit_status: int, error: str | None) -> None:
    def write_manifest() -> None:
        if run.manifest_file.is_file():
            complete_manifest(run, status)

    if exit_status == 0:  # said last, when it is true of everything
        write_manifest()
    write_status(run.status_file, status, exit_status=exit_status, error=error)
    if exit_status != 0:
        write_manifest()
    for action in ending.actions:
        action(exit_status)


def _one_line(error: BaseException, redact: Callable[[str], str]) -> str:
    text = redact(f"{type(error).__name__}: {' '.join(str(error).split())}")
    return text if len(text) <= 300 else text[:297] + "..."


def _what_is_left(run: RunDirectory) -> str:
    left = "" if run.last_checkpoint.is_file() else ", from its first step: there is no checkpoint yet"
    return f"vae-resume {run.path} goes on with it{left}"


@contextmanager
def _no_second_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
