"""Sweeps on Slurm. What needs a cluster has a real one, of this machine (slurm_cluster.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm_cluster import SCRIPTS, Cluster, _cluster, cluster  # noqa: F401 (fixtures)
from vaelab.errors import SettingError
from vaelab.runs import RunDirectory, Status, read_json, read_manifest, read_status
from vaelab.sweeps import grid, slurm, slurm_queue
from vaelab.sweeps.job import Job
from vaelab.sweeps.slurm import SlurmSettings, SlurmWorkers
from vaelab.sweeps.slurm_job import JobFiles, after
from vaelab.sweeps.slurm_queue import Listed
from vaelab.sweeps.sweep import Commands, Sweep
from vaelab.sweeps.workers import Process

STANDIN = str(Path(__file__).with_name("standin.py"))
CONFIG = {"score": {"name": "val/elbo", "mode": "max"}}
SMALL = ("data=digits", "logger=none", "trainer=cpu", "estimator=elbo", "encoder.hidden=[8]", "decoder.hidden=[8]", "latent_dim=2",
         "trainer.enable_progress_bar=false")  # fmt: skip


def wait_for(what: Callable[[], Any], seconds: float = 150) -> Any:
    """Until it is true."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
    return found


def job(seed: int, word: str = "completes") -> Job:
    identity = f"{seed:064x}"
    return Job((word, f"identity={identity}"), {"seed": seed}, CONFIG, identity, (f"seed={seed}",))


def open_sweep(folder: Path, **settings: Any) -> Sweep:
    commands = Commands((sys.executable, STANDIN, "train"), (sys.executable, STANDIN, "resume"))
    workers = SlurmWorkers(SlurmSettings(**settings))
    return Sweep(folder / "s", commands, workers, 1, ["vae-train", "-m"], ["seed=0,1"])


def brief(results: list[Any]) -> list[tuple[str, str | None]]:
    return [(one.status, one.error) for one in sorted(results, key=lambda one: one.job.identity)]


# -- what Slurm says, and what is made of it: Slurm is stood in for


class Standin:
    """Slurm's commands as far as workers call them: jobs stay in the state that a test puts them into."""

    def __init__(self) -> None:
        self.states: dict[str, Listed] = {}
        self.calls: list[tuple[str, ...]] = []
        self.requeues, self.restarts = True, 0
        self.accounts: dict[str, str] = {}

    def put(self, job: str, state: str, reason: str = "") -> None:
        self.states[job] = Listed(job, state, reason, self.states[job].name if job in self.states else "")


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Standin:
    """Workers that ask at each look, and wait for no file."""
    fake = Standin()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "ASK", 0.0)
    monkeypatch.setattr(slurm, "PATIENCE", 0.0)
    monkeypatch.setattr(slurm_queue, "require", lambda: None)
    monkeypatch.setattr(slurm_queue, "check", lambda script: None)
    monkeypatch.setattr(slurm_queue, "listed", lambda: dict(fake.states))
    monkeypatch.setattr(slurm_queue, "state_of_ended", fake.accounts.get)
    monkeypatch.setattr(slurm_queue, "restarts", lambda job: fake.restarts)
    monkeypatch.setattr(
        slurm_queue,
        "stop",
        lambda jobs, state, signum=None: fake.calls.append(("stop", state, *sorted(jobs))),
    )
    monkeypatch.setattr(slurm_queue, "cancel", lambda jobs: fake.calls.append(("cancel", *jobs)))

    def requeue(job: str) -> bool:
        fake.calls.append(("requeue", job))
        fake.put(job, "PENDING")
        return fake.requeues

    monkeypatch.setattr(slurm_queue, "requeue", requeue)
    monkeypatch.setattr("submitit.SlurmExecutor.affinity", classmethod(lambda cls: 2))
    # what the executor runs, in the place of sbatch: the name is in the script
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        '#!/bin/sh\nn=$(cat number 2>/dev/null || echo 0); n=$((n + 1)); echo $n >number; cp "$1" script_$n\n'
        '[ ! -e full ] || { echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; }\necho "Submitted batch job $n"\n'
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(sbatch.parent), prepend=os.pathsep)
    return fake


