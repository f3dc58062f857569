"""What computes: devices, their drivers, processor cores and threads."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import torch

from vaelab.errors import SettingError
from vaelab.experiments.doctor.finding import Finding, note, ok, size, wrong
from vaelab.experiments.environment import device_record
from vaelab.runs.cores import quota, within
from vaelab.runs.environment import platform_record
from vaelab.training import Trainer

LONGEST = 10.0  #: seconds that Slurm has to answer
MOST_IN_USE = 0.5  #: share of a card's memory that others may have before it is said


def device_findings(config: dict[str, Any], trainer: Trainer | SettingError | None) -> list[Finding]:
    """Args:
    config: of the run.
    trainer: of it; why its devices cannot be had; or None where nothing could be built.
    """
    found: list[Finding] = []
    machine = platform_record()
    if isinstance(trainer, SettingError):
        rule = f"{trainer.setting}={trainer.received}: {trainer.rule}"
        found.append(wrong("device", rule, "trainer=cpu runs anywhere"))
    elif trainer is not None:
        found.append(ok("device", _device(config, trainer, machine)))
    found += _cuda(config, machine["nvidia_driver"])
    ranks = trainer.num_devices if isinstance(trainer, Trainer) else 1
    return [*found, cores(machine["cpu_usable"], quota(), torch.get_num_threads(), ranks), *slurm()]


def slurm() -> list[Finding]:
    """Whether sweeps may be handed to a cluster; nothing where there is no ``sbatch``."""
    if shutil.which("sbatch") is None:
        return []
    try:
        asked = ("sinfo", "--noheader", "--format=%R")
        done = subprocess.run(asked, capture_output=True, text=True, timeout=LONGEST, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join((getattr(error, "stderr", None) or str(error)).split())
        return [note("Slurm", f"sbatch is here, and its controller does not answer: {said}")]
    partitions = ", ".join(sorted({*done.stdout.split()}))
    return [ok("Slurm", f"hydra/launcher=submitit_slurm hands sweeps to it; partitions: {partitions}")]


def _device(config: dict[str, Any], trainer: Trainer, machine: dict[str, Any]) -> str:
    record, asked = device_record(trainer), f"trainer.accelerator={config['trainer']['accelerator']}"
    name, memory = record["name"], record["memory"]
    if record["kind"] != "cuda":
        name, memory = machine["cpu"] or machine["machine"], machine["memory"]
    having = "" if memory is None else f", {size(memory)} memory"
    return f"{asked} is {record['number']} x {record['kind']}: {name}{having}; precision {trainer.precision}"


def _cuda(config: dict[str, Any], driver: str | None) -> list[Finding]:
    built = torch.version.cuda
    if built is None:
        if driver is None or config["trainer"]["accelerator"] == "cpu":
            return []
        advice = "install a torch that is built for CUDA, or take trainer=cpu"
        return [wrong("CUDA", f"NVIDIA driver {driver} is here, and torch is built without CUDA", advice)]
    if torch.cuda.is_available():
        return [ok("CUDA", f"torch is built for {built}; driver {driver or 'unknown'}"), *_memory()]
    if driver is None:
        return [note("CUDA", f"torch is built for CUDA {built}, and there is no NVIDIA driver here")]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return [note("CUDA", f"CUDA_VISIBLE_DEVICES={hidden} hides the cards of driver {driver}")]
    advice = "nvidia-smi shows what the driver is for; install a newer one, or a torch for an older CUDA"
    return [wrong("CUDA", f"torch is built for CUDA {built} and does not work with driver {driver}", advice)]


def _memory() -> list[Finding]:
    found = []
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        if free < (1 - MOST_IN_USE) * total:
            rule = f"card {i}: {size(total - free)} of {size(total)} are in use by others"
            found.append(note("memory", rule, "CUDA_VISIBLE_DEVICES names the cards to be used"))
    return found


def cores(usable: int, quota: float | None, threads: int, ranks: int) -> Finding:
    """Whether there are as many cores as threads compute.

    Args:
        usable: cores that this process may run on.
        quota: cores' worth of time that it may use, or None.
        threads: of one process.
        ranks: processes of the run; Lightning shares the cores between them, unless OMP_NUM_THREADS says how many each takes.
    """
    limit = within(usable, quota)
    limited = "" if limit == usable else f" ({usable}, and a quota of {quota:g})"
    asked = os.environ.get("OMP_NUM_THREADS", "")
    total = threads * ranks if asked or ranks == 1 else limit
    words = f"{limit} {'core' if limit == 1 else 'cores'}{limited}, {threads} {'thread' if threads == 1 else 'threads'}"
    if ranks > 1:
        words += f" in each of {ranks} processes"
    if asked:
        words += f" (OMP_NUM_THREADS={asked})"
    advice = f"OMP_NUM_THREADS={limit // ranks}" if ranks <= limit else f"trainer.devices={limit}"
    if total > limit:
        return wrong(
            "cores", f"{words}: threads that wait for each other make steps many times as long", advice
        )
    if asked.isdecimal() and int(asked) > limit:
        return wrong(
            "cores",
            f"{words}: that asks for more than there are cores; torch takes fewer, other libraries may not",
            advice,
        )
    return ok("cores", words)
