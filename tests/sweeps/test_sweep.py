"""What a sweep does with jobs and with what its folder holds; runs are stood in for (standin.py), all else is real."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vaelab.errors import RunFailed
from vaelab.runs import RunDirectory, Status, read_json, read_manifest, read_status, write_status
from vaelab.runs.status import is_live
from vaelab.sweeps import grid, record, screen
from vaelab.sweeps.claim import Claim
from vaelab.sweeps.job import Job, Place, sweep_name
from vaelab.sweeps.pool import Pool
from vaelab.sweeps.slots import Slots
from vaelab.sweeps.sweep import Commands, Result, Sweep

STANDIN = str(Path(__file__).with_name("standin.py"))
CONFIG = {"score": {"name": "val/elbo", "mode": "max"}}


def job(seed: int, word: str = "completes") -> Job:
    """One run; ``word`` says how it goes and is none of its identity."""
    identity = f"{seed:064x}"
    return Job((word, f"identity={identity}"), {"seed": seed}, CONFIG, identity, (f"seed={seed}",))


Start = Callable[..., list[Result]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start the sweep with these jobs, and wait for its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS")

    def _start(*jobs: Job, slots: int = 2, retry: int = 1) -> list[Result]:
        sweep = open_sweep(tmp_path, slots, retry)
        try:
            return sorted(grid.run(sweep, jobs), key=lambda result: result.job.identity)
        finally:
            sweep.close()

    return _start


RESUME = (sys.executable, STANDIN, "resume")


def open_sweep(tmp_path: Path, slots: int = 2, retry: int = 1, resume: tuple[str, ...] = RESUME) -> Sweep:
    commands = Commands((sys.executable, STANDIN, "train"), resume)
    return Sweep(tmp_path / "s", commands, Pool(Slots(slots)), retry, ["vae-train", "-m"], ["seed=0,1"])


def begun(tmp_path: Path) -> list[str]:
    """The runs that processes were started for since the last call, by their names."""
    file = tmp_path / "started"
    lines = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return sorted(name.partition("_")[0] for name in lines)


def entries(tmp_path: Path) -> dict[str, dict[str, Any]]:
    content = read_json(tmp_path / "s" / "sweep.json")
    return {entry["name"]: entry for entry in content["jobs"]}


def brief(results: list[Result]) -> list[tuple[str, str | None]]:
    return [(result.status, result.error) for result in results]


def test_each_job_makes_its_run_and_the_record_says_so(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = start(job(1), job(2), job(3))
    assert brief(results) == [("completed", None)] * 3
    assert [result.score for result in results] == [-1, -2, -3]
    assert begun(tmp_path) == ["seed=1", "seed=2", "seed=3"]
    run = tmp_path / "s" / "seed=2_00000000"
    assert read_manifest(RunDirectory(run))["sweep"] == {"name": "s", "swept": {"seed": 2}}
    content = read_json(tmp_path / "s" / "sweep.json")
    assert (content["schema"], content["name"]) == (1, "s")
    assert [one["overrides"] for one in content["starts"]] == [["seed=0,1"]]
    entry = entries(tmp_path)["seed=2"]
    assert 0 < entry.pop("seconds") < 60
    assert entry == {
        "id": f"{2:064x}", "name": "seed=2", "overrides": list(job(2).overrides), "swept": {"seed": 2}, "run": run.name,
        "status": "completed", "error": None, "tries": 1,
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "3/3  seed=" in out
    assert "completed  val/elbo -" in out


def test_what_is_complete_is_not_run_again_and_what_is_new_is_added(start: Start, tmp_path: Path) -> None:
    start(job(1), job(2))
    begun(tmp_path)
    results = start(job(1), job(2), job(3), job(4))
    assert begun(tmp_path) == ["seed=3", "seed=4"]
    assert [result.score for result in results] == [-1, -2, -3, -4]
    assert [result.seconds is None for result in results] == [True, True, False, False]
    start(job(5))
    assert {*entries(tmp_path)} == {f"seed={n}" for n in range(1, 6)}, "earlier jobs stay on record"


def test_a_run_is_known_by_its_identity_and_not_by_its_name(start: Start, tmp_path: Path) -> None:
    start(job(1))
    (tmp_path / "s" / "seed=1_00000000").rename(tmp_path / "s" / "mine")
    (tmp_path / "s" / "sweep.json").unlink()
    begun(tmp_path)
    (result,) = start(job(1))
    assert begun(tmp_path) == []
    assert (result.status, result.score, result.run) == ("completed", -1, tmp_path / "s" / "mine")
    assert entries(tmp_path)["seed=1"]["run"] == "mine"


def test_one_configuration_twice_in_a_grid_runs_once(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Job(("completes", f"identity={1:064x}"), {"tags": "b"}, CONFIG, f"{1:064x}", ("tags=b",))
    assert brief(start(job(1), other)) == [("completed", None)]
    assert begun(tmp_path) == ["seed=1"]
    assert (
        "tags=b is the same run as seed=1: no setting that makes its numbers differs"
        in capsys.readouterr().out
    )


def test_the_others_go_on_and_causes_are_on_record(start: Start, tmp_path: Path) -> None:
    jobs = (
        job(1),
        job(2, "raises"),
        job(3, "is_killed"),
        job(4, "imports_nothing"),
        job(5, "is_refused"),
        job(6),
    )
    expected = [
        ("completed", None),
        ("failed", "ValueError: no good"),
        ("failed", "killed by SIGKILL (out of memory?)"),
        ("failed", "ImportError: no such library"),
        ("refused", "model=x: does not go with prior=y"),
        ("completed", None),
    ]
    assert brief(start(*jobs)) == expected
    found = entries(tmp_path).values()
    assert [(entry["status"], entry["error"]) for entry in found] == expected
    output = tmp_path / "s" / ".output"
    assert "no such library" in (output / "seed=4_00000000.txt").read_text()
    assert not (output / "seed=1_00000000.txt").exists()


def test_the_next_start_runs_those_that_failed_and_no_other(start: Start, tmp_path: Path) -> None:
    start(job(1), job(2, "raises"), job(3, "is_killed"), job(4, "imports_nothing"), job(5))
    begun(tmp_path)
    results = start(*map(job, range(1, 6)))
    assert brief(results) == [("completed", None)] * 5
    assert begun(tmp_path) == ["seed=2", "seed=3", "seed=4"]
    folder = tmp_path / "s"
    assert read_status(folder / "seed=2_00000000.failed-1" / "status.json").status is Status.FAILED
    assert not (folder / "seed=3_00000000.failed-1").exists(), "one that was killed is resumed in its place"


def test_a_failure_is_tried_again_as_often_as_is_said(start: Start, tmp_path: Path) -> None:
    once = (job(1, "raises"), job(2, "imports_nothing"))
    for number in (1, 2, 3):
        results = start(*once, retry=2)
        assert begun(tmp_path) == ["seed=1"], number
    results = start(*once, retry=2)
    assert begun(tmp_path) == []
    assert brief(results) == [
        ("failed", "ValueError: no good (tried 3 times; no more with sweep.retry=2)"),
        ("failed", "ImportError: no such library (tried 3 times; no more with sweep.retry=2)"),
    ]
    assert {path.name for path in (tmp_path / "s").glob("seed*")} == {
        "seed=1_00000000", "seed=1_00000000.failed-1", "seed=1_00000000.failed-2",
    }  # fmt: skip
    assert brief(start(*map(job, (1, 2)), retry=3)) == [("completed", None)] * 2


def test_a_refusal_is_not_asked_for_again(start: Start, tmp_path: Path) -> None:
    start(job(1, "is_refused"))
    assert brief(start(job(1))) == [("refused", "model=x: does not go with prior=y")]
    (tmp_path / "s" / "sweep.json").unlink()
    assert brief(start(job(1))) == [("completed", None)]


def test_one_that_was_pruned_has_ended_well_with_its_last_score(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = start(job(1), job(2, "is_pruned"), job(3))
    pruned = results[1]
    assert (pruned.status, pruned.error, pruned.score) == ("pruned", "at validation 2 of 10", 5.0)
    assert "seed=2  pruned: at validation 2 of 10  val/elbo 5  " in capsys.readouterr().out
    assert screen.summary(results, "val/elbo", "max") == [
        "val/elbo  job",
        "      -1  seed=1",
        "      -3  seed=3",
        "  pruned  seed=2  at validation 2 of 10  val/elbo 5",
    ]
    assert screen.counted(results) == "2 completed, 1 pruned"
    assert not (tmp_path / "s" / ".output" / "seed=2_00000000.txt").exists(), "console.log has it"
    assert entries(tmp_path)["seed=2"]["status"] == "pruned"
    begun(tmp_path)
    again = start(job(1), job(2), job(3))
    assert begun(tmp_path) == [], "it is not run again"
    assert (again[1].status, again[1].score, again[1].error) == ("pruned", 5.0, "at validation 2 of 10")


def test_a_job_is_told_its_variables_when_it_is_made_and_when_it_is_resumed(
    start: Start, tmp_path: Path
) -> None:
    told = replace(job(1, "is_killed"), environment={"VAELAB_TRIAL": "7"})
    start(told)
    start(told)
    assert (tmp_path / "told").read_text().split() == ["7", "7"]


def test_a_damaged_record_is_made_anew_from_the_runs(start: Start, tmp_path: Path) -> None:
    start(job(1), job(2))
    begun(tmp_path)
    for content in ("{", "[]", '{"schema": 1, "jobs": [{"id": 3}]}', '{"schema": 9, "jobs": []}'):
        (tmp_path / "s" / "sweep.json").write_text(content)
        assert brief(start(job(1), job(2))) == [("completed", None)] * 2
    assert begun(tmp_path) == []
    assert {*entries(tmp_path)} == {"seed=1", "seed=2"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of the sweep, on a disk that half a megabyte fills."""
    folder = tmp_path / "s"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_full_disk_no_job_is_begun_and_none_is_lost(
    start: Start, small_disk: Path, tmp_path: Path
) -> None:
    jobs = (job(1), job(2, "fills"), job(3), job(4))
    with pytest.raises(RunFailed) as caught:
        start(*jobs, slots=1)
    assert str(caught.value) == (
        f"{small_disk}: No space left on device; 2 jobs were not begun: the same command goes on with the sweep"
    )
    assert begun(tmp_path) == ["seed=1", "seed=2"]
    with pytest.raises(RunFailed, match="No space left on device; 3 jobs were not begun"):
        start(*jobs, slots=1)  # there is no more room than before
    assert begun(tmp_path) == []
    (small_disk / "ballast").unlink()
    assert brief(start(*jobs, slots=1)) == [("completed", None)] * 4
    assert begun(tmp_path) == ["seed=2", "seed=3", "seed=4"]
    assert [entry["tries"] for entry in entries(tmp_path).values()] == [1] * 4


