"""``vae-train -m`` as a person types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vaelab.runs import RunDirectory, find_runs, read_manifest
from vaelab.runs.environment import intra_op

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
