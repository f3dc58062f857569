"""The bar of a long computation in parts."""

from __future__ import annotations

import io

import pytest

from vaelab.training import parts_progress
from vaelab.training import progress as screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_file_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    log, now = io.StringIO(), [0.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])
    with parts_progress(log) as progress:
        for done in range(1, 101):
            now[0] = float(done)
            progress("codes", done, 100)
    assert log.getvalue().splitlines() == [
        "codes: 30 of 100, 30 s",
        "codes: 60 of 100, 60 s",
        "codes: 90 of 100, 90 s",
    ]


def test_a_terminal_shows_the_part_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(screen, "SECONDS_BETWEEN", 0.0)
    terminal = Terminal()
    with parts_progress(terminal) as progress:
        progress("codes", 1, 4)
        progress("codes", 2, 4)
        first = terminal.getvalue()
        progress("log q(z)", 1, None)
        second = terminal.getvalue()[len(first) :]
    assert "codes" in first
    assert "2/4" in first
    assert "log q(z)" in second
    assert "2/4" not in second.rpartition("log q(z)")[2]


def test_it_is_not_drawn_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with parts_progress(terminal) as progress:
        for done in range(1, 1001):
            progress("codes", done, 100_000)
        drawn = terminal.getvalue()
    assert "1/100000" in drawn
    assert "1000/100000" not in drawn
