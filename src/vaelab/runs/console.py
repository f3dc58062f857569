"""What the screen showed, in ``console.log``: without colours and without the redraws of progress bars."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

_TOKEN = re.compile(
    r"(?P<up>\x1b\[(?P<lines>\d*)A)|(?P<erase>\x1b\[2K)"
    r"|(?P<escape>\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-Z\\^-~])"
    r"|(?P<newline>\r*\n)|(?P<return>\r+)|(?P<back>\x08)|(?P<other>[\x00-\x08\x0b-\x1f\x7f])|(?P<text>[^\x00-\x08\x0a-\x1f\x7f]+)"
)
_UNFINISHED = re.compile(r"(?:\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]{0,4096}\x1b?)?|\r+)\Z")


class ConsoleLog:
    """Copies ``sys.stdout`` and ``sys.stderr`` into a file while the context is open.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "console.log"
    >>> with ConsoleLog(path):
    ...     print("epoch 1")
    epoch 1
    >>> path.read_text()
    'epoch 1\\n'

    Python's logging and warnings are in it, also through handlers made before; what C code or a child process
    writes is not. A line that is drawn again (carriage return, cursor up) stands in the file once, as last
    drawn. An exception that leaves the context leaves its traceback in the file (not on the screen: the
    command prints one line). The file is appended to, so a resumed run continues it. A file that cannot be
    written to (a full disk) never stops the run, nor does a screen that is gone. What ``redact`` takes out of a line (secrets) is not in it. ``screen`` is the stream that bypasses the file, for a live
    progress bar.
    """

    def __init__(self, path: Path | str, redact: Callable[[str], str] = str) -> None:
        self.path = Path(path)
        self._redact = redact
        self.screen: TextIO = sys.stdout

    def __enter__(self) -> ConsoleLog:
        self._log = _Log(self.path, self._redact)
        self.screen = sys.stdout
        self._before = (sys.stdout, sys.stderr)
        out, err = _Tee(sys.stdout, self._log), _Tee(sys.stderr, self._log)
        self._tees = (out, err)
        for handler in _stream_handlers():
            if handler.stream in self._before:
                handler.setStream(out if handler.stream is self._before[0] else err)
        sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tee in self._tees:
            tee.finish()
        # only what is still ours is put back: somebody else may have wrapped the streams in between
        if sys.stdout is self._tees[0]:
            sys.stdout = self._before[0]
        if sys.stderr is self._tees[1]:
            sys.stderr = self._before[1]
        for handler in _stream_handlers():  # also those made meanwhile
            if handler.stream in self._tees:
                handler.setStream(self._before[self._tees.index(handler.stream)])
        if error is not None and isinstance(error.__cause__, KeyboardInterrupt | SystemExit):
            self._log.write(f"{error}\n")  # stopped from outside: where it stood does not matter
        elif error is not None and not isinstance(error, SystemExit):
            self._log.write("".join(traceback.format_exception(kind, error, trace)))
        self._log.close()


class _Tee:
    """A stream that writes to the original one and to the log; everything else (isatty, fileno, ...) is the
    original's.
    """

    def __init__(self, screen: TextIO, log: _Log) -> None:
        self._screen, self._log = screen, log
        self._line, self._tail = "", ""
        self._is_gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._screen, name)

    def write(self, text: str) -> int:
        self._show(self._screen.write, text)
        self._log.guarded(self._take, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._show(self._screen.flush)

    def _show(self, action: Callable[..., Any], *arguments: Any) -> None:
        """A screen that is gone (a pipe that nobody reads, a closed terminal) is no reason to end what goes on; the log has it all."""
        if self._is_gone:
            return
        try:
            action(*arguments)
        except OSError:
            self._is_gone = True

    def finish(self) -> None:
        self._log.guarded(self._finish)

    def _finish(self) -> None:
        if self._line:
            self._log.line(self._line)
        self._line = self._tail = ""

    def _take(self, text: str) -> None:
        text = self._tail + text
        unfinished = _UNFINISHED.search(text)
        cut = unfinished.start() if unfinished else len(text)
        self._tail = text[cut:]
        for token in _TOKEN.finditer(text[:cut]):
            match token.lastgroup:
                case "text":
                    self._line += token.group()
                case "newline":
                    line, self._line = self._line, ""  # first: a full disk must not glue two lines
                    self._log.line(line)
                case "return" | "erase":
                    self._line = ""
                case "up" | "lines":
                    self._line = ""
                    self._log.take_back(int(token["lines"] or 1))
                case "back":
                    self._line = self._line[:-1]


class _Log:
    """The file: whole lines, of which the last ones can be taken back (a bar of several lines is redrawn
    that way).
    """

    MEMORY = 200  # lines; no bar is higher

    def __init__(self, path: Path, redact: Callable[[str], str]) -> None:
        self._redact = redact
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._starts: list[int] = []
        self._end = os.lseek(self._file, 0, os.SEEK_END)
        self._lock = threading.RLock()
        self._open = True

    def guarded(self, action: Any, *arguments: Any) -> None:
        with self._lock:
            if self._open:
                action(*arguments)

    def line(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._append(text)

    def _append(self, text: str) -> None:
        end = os.lseek(self._file, 0, os.SEEK_END)
        if end != self._end:  # another process wrote too (a forked rank): its lines are not ours to take back
            self._starts.clear()
        self._starts = [*self._starts[-self.MEMORY :], end]
        self._end = end + os.write(self._file, f"{self._redact(text.rstrip())}\n".encode(errors="replace"))

    def take_back(self, lines: int) -> None:
        with contextlib.suppress(OSError):
            self._truncate(lines)

    def _truncate(self, lines: int) -> None:
        if lines <= len(self._starts) and os.lseek(self._file, 0, os.SEEK_END) == self._end:
            self._end = self._starts[-lines]
            del self._starts[-lines:]
            os.ftruncate(self._file, self._end)

    def write(self, text: str) -> None:
        for line in text.splitlines():
            self.guarded(self.line, line)

    def close(self) -> None:
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._file)


def _stream_handlers() -> list[logging.StreamHandler[Any]]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    found = [h for item in loggers if isinstance(item, logging.Logger) for h in item.handlers]
    return list(
        {id(h): h for h in found if isinstance(h, logging.StreamHandler) and hasattr(h, "stream")}.values()
    )