def test_a_job_that_a_full_disk_ended_is_tried_again_and_no_other_before(
    start: Start, tmp_path: Path
) -> None:
    """A refusal stays on record otherwise."""
    with pytest.raises(RunFailed) as caught:
        start(job(1), job(2, "finds_it_full"), job(3), slots=1)
    reason = "paths.log_dir=logs: must be a directory that can be written to (No space left on device)"
    assert str(caught.value).startswith(f"seed=2 failed: {reason}; 1 job was not begun")
    assert begun(tmp_path) == ["seed=1"]
    assert [entry["status"] for entry in entries(tmp_path).values()] == ["completed", "failed", "waiting"]
    assert brief(start(job(1), job(2), job(3))) == [("completed", None)] * 3


def test_a_disk_that_is_full_for_the_record_alone_ends_no_job(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that run end by themselves, and their results are collected."""
    write, written = record.write_json, []

    def write_json(path: Path, content: Any) -> None:
        written.append(path)
        if len(written) > 2:  # one for each job that begins
            raise OSError(errno.ENOSPC, "No space left on device", str(path.with_name(".sweep.json.0.tmp")))
        write(path, content)

    monkeypatch.setattr(record, "write_json", write_json)
    sweep = open_sweep(tmp_path)
    with pytest.raises(RunFailed, match="s: No space left on device; 2 jobs were not begun"):
        grid.run(sweep, [job(number) for number in (1, 2, 3, 4)])
    assert brief(sweep.results) == [("completed", None)] * 2
    monkeypatch.setattr(record, "write_json", write)
    sweep.close()
    standing = [(entry["status"], entry["tries"]) for entry in entries(tmp_path).values()]
    assert standing == [("completed", 1)] * 2 + [("waiting", 0)] * 2
    assert brief(start(*map(job, (1, 2, 3, 4)))) == [("completed", None)] * 4
    assert begun(tmp_path) == ["seed=1", "seed=2", "seed=3", "seed=4"]


def test_an_attempt_that_died_before_its_record_leaves_no_trace(start: Start, tmp_path: Path) -> None:
    assert brief(start(job(1, "has_no_record"))) == [("failed", "killed by SIGKILL (out of memory?)")]
    assert brief(start(job(1))) == [("completed", None)]
    assert [path.name for path in (tmp_path / "s").glob("seed*")] == ["seed=1_00000000"]


def test_a_status_of_an_earlier_process_says_nothing_of_this_one(start: Start, tmp_path: Path) -> None:
    start(job(1))
    status = tmp_path / "s" / "seed=1_00000000" / "status.json"
    write_status(status, Status.INTERRUPTED, exit_status=75, error="SIGTERM")
    dies = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    sweep = open_sweep(tmp_path, resume=dies)
    try:
        assert brief(grid.run(sweep, [job(1)])) == [("failed", "killed by SIGKILL (out of memory?)")]
    finally:
        sweep.close()
    assert brief(start(job(1))) == [("completed", None)]


def test_a_run_that_a_search_gave_up_stays_so(start: Start, tmp_path: Path) -> None:
    start(job(1))
    write_status(tmp_path / "s" / "seed=1_00000000" / "status.json", Status.PRUNED)
    begun(tmp_path)
    assert brief(start(job(1))) == [("pruned", None)]
    assert begun(tmp_path) == []


def test_jobs_of_a_search_are_collected_as_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A free slot has the next job at once, and does not wait for the slowest of a batch."""
    monkeypatch.chdir(tmp_path)
    sweep = open_sweep(tmp_path)
    try:
        assert sweep.free == 2
        sweep.submit(job(1, "waits"))
        for number in (2, 3, 4):
            sweep.submit(job(number))
            assert sweep.free == 0
            results: list[Result] = []
            while not results:
                results = sweep.collect(5.0)
            assert [result.job.swept["seed"] for result in results] == [number]
            assert sweep.free == 1
        sweep.stop()
        (last,) = sweep.collect(20.0)
        assert (last.status, last.error) == ("interrupted", "SIGTERM")
        assert not sweep.busy
    finally:
        sweep.close()


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_sweep import job, open_sweep
from vaelab.runs.interruption import Interrupted
from vaelab.sweeps import grid
sweep = open_sweep(Path.cwd(), slots={slots})
try:
    results = grid.run(sweep, [{jobs}])
    print("RESULTS", sorted((r.job.name, r.status) for r in results), flush=True)
except Interrupted as error:
    print("COLLECTED", sorted((r.job.name, r.status) for r in sweep.results), flush=True)
    sys.exit(error.exit_status)
except KeyboardInterrupt:
    sys.exit(99)
finally:
    sweep.close()
"""


Spawn = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start the sweep with these jobs, as words of Python, in a process of its own."""
    spawned = []

    def _spawn(jobs: str, slots: int = 2) -> subprocess.Popen[str]:
        script = SCRIPT.format(tests=str(Path(__file__).parent), jobs=jobs, slots=slots)
        command = [sys.executable, "-u", "-c", script]
        spawned.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True))
        return spawned[-1]

    yield _spawn
    for process in spawned:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 30
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"{paths} have not come"
        time.sleep(0.02)


