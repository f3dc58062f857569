"""The bar of a long computation in parts."""

from __future__ import annotations

import io

import pytest

from vaelab.training import parts_progress
from vaelab.training import progress as screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_file_is_left_alone() -> None:
    log = io.StringIO()
    with parts_progress(log) as progress:
        assert progress is None
    assert log.getvalue() == ""


def test_a_terminal_shows_the_part_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(screen, "SECONDS_BETWEEN", 0.0)
    terminal = Terminal()
    with parts_progress(terminal) as progress:
        assert progress is not None
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
        assert progress is not None
        for done in range(1, 1001):
            progress("codes", done, 100_000)
        drawn = terminal.getvalue()
    assert "1/100000" in drawn
    assert "1000/100000" not in drawn
