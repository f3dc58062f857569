"""What a person sees while jobs are planned."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from vaelab.sweeps import screen


def seen(monkeypatch: pytest.MonkeyPatch, patience: float, **console: Any) -> str:
    """What is shown while two items are gone through, by somebody who leaves at the second."""
    file = io.StringIO()
    monkeypatch.setattr(screen, "PATIENCE", patience)
    monkeypatch.setattr(screen, "Console", lambda: Console(file=file, width=100, **console))

    def look() -> None:
        for item in screen.watched(["a", "b", "c"], "looking at the jobs"):
            if item == "b":
                raise KeyError

    with pytest.raises(KeyError):
        look()
    return file.getvalue()


def test_a_bar_comes_once_it_takes_long_and_goes_whatever_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = seen(monkeypatch, -1.0, force_terminal=True)
    assert "looking at the jobs" in shown
    assert "1/3" in shown
    assert "\x1b[?25l" in shown, "the cursor is hidden"
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "and comes back"


def test_no_bar_where_it_is_quick_or_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen(monkeypatch, 1000.0, force_terminal=True) == ""
    assert seen(monkeypatch, -1.0) == ""
