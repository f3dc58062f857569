"""A Slurm cluster of this one machine for the tests that need a real one: two nodes, as far as Slurm knows, with eight cores each."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts" / "slurm"
LONGEST = 180  # seconds for fetching the packages and starting


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs.

    Attributes:
        environment: variables of processes that use it.
    """

    environment: dict[str, str]

    def __call__(self, *command: str, folder: Path | None = None) -> str:
        """What a command prints, standard errors with it; it has to succeed."""
        done = subprocess.run(command, cwd=folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False)  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def jobs(self, *states: str) -> list[str]:
        """The ids of jobs in these states, all of them if none is given."""
        listed = self("squeue", "--noheader", f"--states={','.join(states) or 'all'}", "--format=%i")
        return listed.split()

    def restarts(self, job: str) -> int:
        shown = self("scontrol", "show", "job", "--oneliner", job)
        return int(shown.partition("Restarts=")[2].split()[0])

    def clear(self) -> None:
        """End whatever there is."""
        while jobs := self.jobs("PENDING", "RUNNING", "SUSPENDED", "COMPLETING"):
            self("scancel", "--quiet", "--signal=KILL", "--full", *jobs)
            subprocess.run(["scancel", "--quiet", *jobs], env=self.environment, check=False)
            time.sleep(0.5)


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("no Slurm to test with: this is no Debian")
    folder = tmp_path_factory.mktemp("slurm")
    script = SCRIPTS / "one_node.sh"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    try:
        started = subprocess.run(
            [script, "start", folder, "2"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LONGEST, check=False
        )  # fmt: skip
        # what cannot be fetched is no failure of ours
        if started.returncode != 0 and not list((folder / "packages").glob("slurmctld*")):
            pytest.skip(f"no Slurm to test with: its packages cannot be had\n{started.stdout}")
        assert started.returncode == 0, started.stdout
        shown = subprocess.run(
            ["bash", "-c", f"source '{folder}/environment' && env -0"], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )  # fmt: skip
        yield Cluster(dict(line.split("=", 1) for line in shown.stdout.split("\0") if "=" in line))
    except subprocess.TimeoutExpired:
        pytest.skip(f"no Slurm to test with: nothing within {LONGEST} s")
    finally:
        subprocess.run([script, "stop", folder], env=environment, timeout=60, check=False)


@pytest.fixture
def cluster(_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster without jobs, on the path of this process, too."""
    for name in ("PATH", "LD_LIBRARY_PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, _cluster.environment[name])
    yield _cluster
    _cluster.clear()