def ready(tmp_path: Path, *seeds: int) -> list[Path]:
    return [tmp_path / "s" / f"seed={seed}_00000000" / "ready" for seed in seeds]


@pytest.mark.parametrize("signum, status", [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_stopped_from_outside_the_jobs_save_and_the_next_start_goes_on(
    signum: int, status: int, start: Start, spawn: Spawn, tmp_path: Path
) -> None:
    process = spawn("job(1), job(2, 'waits'), job(3, 'waits'), job(4)")
    wait_for(*ready(tmp_path, 2, 3))
    process.send_signal(signum)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == status, out
    assert "stopping: 2 jobs are saving" in out
    expected = [("seed=1", "completed"), ("seed=2", "interrupted"), ("seed=3", "interrupted")]
    assert f"COLLECTED {expected}" in out
    assert [entry["status"] for entry in entries(tmp_path).values()] == [
        "completed", "interrupted", "interrupted", "waiting",
    ]  # fmt: skip
    begun(tmp_path)
    assert brief(start(*map(job, range(1, 5)))) == [("completed", None)] * 4
    assert begun(tmp_path) == ["seed=2", "seed=3", "seed=4"]


def test_a_second_ctrl_c_does_not_wait(start: Start, spawn: Spawn, tmp_path: Path) -> None:
    process = spawn("job(1, 'is_deaf')")
    wait_for(*ready(tmp_path, 1))
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "stopping: 1 job is saving (Ctrl-C again kills)\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 99
    assert not is_live(read_status(ready(tmp_path, 1)[0].parent / "status.json"))
    assert brief(start(job(1))) == [("completed", None)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_killed_the_next_start_goes_on_with_what_saved_itself(
    start: Start, spawn: Spawn, tmp_path: Path
) -> None:
    process = spawn("job(1), job(2, 'waits'), job(3, 'waits'), job(4)")
    wait_for(*ready(tmp_path, 2, 3))
    process.kill()
    results = start(*map(job, range(1, 5)))  # at once: they may still be saving
    assert brief(results) == [("completed", None)] * 4
    process.communicate()
    statuses = [read_status(run.parent / "status.json") for run in ready(tmp_path, 2, 3)]
    assert [one.status for one in statuses] == [Status.COMPLETED] * 2
    assert begun(tmp_path) == ["seed=1", "seed=2", "seed=2", "seed=3", "seed=3", "seed=4"]


def test_jobs_at_the_same_time_have_different_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = "".join(f"GPU {n}: NVIDIA H200 (UUID: GPU-{n})\n" for n in range(4))
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$*" = -L ] && cat <<END\n{found}END\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    for number, expected in ((None, ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]), (2, ["GPU-0,GPU-1", "GPU-2,GPU-3"])):  # fmt: skip
        commands = Commands((sys.executable, STANDIN, "train"), RESUME)
        sweep = Sweep(tmp_path / "s", commands, Pool.makes(number)(True, 1), retry=1)
        assert "4 GPUs" in str(sweep.workers)
        jobs = [job(seed, "waits") for seed in range(1, len(expected) + 1)]
        try:
            for one in jobs:
                sweep.submit(one)
            assert sweep.collect() == []
            wait_for(*ready(tmp_path, *range(1, len(jobs) + 1)))
            sweep.stop()
            while sweep.busy:
                sweep.collect(1.0)
        finally:
            sweep.close()
        given = [(tmp_path / "s" / one.directory / "gpus").read_text() for one in jobs]
        assert sorted(given) == expected
        shutil.rmtree(tmp_path / "s")


def test_two_processes_with_one_grid_share_the_work(spawn: Spawn, tmp_path: Path) -> None:
    jobs = ", ".join(f"job({number})" for number in range(12))
    both = [spawn(jobs), spawn(jobs)]
    for process in both:
        out, _ = process.communicate(timeout=60)
        expected = [(f"seed={number}", "completed") for number in range(12)]
        assert f"RESULTS {sorted(expected)}" in out
    assert begun(tmp_path) == sorted(f"seed={number}" for number in range(12)), "each was begun once"


def test_a_job_in_the_hands_of_another_process_is_waited_for(start: Start, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    claim = Claim.take(tmp_path / "s", f"{1:064x}")
    assert claim is not None
    sweep = open_sweep(tmp_path)
    sweep.submit(job(1))
    assert sweep.collect(1.5) == []
    assert [one.name for one in sweep.elsewhere] == ["seed=1"]
    claim.release()
    while not (results := sweep.collect(5.0)):
        pass
    assert brief(results) == [("completed", None)]
    sweep.close()


def test_a_run_on_another_machine_is_waited_for_by_its_signs_of_life(start: Start, tmp_path: Path) -> None:
    start(job(1))
    status = tmp_path / "s" / "seed=1_00000000" / "status.json"
    record = write_status(status, Status.RUNNING)
    content = read_json(status)
    status.write_text(json.dumps({**content, "process": f"elsewhere:{record.pid}"}))
    sweep = open_sweep(tmp_path)
    sweep.submit(job(1))
    assert sweep.collect(0.5) == []
    assert sweep.elsewhere
    write_status(status, Status.COMPLETED)
    while not (results := sweep.collect(5.0)):
        pass
    assert (brief(results), results[0].seconds) == ([("completed", None)], None)
    sweep.close()


def test_a_job_is_told_its_place_and_what_it_starts_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Place.told() is None
    place = Place(Path("/logs/sweeps/s"), "a_1", {"name": "s", "swept": {"seed": 1, "encoder": "mlp"}})
    for name, value in place.variables().items():
        monkeypatch.setenv(name, value)
    assert Place.told() == place
    assert Place.told() is None


def test_names_hold_no_secret_and_nothing_odd_and_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_TOKEN", "planted-in-a-tag")
    typed = ("tags=[planted-in-a-tag]", "+logger.api_key=planted-typed", "seed=1")
    one = Job(typed, {}, CONFIG, "12345678" * 8, typed)
    assert (
        one.directory
        == "tags=--secret-PLANTED_TOKEN--,logger.api_key=-secret-logger.api_key-,seed=1_12345678"
    )
    long = Job(typed, {}, CONFIG, "12345678" * 8, tuple(f"a.long.key{n}={n}" for n in range(30)))
    assert len(long.directory) == 120
    assert long.directory.endswith("_12345678")
    assert len(sweep_name("vae", [f"a.long.key{n}" for n in range(30)])) == 80


def test_the_record_holds_no_secret(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_TOKEN", "planted-in-a-tag")
    identity = f"{1:064x}"
    typed = ("tags=planted-in-a-tag",)
    start(
        Job(
            ("completes", f"identity={identity}", *typed),
            {"tags": "planted-in-a-tag"},
            CONFIG,
            identity,
            typed,
        )
    )
    text = (tmp_path / "s" / "sweep.json").read_text()
    assert "planted-in-a-tag" not in text
    assert "<secret PLANTED_TOKEN>" in text
    assert os.environ["PLANTED_TOKEN"] == "planted-in-a-tag"
    shutil.rmtree(tmp_path / "s")
