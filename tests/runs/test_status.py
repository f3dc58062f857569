"""Which runs are alive: by their process on this machine, by their last word on others."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recorded import a_run
from vaelab.commands.runs import main
from vaelab.errors import SettingError
from vaelab.runs import Status, read_status, write_status
from vaelab.runs import status as module
from vaelab.runs.status import Heartbeat, is_live, process_identity

ELSEWHERE = "0123456789ab:17"
linux = pytest.mark.skipif(process_identity(os.getpid()) is None, reason="no /proc here")


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


@linux
def test_a_process_of_this_machine_is_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    script = f"from pathlib import Path; from vaelab.runs import Status, write_status; write_status(Path({str(path)!r}), Status.RUNNING); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as other:
        while not path.is_file():
            time.sleep(0.01)
        record = read_status(path)
        assert record.pid == other.pid
        assert is_live(dataclasses.replace(record, updated=ago(10_000))), "however long it was silent"
        other.kill()
        other.wait()
    assert not is_live(read_status(path)), "at once"
    mine = write_status(path, Status.RUNNING)
    assert is_live(mine)
    machine = str(mine.process).partition(":")[0]
    assert not is_live(dataclasses.replace(mine, process=f"{machine}:1")), "another process of that number"


@linux
def test_a_process_that_has_ended_and_is_not_waited_for_is_dead(tmp_path: Path) -> None:
    """A batch system or a container without an init leaves such ones behind."""
    record = write_status(tmp_path / "status.json", Status.RUNNING)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        named = dataclasses.replace(record, pid=other.pid, process=process_identity(other.pid))
        assert is_live(named)
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # ended, and still there
        assert Path(f"/proc/{other.pid}").exists()
        assert not is_live(named)


@pytest.mark.parametrize("process", [ELSEWHERE, None])
def test_of_another_machine_the_last_word_counts(tmp_path: Path, process: str | None) -> None:
    record = dataclasses.replace(write_status(tmp_path / "status.json", Status.RUNNING), process=process)
    assert is_live(dataclasses.replace(record, updated=ago(50)))
    assert not is_live(dataclasses.replace(record, updated=ago(70)))
    assert not is_live(dataclasses.replace(record, status=Status.COMPLETED))


def test_the_heart_beats_and_says_how_far_the_run_is(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    first = write_status(path, Status.RUNNING)
    with Heartbeat(path, seconds=0.01) as heartbeat:
        heartbeat.progress = (30, 120)
        deadline = time.monotonic() + 10
        while read_status(path).progress != [30, 120] and time.monotonic() < deadline:
            time.sleep(0.01)
        beaten = read_status(path)
        assert (beaten.progress, beaten.started) == ([30, 120], first.started)
        assert beaten.updated > first.updated
    write_status(path, Status.COMPLETED, exit_status=0)
    time.sleep(0.05)
    assert read_status(path).status is Status.COMPLETED, "it is over"


def test_a_disk_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with Heartbeat(folder / "status.json", seconds=0.01):
        folder.rmdir()
        time.sleep(0.05)


def test_no_name_of_anything_is_in_the_record(tmp_path: Path) -> None:
    import getpass
    import socket

    write_status(tmp_path / "status.json", Status.RUNNING)
    text = (tmp_path / "status.json").read_text()
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text


def test_an_older_record_is_read(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_status(path, Status.RUNNING)
    content = json.loads(path.read_text())
    del content["process"], content["progress"]
    path.write_text(json.dumps({**content, "updated": ago(3600)}))
    assert not is_live(read_status(path))


def test_the_table_tells_the_dead_from_the_living(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, change in (
        ("alive", {"updated": ago(5), "progress": [30, 120]}),
        ("silent", {"updated": ago(7_300)}),
    ):
        path = a_run(tmp_path, name, None) / "status.json"
        write_status(path, Status.RUNNING)
        content = {**json.loads(path.read_text()), "process": ELSEWHERE, **change}
        path.write_text(json.dumps(content))
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "running, 25%" in out
    assert "dead, silent for 2 h" in out
    assert main([str(tmp_path), "--json"]) == 0
    out = capsys.readouterr().out
    assert '"status": "running"' in out
    assert '"status": "dead"' in out


@pytest.mark.parametrize(
    "change",
    [
        {"progress": [0, 0]},
        {"progress": [1]},
        {"progress": ["1", 2]},
        {"progress": [-1, 2]},
        {"process": 3},
        {"pid": "../1"},
        {"pid": None},
        {"updated": "yesterday"},
        {"updated": "2026-01-01T00:00:00"},
        {"started": 5},
    ],
)
def test_what_no_run_writes_is_refused_and_never_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object]
) -> None:
    path = a_run(tmp_path, "a", None) / "status.json"
    write_status(path, Status.RUNNING)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(SettingError, match="is not a status record"):
        read_status(path)
    assert main([str(tmp_path)]) == 0
    assert "status.json: unreadable" in " ".join(capsys.readouterr().out.split())


@linux
def test_a_container_beside_this_one_is_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(path: str) -> str:
        assert path == "/proc/self/ns/pid"
        return "pid:[17]"

    with monkeypatch.context() as there:
        there.setattr(module.os, "readlink", elsewhere)
        record = dataclasses.replace(write_status(tmp_path / "status.json", Status.RUNNING), pid=2**22 + 1)
    assert is_live(record), "no process of that number is seen from here, and it has just been heard of"
    assert not is_live(dataclasses.replace(record, updated=ago(70)))


def test_a_lone_run_has_its_name_from_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(a_run(tmp_path, "alone", None))
    assert main(["."]) == 0
    assert "alone" in capsys.readouterr().out