def submitted(workers: SlurmWorkers, fake: Standin, key: str = "a", state: str = "RUNNING") -> str:
    """The id of a job for a process of this key."""
    workers.submit(Process(key, ("true",), output=Path("out") / f"{key}.txt"))
    number = Path("number").read_text().strip()
    script = Path(f"script_{number}").read_text()
    name = next(line for line in script.splitlines() if "--job-name" in line).partition("=")[2].strip("'")
    fake.states[number] = Listed(number, state, "", name)
    return number


def files(number: str) -> JobFiles:
    return JobFiles(Path("out/slurm").absolute(), number)


def has_ended(number: str, status: int) -> None:
    files(number).status.write_text(f"{status}\n")
    files(number).started.write_text('{"pid": 7, "at": 0}')


@pytest.mark.parametrize(
    "status, state, exit_status, cause",
    [
        (0, "COMPLETING", 0, None),
        (1, "FAILED", 1, "ValueError: no good"),
        (2, "RUNNING", 2, "ValueError: no good"),
        (137, "OUT_OF_MEMORY", -9, "out of memory"),
        (139, "FAILED", -11, "killed by SIGSEGV: ValueError: no good"),
        (137, None, -9, "killed by SIGKILL (out of memory?)"),
        (None, "OUT_OF_MEMORY", -9, "out of memory"),
        (None, "CANCELLED", -15, "cancelled (scancel)"),
        (None, "COMPLETED", 0, None),
        (None, None, 1, "ValueError: no good"),
    ],
)
def test_how_a_job_has_ended(
    standin: Standin, status: int | None, state: str | None, exit_status: int, cause: str | None
) -> None:
    workers = SlurmWorkers(SlurmSettings())
    number = submitted(workers, standin)
    assert workers.collect() == [], "it runs"
    Path("out/a.txt").write_text("begins\nValueError: no good\n")
    if status is not None:
        has_ended(number, status)
    if state is None:
        del standin.states[number]
    else:
        standin.put(number, state)
    (ended,) = workers.collect()
    assert (ended.key, ended.exit_status, ended.cause) == ("a", exit_status, cause)
    assert not workers.busy
    assert not files(number).folder.joinpath(f"{number}_submitted.pkl").exists(), "command lines are removed"


def test_accounts_say_what_the_queue_has_forgotten(standin: Standin) -> None:
    workers = SlurmWorkers(SlurmSettings())
    number = submitted(workers, standin)
    standin.accounts[number] = "OUT_OF_MEMORY"
    del standin.states[number]
    assert [ended.cause for ended in workers.collect()] == ["out of memory"]


@pytest.mark.parametrize("state", ["TIMEOUT", "NODE_FAIL", "PREEMPTED"])
def test_what_slurm_has_ended_too_early_goes_back_into_the_queue(standin: Standin, state: str) -> None:
    workers = SlurmWorkers(SlurmSettings(max_num_timeout=2))
    number = submitted(workers, standin)
    standin.put(number, state)
    assert workers.collect() == []
    assert standin.calls == [("requeue", number)]
    standin.restarts = 2
    standin.put(number, state)
    (ended,) = workers.collect()
    assert (ended.exit_status, ended.cause) == (75, slurm.CAUSES[state]), "not for ever: to be resumed"
    assert len(standin.calls) == 1


def test_what_was_said_before_it_went_back_into_the_queue_counts_no_more(standin: Standin) -> None:
    """A node's scheduler may end a process and put its job back; the script has noted its exit status in between."""
    workers = SlurmWorkers(SlurmSettings())
    number = submitted(workers, standin)
    has_ended(number, 75)
    standin.put(number, "PENDING")
    assert workers.collect() == []
    assert workers.busy


