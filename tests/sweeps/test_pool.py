"""Processes in slots: how many at a time, how they end, and that none is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from vaelab.runs.status import process_identity
from vaelab.sweeps.pool import Pool
from vaelab.sweeps.slots import Slots
from vaelab.sweeps.workers import Ended, Process


def python(key: object, script: str, output: Path | None = None) -> Process:
    return Process(key, (sys.executable, "-S", "-c", dedent(script)), output=output)


def drain(pool: Pool) -> list[Ended]:
    ended = []
    while pool.running:
        ended += pool.collect(10)
    return ended


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline, f"{path} has not come"
        time.sleep(0.02)
    return path.read_text()


def is_gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while process_identity(pid) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_as_many_at_a_time_as_there_are_slots_in_the_order_of_submission(tmp_path: Path) -> None:
    script = f"""
        import os, time
        began = time.time(); time.sleep(0.2)
        open({str(tmp_path)!r} + "/" + str(os.getpid()), "w").write(f"{{began}} {{time.time()}}")
        """
    with Pool(Slots(2)) as pool:
        assert pool.free == 2
        for key in range(5):
            pool.submit(python(key, script))
        assert pool.free == -3
        assert [*pool.running] == [0, 1]
        ended = drain(pool)
        assert pool.free == 2
    assert sorted(one.key for one in ended) == [0, 1, 2, 3, 4]
    assert {(one.exit_status, one.cause) for one in ended} == {(0, None)}
    times = [tuple(map(float, path.read_text().split())) for path in tmp_path.iterdir()]
    at_once = [sum(began <= start < end for began, end in times) for start, _ in times]
    assert max(at_once) == 2


@pytest.mark.parametrize(
    "script, exit_status, cause",
    [
        ("print('a'); print('ValueError: b  c'); print(); raise SystemExit(3)", 3, "ValueError: b c"),
        ("raise SystemExit(4)", 4, "exit status 4"),
        ("import os; os.kill(os.getpid(), 9)", -9, "killed by SIGKILL (out of memory?)"),
        (
            "import os; print('terminate called: bad_alloc', flush=True); os.abort()",
            -6,
            "killed by SIGABRT: terminate called: bad_alloc",
        ),
    ],
)
def test_why_a_process_ended(script: str, exit_status: int, cause: str, tmp_path: Path) -> None:
    with Pool(Slots(1)) as pool:
        pool.submit(python("it", script, tmp_path / "out"))
        (ended,) = drain(pool)
    assert (ended.key, ended.exit_status, ended.cause) == ("it", exit_status, cause)


def test_what_each_slot_is_given(tmp_path: Path) -> None:
    script = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['CUDA_VISIBLE_DEVICES'])"
    with Pool(Slots(2, threads=3, gpus=("GPU-a", "GPU-b"))) as pool:
        for key in (0, 1):
            pool.submit(python(key, script, tmp_path / str(key)))
        drain(pool)
    assert [(tmp_path / str(key)).read_text() for key in (0, 1)] == ["3 GPU-a\n", "3 GPU-b\n"]


def test_a_process_that_is_told_may_end_as_it_likes(tmp_path: Path) -> None:
    script = f"""
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        open({str(tmp_path / "ready")!r}, "w").write("yes"); time.sleep(60)
        """
    with Pool(Slots(1)) as pool:
        pool.submit(python("first", script))
        pool.submit(python("second", script))
        wait_for(tmp_path / "ready")
        pool.tell(signal.SIGTERM)
        (ended,) = drain(pool)
        assert (ended.key, ended.exit_status) == ("first", 75)
        assert pool.free == 1, "the one that waited is forgotten"


STARTS_ANOTHER = """
    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    open({path!r}, "w").write(str(child.pid))
    {then}
    """


@pytest.mark.parametrize("then", ["time.sleep(60)", "import os; os.kill(os.getpid(), 9)"])
def test_what_a_process_has_started_ends_with_it(then: str, tmp_path: Path) -> None:
    """Ranks wait for ever for the one that was killed."""
    pool = Pool(Slots(1))
    pool.submit(python("it", STARTS_ANOTHER.format(path=str(tmp_path / "pid"), then=then)))
    grandchild = int(wait_for(tmp_path / "pid"))
    if "sleep" in then:
        assert process_identity(grandchild) is not None
        pool.close()
    else:
        drain(pool)
    assert is_gone(grandchild)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_processes_are_told_when_whoever_started_them_is_killed(tmp_path: Path) -> None:
    child = f"""
        import os, signal, sys, time
        def save(*_):
            open({str(tmp_path / "saved")!r}, "w").write("yes"); sys.exit(75)
        signal.signal(signal.SIGTERM, save)
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid())); time.sleep(60)
        """
    parent = f"""
        import sys, time
        from vaelab.sweeps.pool import Pool
        from vaelab.sweeps.workers import Process
        from vaelab.sweeps.slots import Slots
        pool = Pool(Slots(1))
        pool.submit(Process("it", (sys.executable, "-S", "-c", {dedent(child)!r})))
        time.sleep(60)
        """
    sweep = subprocess.Popen([sys.executable, "-c", dedent(parent)])
    try:
        pid = int(wait_for(tmp_path / "pid"))
    finally:
        sweep.kill()
        sweep.wait()
    assert wait_for(tmp_path / "saved") == "yes"
    assert is_gone(pid)
