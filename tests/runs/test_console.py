import io
import logging
import os
import subprocess
import sys
import threading

import pytest
from rich.console import Console
from rich.progress import Progress

from vaelab.errors import RunFailed
from vaelab.runs.console import ConsoleLog


@pytest.fixture
def path(tmp_path):
    return tmp_path / "console.log"


def replace_streams(monkeypatch):
    """Called inside the test: pytest puts its own streams in place between a fixture and the test."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


def test_both_streams_are_copied_without_colours_and_given_back(path, monkeypatch):
    streams = replace_streams(monkeypatch)
    with ConsoleLog(path):
        print("\x1b[1;31mred\x1b[0m")
        print("err", file=sys.stderr)
        sys.stdout.write("half \x1b[3")
        sys.stdout.write("2mgreen\x1b[0m")
    assert (sys.stdout, sys.stderr) == streams
    assert path.read_text() == "red\nerr\nhalf green\n"
    assert "\x1b[1;31mred" in streams[0].getvalue()
    print("after")
    assert "after" not in path.read_text()


def test_redrawn_lines_stand_once(path, monkeypatch):
    replace_streams(monkeypatch)
    with ConsoleLog(path):
        for i in range(10):
            sys.stderr.write(f"\rstep {i}")
        sys.stderr.write("\n")
        sys.stdout.write("dos\r\n")
    assert path.read_text() == "step 9\ndos\n"


def test_a_live_bar_of_several_lines_leaves_its_last_state(path, monkeypatch):
    replace_streams(monkeypatch)
    with ConsoleLog(path):
        console = Console(file=sys.stdout, force_terminal=True, width=60)
        with Progress(console=console, auto_refresh=False) as bar:
            a, b = bar.add_task("first", total=4), bar.add_task("second", total=4)
            for i in range(4):
                bar.update(a, advance=1)
                bar.update(b, advance=1)
                bar.refresh()
                console.print(f"message {i}")
    text = path.read_text()
    assert [line for line in text.splitlines() if "message" in line] == [f"message {i}" for i in range(4)]
    assert text.count("first") == 1
    assert text.count("second") == 1
    assert "100%" in text


def test_the_screen_bypasses_the_log(path, monkeypatch):
    streams = replace_streams(monkeypatch)
    with ConsoleLog(path) as console:
        console.screen.write("bar")
    assert streams[0].getvalue() == "bar"
    assert path.read_text() == ""


def test_logging_is_in_it_also_through_older_handlers(path, monkeypatch):
    streams = replace_streams(monkeypatch)
    logger = logging.getLogger("vaelab.test_console")
    logger.propagate = False
    handler = logging.StreamHandler(streams[1])
    logger.addHandler(handler)
    try:
        with ConsoleLog(path):
            logger.warning("from a handler")
        assert handler.stream is streams[1]
    finally:
        logger.removeHandler(handler)
    assert path.read_text() == "from a handler\n"


def test_the_traceback_goes_into_the_file_and_not_on_the_screen(path, monkeypatch):
    streams = replace_streams(monkeypatch)

    def fail():
        print("before")
        raise ZeroDivisionError("division by zero")

    with pytest.raises(ZeroDivisionError), ConsoleLog(path):
        fail()
    assert path.read_text().startswith("before\nTraceback")
    assert path.read_text().endswith("ZeroDivisionError: division by zero\n")
    assert streams[1].getvalue() == ""
    assert (sys.stdout, sys.stderr) == streams


def test_an_interruption_leaves_one_line_and_no_traceback(path):
    with pytest.raises(RunFailed), ConsoleLog(path):
        raise RunFailed("interrupted by Ctrl-C", 130) from KeyboardInterrupt()
    assert path.read_text() == "interrupted by Ctrl-C\n"


def test_a_full_disk_stops_nothing(path, monkeypatch):
    streams = replace_streams(monkeypatch)

    def full(*_):
        raise OSError(28, "No space left on device")

    with ConsoleLog(path):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            print("on the screen only")
        print("both")
    assert streams[0].getvalue() == "on the screen only\nboth\n"
    assert path.read_text() == "both\n"


def test_threads_do_not_tear_lines_and_a_second_log_continues_the_file(path, monkeypatch):
    replace_streams(monkeypatch)
    with ConsoleLog(path):
        threads = [threading.Thread(target=lambda: [print(".") for _ in range(200)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert path.read_text().replace("\n", "") == "." * 800
    with ConsoleLog(path):
        print("more")
    assert path.read_text().endswith("more\n")


def test_warnings_are_in_it(path):  # in a process of its own: pytest catches warnings
    code = (
        "import sys, warnings\nfrom vaelab.runs.console import ConsoleLog\n"
        "with ConsoleLog(sys.argv[1]): warnings.warn('careful')"
    )
    subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True)
    assert "UserWarning: careful" in path.read_text()


def test_a_screen_that_is_gone_ends_nothing(tmp_path, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    with ConsoleLog(tmp_path / "console.log"):
        for line in ("one", "two"):
            print(line, flush=True)
    assert (tmp_path / "console.log").read_text() == "one\ntwo\n"
