"""How many jobs this machine takes at a time, and what of it each of them is given."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from vaelab.runs import cores

#: variables that say how many threads compute, each read by a library of its own
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Slots:
    """Room for jobs.

    Attributes:
        number: of jobs at a time.
        threads: of each process.
        gpus: of the machine, as CUDA_VISIBLE_DEVICES names them; none where the jobs need none.
    """

    number: int
    threads: int = 1
    gpus: tuple[str, ...] = ()

    @classmethod
    def here(
        cls,
        number: int | None = None,
        threads: int | None = None,
        *,
        with_gpus: bool = True,
        processes: int = 1,
    ) -> Slots:
        """Those of this machine.

        Args:
            number: None = one a GPU, and without GPUs as many as there are cores for the threads.
            threads: of each process; None = what OMP_NUM_THREADS says, else the cores shared out between ``number`` slots, else 1.
            with_gpus: whether the jobs may compute on GPUs.
            processes: of a job, each of which has its threads, and its GPU.
        """
        gpus = visible_gpus(os.environ) if with_gpus else ()
        limit = cores.within(cores.usable(), cores.quota())
        asked = os.environ.get("OMP_NUM_THREADS", "")
        if threads is None and asked.isdecimal() and int(asked) > 0:
            threads = int(asked)
        if number is None:
            number = len(gpus) // processes if gpus else limit // ((threads or 1) * processes)
            number = max(1, number)
            threads = threads or (max(1, limit // (number * processes)) if gpus else 1)
        return cls(number, threads or max(1, limit // (number * processes)), gpus)

    def environment(self, slot: int) -> dict[str, str]:
        """The variables of a job in a slot, from 0 on: GPUs are shared out where there are more of them than slots, and shared where there are fewer."""
        variables: dict[str, str] = {name: str(self.threads) for name in THREADS}
        if self.gpus:
            each = len(self.gpus) // self.number
            own = self.gpus[slot * each : (slot + 1) * each] or (self.gpus[slot % len(self.gpus)],)
            variables[DEVICES] = ",".join(own)
        return variables

    def __str__(self) -> str:
        """In words: ``2 at a time, 1 thread each``."""
        words = f"{self.number} at a time, {self.threads} {'thread' if self.threads == 1 else 'threads'} each"
        return f"{words}, {len(self.gpus)} GPU{'s' * (len(self.gpus) > 1)}" if self.gpus else words


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The NVIDIA GPUs that a process may use: those that CUDA_VISIBLE_DEVICES names, else all that ``nvidia-smi`` lists."""
    named = environment.get(DEVICES)
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip())
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no driver here, or one that does not work
        return ()
    return parse(listed.stdout)


def parse(listed: str) -> tuple[str, ...]:
    """The names in what ``nvidia-smi -L`` prints; of a GPU that is divided (MIG), its parts.

    >>> parse("GPU 0: NVIDIA H200 (UUID: GPU-12ab)\\nGPU 1: NVIDIA H200 (UUID: GPU-34cd)\\n  MIG 1g.18gb Device  0: (UUID: MIG-56ef)")
    ('GPU-12ab', 'MIG-56ef')
    """
    names: list[str] = []
    for kind, name in re.findall(r"^\s*(GPU|MIG) .*\(UUID: ([^)]+)\)", listed, re.MULTILINE):
        if kind == "MIG" and names and names[-1].startswith("GPU"):
            names.pop()
        names.append(name)
    return tuple(names)
