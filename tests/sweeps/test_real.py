"""``vae-train -m`` as a person types it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vaelab.runs import RunDirectory, Status, find_runs, read_manifest, read_status
from vaelab.runs.environment import intra_op
from vaelab.runs.equality import differences

FAST = ("data=digits", "debug=fast", "logger=none", "trainer.enable_progress_bar=false")


def vae_train(folder: Path, *argv: str) -> tuple[int, str]:
    program = Path(sys.executable).with_name("vae-train")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [program, *argv], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False
    )  # fmt: skip
    return done.returncode, done.stdout


def runs(folder: Path) -> list[RunDirectory]:
    return list(find_runs(folder / "logs" / "sweeps"))


def test_a_sweep_of_one_job_given_twice(tmp_path: Path) -> None:
    typed = ("-m", *FAST, "trainer=cpu", "seed=3", "sweep.name=s", "sweep.slots=1", "sweep.threads=1")
    status, out = vae_train(tmp_path, *typed)
    assert status == 0, out
    (run,) = runs(tmp_path)
    manifest = read_manifest(run)
    assert manifest["sweep"] == {"name": "s", "swept": {}}
    assert intra_op(manifest) == 1
    assert "-m" not in manifest["argv"]
    last = out.splitlines()[-1]
    status, out = vae_train(tmp_path, *typed)
    assert (status, out.splitlines()[-1]) == (0, last)
    assert "was there already" in out
    assert len(runs(tmp_path)) == 1


def test_jobs_that_are_trained_together_and_beside_them_those_that_cannot_be(tmp_path: Path) -> None:
    small = ("trainer=cpu", "encoder.hidden=[8]", "decoder.hidden=[8]", "report=false")
    typed = (
        "-m",
        *FAST,
        *small,
        "hydra/launcher=stacked",
        "seed=0,1",
        "optimizer.accumulate=1,2",
        "sweep.name=s",
    )
    typed = (*typed, "sweep.slots=2", "sweep.retry=0")
    status, out = vae_train(tmp_path, *typed)
    assert status == 0, out
    assert "s: 4 jobs, in stacks of up to 64, 2 at a time, 1 thread each" in out
    assert "not stacked: optimizer.accumulate=2: the steps of a stack have one part" in out
    assert "4 completed  logs/sweeps/s" in out
    manifests = {
        run.name[: len("seed=0,optimizer.accumulate=1")]: read_manifest(run) for run in runs(tmp_path)
    }
    first, alone, second, _ = (manifests[name] for name in sorted(manifests))
    assert "stack" not in alone
    assert first["stack"] == {**second["stack"], "member": 0}
    assert second["stack"]["members"] == 2
    assert first.keys() - {"stack"} == alone.keys()
    assert first["argv"][1:] == list(first["overrides"])
    assert {"seed=0", "optimizer.accumulate=1"} < {*first["overrides"]}
    assert first["sweep"] == {"name": "s", "swept": {"seed": 0, "optimizer.accumulate": 1}}
    assert intra_op(first) == intra_op(alone)
    assert list((tmp_path / "logs" / "sweeps" / "s" / ".output").iterdir()) == []
    status, out = vae_train(tmp_path, *typed)
    assert out.count("was there already") == 4


@pytest.mark.slow
def test_a_stack_whose_sweep_is_killed_in_real_processes(tmp_path: Path) -> None:
    """It saves, and the same command goes on with it together; the numbers are those of a sweep that nobody killed."""
    small = (
        "trainer=cpu",
        "encoder.hidden=[8]",
        "decoder.hidden=[8]",
        "report=false",
        "data=digits",
        "logger=none",
    )
    long = (
        *small,
        "trainer.max_epochs=12",
        "data.batch_size=64",
        "sweep.threads=1",
        "callbacks=none",
        "sweep.slots=1",
    )
    typed = ("-m", "hydra/launcher=stacked", *long, "seed=0,1,2", "trainer.enable_progress_bar=false")
    status, out = vae_train(tmp_path, *typed, "sweep.name=whole")
    assert status == 0, out
    program = Path(sys.executable).with_name("vae-train")
    with subprocess.Popen(
        [program, *typed, "sweep.name=s"], cwd=tmp_path, stdout=subprocess.DEVNULL
    ) as sweep:
        wait_for(lambda: len(list(tmp_path.glob("logs/sweeps/s/*/checkpoints/previous.ckpt"))) == 3)
        sweep.kill()
    folder = tmp_path / "logs" / "sweeps" / "s"
    wait_for(
        lambda: all(read_status(run.status_file).status is Status.INTERRUPTED for run in find_runs(folder))
    )
    status, out = vae_train(tmp_path, *typed, "sweep.name=s")
    assert status == 0, out
    assert "3 completed" in out
    whole = {read_manifest(run)["seed"]: run for run in find_runs(folder.with_name("whole"))}
    for run in find_runs(folder):
        manifest = read_manifest(run)
        assert manifest["resumed"][0]["step"] > 0
        assert manifest["resumed"][0]["changed"] == []
        assert list(differences(run, whole[manifest["seed"]])) == []


def wait_for(there: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["local", "basic"])
def test_jobs_of_several_processes_each_job_in_real_processes(launcher: str, tmp_path: Path) -> None:
    """The ranks of ``ddp`` are started from the command line of the job: were that the sweep's, each would run the whole sweep. Hydra's own launcher makes jobs of it, too."""
    typed = ("trainer=ddp_cpu", "trainer.strategy=ddp", "seed=0,1", f"hydra/launcher={launcher}")
    status, out = vae_train(tmp_path, "-m", *FAST, *typed)
    assert status == 0, out
    assert "2 completed" in out
    manifests = list(map(read_manifest, runs(tmp_path)))
    assert [manifest["seed"] for manifest in manifests] == [0, 1]
    assert [manifest["device"]["number"] for manifest in manifests] == [2, 2]


@pytest.mark.slow
def test_a_disk_that_fills_up_in_real_processes(tmp_path: Path) -> None:
    """With room for one run the second one fails and the third is not begun; with more room, the same command completes."""
    logs = tmp_path / "logs"
    logs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(logs)]
    if sys.platform != "linux" or subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    small = ("encoder.hidden=[8]", "decoder.hidden=[8]", "latent_dim=2", "trainer=cpu")
    typed = ("-m", *FAST, *small, "seed=0,1,2", "sweep.name=s", "sweep.slots=1")
    try:
        status, out = vae_train(tmp_path, *typed)
        assert status == 1, out
        assert "1 completed, 1 failed" in out
        assert "No space left on device; 1 job was not begun: the same command goes on with the sweep" in out
        assert "Traceback" not in out
        subprocess.run(["mount", "-o", "remount,size=9m", str(logs)], check=True)
        status, out = vae_train(tmp_path, *typed)
        assert status == 0, out
        assert "seed=0  completed  val/elbo" in out
        assert out.count("was there already") == 1
        assert "3 completed" in out
    finally:
        subprocess.run(["umount", str(logs)], check=True)


@pytest.mark.slow
def test_a_job_that_is_refused_by_its_parts_in_real_processes(tmp_path: Path) -> None:
    """What only the parts know is refused in the job's own process; the others go on."""
    status, out = vae_train(tmp_path, "-m", *FAST, "trainer=cpu", "objective=dreg", "model=vae,ladder")
    assert status == 3, out
    assert "1 completed, 1 refused" in out
    assert " refused  model=ladder  objective=dreg" in out
