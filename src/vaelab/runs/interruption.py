"""Somebody wants the run to stop: Ctrl-C, a scheduler's SIGTERM or SIGUSR1. It stops where it can go on from."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

CTRL_C, RESUME_ME = 130, 75  # exit statuses

#: signals that ask a run to stop, and their names; Slurm announces the end of a job's time by SIGUSR1 (``--signal``)
SIGNALS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "SIGTERM",
    signal.SIGUSR1: "SIGUSR1",
    signal.SIGHUP: "SIGHUP",  # the terminal is gone
}


class Interrupted(BaseException):
    """What was asked for by a signal, raised where it does no harm. No :class:`Exception`: nothing that catches errors may keep a run going.

    Args:
        signum: one of :data:`SIGNALS`.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(SIGNALS[signal.Signals(signum)])
        self.signum = signum

    @property
    def exit_status(self) -> int:
        return CTRL_C if self.signum == signal.SIGINT else RESUME_ME


class StopRequest:
    """Whether somebody has asked the run to stop.

    While signals are :meth:`watched <watching>` one that comes raises :class:`Interrupted` at once, except within :meth:`deferred`: there it is noted, and
    whoever works asks :attr:`requested` wherever it can stop and calls :meth:`obey`. A second Ctrl-C is a :class:`KeyboardInterrupt` in any case.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._deferred = False

    @property
    def requested(self) -> bool:
        return self.signum is not None

    def obey(self) -> None:
        """Stop here, if somebody has asked for it.

        Raises:
            Interrupted
        """
        if self.signum is not None:
            raise Interrupted(self.signum)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Handle the signals; afterwards they are handled as before. Signals are the main thread's: in another one nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self.install()
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler if handler is not None else signal.SIG_DFL)

    def install(self) -> None:
        """Take the signals, also from who has taken them meanwhile: Lightning's own handlers stop each rank wherever it stands."""
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                if signum != signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:  # nohup
                    signal.signal(signum, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, a signal is noted and nothing more; what it asks for is done at the latest on leaving."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.obey()

    def _handle(self, signum: int, frame: FrameType | None) -> Any:
        _pass_on(signum)
        if signum == signal.SIGINT and self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = self.signum or signum
        if not self._deferred:
            raise Interrupted(self.signum)


def _pass_on(signum: int) -> None:
    """To ranks that are copies of this process: a scheduler may tell the first one alone. A terminal tells all of them."""
    if signum == signal.SIGINT:
        return
    for child in multiprocessing.active_children():
        if child.pid is not None:
            os.kill(child.pid, signum)