def test_of_those_in_the_queue_the_same_is_found_again_and_no_other(standin: Standin) -> None:
    first = SlurmWorkers(SlurmSettings())
    one, two = submitted(first, standin, "a", "PENDING"), submitted(first, standin, "b")
    second = SlurmWorkers(SlurmSettings())
    assert second.adopt("a", Path("out/a.txt"))
    assert second.adopt("b", Path("out/another_name.txt")), "known by its key, and where it is"
    assert not second.adopt("c", Path("out/c.txt"))
    assert not second.adopt("a", Path("elsewhere/a.txt"))
    assert second.running.keys() == {"b"}
    has_ended(two, 0)
    assert [ended.key for ended in second.collect()] == ["b"]
    assert not second.adopt("b", Path("out/b.txt")), "collected, though Slurm is not done with it"
    standin.put(one, "COMPLETED")
    assert [ended.key for ended in second.collect()] == ["a"]


def test_slots_are_jobs_in_the_queue(standin: Standin) -> None:
    workers = SlurmWorkers(SlurmSettings(slots=2))
    assert workers.free == 2
    number = submitted(workers, standin, "a", "PENDING")
    assert workers.free == 1
    has_ended(number, 0)
    workers.collect()
    assert workers.free == 2


def test_what_slurm_does_not_take_now_is_tried_again(
    standin: Standin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = SlurmWorkers(SlurmSettings(slots=2))
    Path("full").touch()
    workers.submit(Process("a", ("true",), output=Path("out/a.txt")))
    assert "not taken by Slurm, and tried again: sbatch: error: QOSMaxSubmit" in capsys.readouterr().out
    assert (workers.free, workers.busy) == (1, True)
    Path("full").unlink()
    standin.states["2"] = Listed("2", "PENDING", "", "")
    workers.collect()
    assert Path("number").read_text().strip() == "2"
    assert files("2").folder.joinpath("2_submitted.pkl").is_file()


def test_a_controller_that_does_not_answer_is_no_end(
    standin: Standin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = SlurmWorkers(SlurmSettings())
    number = submitted(workers, standin)

    def silent() -> dict[str, Listed]:
        raise slurm_queue.SlurmError("timed out")

    with monkeypatch.context() as patch:
        patch.setattr(slurm_queue, "listed", silent)
        assert workers.collect() == workers.collect() == []
        assert workers.free == 0, "what may be in the queue is not submitted again"
    assert capsys.readouterr().out.count("does not answer") == 1
    assert workers.free == slurm.SLOTS - 1
    has_ended(number, 0)
    assert len(workers.collect()) == 1


def test_told_to_stop_those_that_wait_are_cancelled_and_the_others_told_once(standin: Standin) -> None:
    workers = SlurmWorkers(SlurmSettings())
    one, two = submitted(workers, standin, "a"), submitted(workers, standin, "b", "PENDING")
    workers.tell()
    assert standin.calls == [("stop", "PENDING", two), ("stop", "RUNNING", one)]
    assert files(one).stop.exists(), "it is not put back into the queue"
    standin.put(two, "RUNNING")  # it had just begun
    time.sleep(2 * slurm.POLL)
    workers.collect()
    assert standin.calls[2:] == [("stop", "PENDING"), ("stop", "RUNNING", two)]
    workers.close()
    assert standin.calls[4:] == [("cancel", one, two)]


def test_left_alone_they_go_on(standin: Standin) -> None:
    workers = SlurmWorkers(SlurmSettings())
    submitted(workers, standin)
    workers.close()
    assert standin.calls == []


def test_a_job_that_waits_for_a_person_is_named_once(
    standin: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = SlurmWorkers(SlurmSettings())
    number = submitted(workers, standin)
    standin.put(number, "PENDING", "launch failed requeued held")
    workers.collect()
    workers.collect()
    assert capsys.readouterr().out.count(f"Slurm's job {number} will not start by itself: launch failed") == 1


def test_the_batch_script_asks_for_what_the_settings_say(standin: Standin) -> None:
    settings = SlurmSettings(
        partition="gpu", account="me", qos="long", timeout_min=90, gpus_per_node="a100:1", mem_gb=2.5, constraint="ib", exclude="n7", comment="mine",
        setup=["module load cuda"], additional_parameters={"mail-type": "FAIL"}, threads=3, signal_delay_s=30,
    )  # fmt: skip
    workers = SlurmWorkers(settings, processes=2)
    script = Path(f"script_{submitted(workers, standin)}").read_text()
    for line in (
        "--partition=gpu", "--account=me", "--qos=long", "--time=90", "--gpus-per-node=a100:1", "--mem=2560M", "--constraint=ib", "--exclude=n7", "--comment=mine",
        "--mail-type=FAIL", "--cpus-per-task=6", "--signal=USR1@30", "--requeue", "--nodes=1", "--ntasks-per-node=1",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in script
    assert "\nmodule load cuda\n" in script
    assert "srun --unbuffered" in script
    assert "6 CPUs and a100:1 GPU(s) a node each" in str(workers)


@pytest.mark.parametrize(
    "setting, value",
    [("timeout_min", 0), ("nodes", "two"), ("mem_gb", -1), ("setup", "module load cuda"), ("slots", 0)],
)
def test_settings_out_of_range_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"hydra\.launcher\.{setting}="):
        SlurmSettings(**{setting: value})


def test_without_slurm_the_sweep_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vaelab.commands.train import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["vae-train", "-m", *SMALL, "seed=0,1", "hydra/launcher=submitit_slurm"])
    assert main() == 2
    assert "hydra/launcher=submitit_slurm: there is no sbatch" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_the_launcher_has_not_got_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vaelab.commands.train import main

    monkeypatch.chdir(tmp_path)
    typed = ["hydra/launcher=submitit_slurm", "hydra.launcher.partitio=gpu", "seed=0,1"]
    monkeypatch.setattr("sys.argv", ["vae-train", "-m", *SMALL, *typed])
    assert main() == 2
    assert "hydra.launcher.partitio" in capsys.readouterr().err


@pytest.mark.parametrize(
    "status, stop, restarts, requeued, left",
    [
        (75, False, 0, True, None),
        (75, True, 0, False, "75"),  # the sweep is being stopped
        (75, False, 3, False, "75"),  # not for ever
        (1, False, 0, False, "1"),
        (0, False, 0, False, "0"),
    ],
)
def test_the_end_of_the_batch_script(
    tmp_path: Path, status: int, stop: bool, restarts: int, requeued: bool, left: str | None
) -> None:
    folder = tmp_path / "it's here"
    folder.mkdir()
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >"{tmp_path}/told"\n')
    scontrol.chmod(0o755)
    if stop:
        (folder / "17.stop").touch()
    script = "\n".join([f"(exit {status})", *after(folder, 3)])
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    if restarts:
        environment["SLURM_RESTART_COUNT"] = str(restarts)
    assert subprocess.run(["bash", "-c", script], env=environment, check=False).returncode == status
    told = tmp_path / "told"
    assert (told.read_text().strip() if told.exists() else None) == ("requeue 17" if requeued else None)
    written = JobFiles(folder, "17").exit_status()
    assert (None if written is None else str(written)) == left


# -- on a cluster

DRIVER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2].split(":")
from sweeps.test_slurm import job, open_sweep
from vaelab.sweeps import grid
sweep = open_sweep(Path(sys.argv[1]), cpus_per_task=8)
try:
    grid.run(sweep, [job(1, "goes_on_call"), job(2, "goes_on_call"), job(3, "goes_on_call")])
finally:
    sweep.close()
"""


@pytest.fixture
def driver(cluster: Cluster, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:  # noqa: F811
    """A process with a sweep of three jobs, of which the cluster has room for two; they wait for the file ``go``."""
    tests = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), tests], cwd=tmp_path, env=cluster.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )  # fmt: skip
    with process:
        try:
            wait_for(lambda: len(list(tmp_path.glob("s/*/ready"))) == 2)
            assert len(cluster.jobs("PENDING")) == 1
            yield process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_jobs_outlive_the_sweep_and_are_found_again_on_a_cluster(
    driver: subprocess.Popen[str],
    cluster: Cluster,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signum: int,
) -> None:
    """Those that run and the one that waits."""
    monkeypatch.chdir(tmp_path)
    driver.send_signal(signum)
    out, _ = driver.communicate(timeout=60)
    if signum != signal.SIGKILL:
        assert "3 jobs will go on; the same command finds them" in out
    before = cluster.jobs("PENDING", "RUNNING")
    assert len(before) == 3, "all of them go on"
    (tmp_path / "go").touch()
    sweep = open_sweep(tmp_path, cpus_per_task=8)
    try:
        results = grid.run(sweep, [job(1, "goes_on_call"), job(2, "goes_on_call"), job(3, "goes_on_call")])
    finally:
        sweep.close()
    assert brief(results) == [("completed", None)] * 3
    assert len((tmp_path / "started").read_text().split()) == 3, "no run was begun twice"
    assert {*cluster.jobs()} & {*before} == {*before}
    entries = read_json(tmp_path / "s" / "sweep.json")["jobs"]
    assert [(entry["status"], entry["tries"]) for entry in entries] == [("completed", 1)] * 3
    assert list((tmp_path / "s" / ".output").rglob("*.pkl")) == []


@pytest.mark.slow
def test_ctrl_c_has_running_jobs_save_and_cancels_the_others_on_a_cluster(
    driver: subprocess.Popen[str],
    cluster: Cluster,  # noqa: F811
    tmp_path: Path,
) -> None:
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=60)
    assert "2 jobs are saving" in out
    wait_for(lambda: cluster.jobs("PENDING", "RUNNING", "COMPLETING") == [])
    runs = [RunDirectory(path.parent) for path in tmp_path.glob("s/*/ready")]
    assert [read_status(run.status_file).status for run in runs] == [Status.INTERRUPTED] * 2
    entries = read_json(tmp_path / "s" / "sweep.json")["jobs"]
    assert [entry["status"] for entry in entries] == ["interrupted"] * 3


@pytest.mark.slow
def test_causes_are_on_record_and_the_others_go_on_on_a_cluster(
    cluster: Cluster,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Failures as Slurm tells of them: by an exception, a signal, a refusal, a person's scancel."""
    monkeypatch.chdir(tmp_path)
    words = ("completes", "raises", "is_killed", "is_refused", "has_no_record", "imports_nothing", "is_deaf")
    sweep = open_sweep(tmp_path)
    try:
        for number, word in enumerate(words):
            sweep.submit(job(number, word))
        results, cancelled = [], False
        while sweep.busy:
            results += sweep.collect(1.0)
            if not cancelled and (deaf := list(tmp_path.glob("s/seed=6_*/ready"))):
                (waiting,) = [one for one in cluster.jobs("RUNNING") if one in _named(cluster, "seed=6_")]
                cluster("scancel", "--signal=KILL", "--full", waiting)
                cluster("scancel", waiting)
                cancelled = bool(deaf)
    finally:
        sweep.close()
    assert brief(results)[:6] == [
        ("completed", None),
        ("failed", "ValueError: no good"),
        ("failed", "killed by SIGKILL (out of memory?)"),
        ("refused", "model=x: does not go with prior=y"),
        ("failed", "killed by SIGKILL (out of memory?)"),
        ("failed", "ImportError: no such library"),
    ]
    assert brief(results)[6][0] == "failed"


def _named(cluster: Cluster, name: str) -> list[str]:  # noqa: F811
    lines = cluster("squeue", "--noheader", "--format=%i %j").splitlines()
    return [line.split()[0] for line in lines if line.split()[1].startswith(name)]


Vae = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def vae(cluster: Cluster) -> Iterator[Vae]:  # noqa: F811
    """Start ``vae-train`` in a folder."""
    started: list[subprocess.Popen[str]] = []

    def _vae(folder: Path, *argv: str) -> subprocess.Popen[str]:
        program = str(Path(sys.executable).with_name("vae-train"))
        process = subprocess.Popen(
            [program, *argv], cwd=folder, env=cluster.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )  # fmt: skip
        started.append(process)
        return process

    yield _vae
    for process in started:
        with process:
            process.kill()


@pytest.mark.slow
def test_a_sweep_of_real_trainings_one_of_which_fails_on_a_cluster(
    cluster: Cluster,  # noqa: F811
    vae: Vae,
    tmp_path: Path,
) -> None:
    typed = ("-m", *SMALL, "hydra/launcher=submitit_slurm", "trainer.max_epochs=1", "optimizer.lr=1e-3,2e-3,3e-3,1e30", "sweep.name=s")  # fmt: skip
    process = vae(tmp_path, *typed)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 3, out
    assert "3 completed, 1 failed" in out
    entries = read_json(tmp_path / "logs/sweeps/s/sweep.json")["jobs"]
    assert [entry["status"] for entry in entries] == ["completed"] * 3 + ["failed"]
    assert "not finite" in entries[3]["error"]
    run = RunDirectory(tmp_path / "logs/sweeps/s" / entries[0]["run"])
    manifest = read_manifest(run)
    assert manifest["sweep"] == {"name": "s", "swept": {"optimizer.lr": 0.001}}
    assert manifest["threads"]["intra_op"] == 1, "as many as the job has CPUs"


@pytest.mark.slow
def test_put_back_into_the_queue_it_ends_as_if_undisturbed_on_a_cluster(
    cluster: Cluster,  # noqa: F811
    vae: Vae,
    tmp_path: Path,
) -> None:
    """First by the warning before the end of the time, then by Slurm, as a preemption does; the second start is a ``vae-resume``, too."""
    typed = (*SMALL, "trainer.max_epochs=80", "checkpoints.every_n_steps=100", "seed=3")
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    straight = vae(undisturbed, *typed)
    disturbed = vae(tmp_path, "-m", *typed, "hydra/launcher=submitit_slurm", "sweep.name=s")
    checkpoint = lambda: list(tmp_path.glob("logs/sweeps/s/*/checkpoints/last.ckpt"))  # noqa: E731
    (path,) = wait_for(checkpoint)
    (number,) = cluster.jobs("RUNNING")
    run = RunDirectory(path.parents[1])
    cluster("scancel", "--signal=USR1", number)
    wait_for(lambda: cluster.restarts(number) == 1)
    wait_for(lambda: len(read_manifest(run).get("resumed", [])) == 1)
    time.sleep(1)  # some steps
    cluster("scontrol", "requeue", number)
    out, _ = disturbed.communicate(timeout=200)
    assert disturbed.returncode == 0, out
    assert cluster.restarts(number) == 2
    assert len(read_manifest(run)["resumed"]) == 2
    text, _ = straight.communicate(timeout=100)
    assert straight.returncode == 0, text
    (other,) = (undisturbed / "logs" / "vae").iterdir()
    same = RunDirectory(other)
    assert run.fingerprint_file.read_bytes() == same.fingerprint_file.read_bytes()
    assert run.weights_file.read_bytes() == same.weights_file.read_bytes()


@pytest.mark.slow
def test_the_array_file_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    """Each line of a file is a run; one that was put back into the queue goes on with its own."""
    lines = [" ".join([*SMALL, "trainer.max_epochs=60", f"seed={seed}"]) for seed in (0, 1)]
    (tmp_path / "runs.txt").write_text("\n".join(lines) + "\n")
    path = f"{Path(sys.executable).parent}:{cluster.environment['PATH']}"
    environment = Cluster({**cluster.environment, "PATH": path})
    environment("sbatch", "--array=0-1", "--cpus-per-task=1", str(SCRIPTS / "array.sh"), "runs.txt", folder=tmp_path)  # fmt: skip
    wait_for(lambda: len(list(tmp_path.glob("logs/vae/*/checkpoints/last.ckpt"))) == 2)
    cluster("scancel", "--signal=USR1", cluster.jobs("RUNNING")[0])
    wait_for(lambda: cluster.jobs("PENDING", "RUNNING", "COMPLETING") == [])
    runs = [RunDirectory(path) for path in (tmp_path / "logs" / "vae").iterdir()]
    assert [read_status(run.status_file).status for run in runs] == [Status.COMPLETED] * 2
    assert sorted(len(read_manifest(run).get("resumed", [])) for run in runs) == [0, 1]
    assert sorted(read_manifest(run)["seed"] for run in runs) == [0, 1]


@pytest.mark.slow
def test_one_run_on_two_nodes_is_that_of_two_processes_here_on_a_cluster(
    cluster: Cluster,  # noqa: F811
    vae: Vae,
    tmp_path: Path,
) -> None:
    """To the bit; and it is interrupted and goes on as one."""
    typed = (*(word for word in SMALL if word != "trainer=cpu"), "trainer.max_epochs=20", "checkpoints.every_n_steps=50")  # fmt: skip
    here = vae(tmp_path, *typed, "trainer=ddp_cpu", "paths.log_dir=here")
    path = f"{Path(sys.executable).parent}:{cluster.environment['PATH']}"
    # what Slurm calls nodes here are no machines with names
    both = Cluster({**cluster.environment, "PATH": path, "MASTER_ADDR": "127.0.0.1"})
    nodes = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")
    both("sbatch", *nodes, str(SCRIPTS / "multi_node.sh"), *typed, "trainer.accelerator=cpu", folder=tmp_path)
    wait_for(lambda: list(tmp_path.glob("logs/vae/*/checkpoints/last.ckpt")))
    (number,) = cluster.jobs("RUNNING")
    cluster("scancel", "--signal=USR1", number)
    wait_for(lambda: cluster.jobs("PENDING", "RUNNING", "COMPLETING") == [])
    (one,), (other,) = (list((tmp_path / folder / "vae").iterdir()) for folder in ("here", "logs"))
    text, _ = here.communicate(timeout=100)
    assert here.returncode == 0, text
    there = RunDirectory(other)
    assert read_status(there.status_file).status is Status.COMPLETED, next(
        tmp_path.glob("slurm-*")
    ).read_text()
    assert len(read_manifest(there)["resumed"]) == 1
    assert read_manifest(there)["device"]["nodes"] == 2
    assert there.fingerprint_file.read_bytes() == RunDirectory(one).fingerprint_file.read_bytes()
    assert there.weights_file.read_bytes() == RunDirectory(one).weights_file.read_bytes()


APPLICATION = """
import os
import hydra

@hydra.main(version_base=None, config_path=None, config_name=None)
def app(cfg):
    if cfg.x == 3:
        raise ValueError("no good")
    print("in a job" if "SLURM_JOB_ID" in os.environ else "here", cfg.x)

app()
"""


@pytest.mark.slow
def test_an_application_that_is_not_ours_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    """Its function is pickled into the jobs; what they print is shown."""
    (tmp_path / "app.py").write_text(APPLICATION)
    done = subprocess.run(
        [sys.executable, "app.py", "-m", "hydra/launcher=submitit_slurm", "+x=1,2,3"], cwd=tmp_path, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )  # fmt: skip
    assert "in a job 1" in done.stdout
    assert "in a job 2" in done.stdout
    assert "no good" in done.stdout
    assert done.returncode != 0
