"""What a run ran on: machine, installed versions, variables that can change numbers. What torch knows is added by whoever imports it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaelab.runs import cores
from vaelab.runs.redaction import NAMES

#: variables that can change a number, by name ...
VARIABLES = frozenset({
    "ATEN_CPU_CAPABILITY", "BLIS_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "GOMP_CPU_AFFINITY",
    "NCCL_ALGO", "NCCL_PROTO", "NVIDIA_TF32_OVERRIDE", "PYTHONHASHSEED", "PYTORCH_ENABLE_MPS_FALLBACK", "PYTORCH_MPS_FAST_MATH",
    "VECLIB_MAXIMUM_THREADS",
})  # fmt: skip
#: ... and by how they begin: threads (sums in another order), libraries of linear algebra, torch's own switches
PREFIXES = ("CUDNN_", "DNNL_", "KMP_", "MKL_", "NUMEXPR_", "OMP_", "ONEDNN_", "OPENBLAS_", "TORCH_ALLOW_TF32_", "TORCH_BLAS_", "TORCH_CUDNN_")  # fmt: skip

REPOSITORY = Path(__file__).resolve().parents[3]
LOCK = "requirements/lock.txt"


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of the allow-list that are set, by name."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if (name in VARIABLES or name.startswith(PREFIXES)) and not any(word in name for word in NAMES)
    }


def versions() -> dict[str, str]:
    """Python's version, and that of every installed distribution by its normalised name; of two of one name that which is imported."""
    found = {"python": platform.python_version()}
    for distribution in importlib.metadata.distributions():
        metadata: Any = distribution.metadata  # None where an installation was broken off
        if metadata is not None and metadata["Name"]:
            name = re.sub(r"[-_.]+", "-", metadata["Name"]).lower()
            found.setdefault(name, metadata["Version"])
    return dict(sorted(found.items()))


def intra_op(manifest: Mapping[str, Any]) -> int | None:
    """Threads that share an operation: the sums depend on their number."""
    threads = manifest["threads"]
    return threads.get("intra_op") if isinstance(threads, Mapping) else threads


def lock_record(repository: Path = REPOSITORY) -> dict[str, str] | None:
    """The lock of the source tree that the package is run from; None for an installed wheel, which has none."""
    try:
        content = (repository / LOCK).read_bytes()
    except OSError:
        return None
    return {"file": LOCK, "sha256": hashlib.sha256(content).hexdigest()}


def locked(lock: str) -> dict[str, set[str]]:
    """Package -> its locked versions in the text of a lock; several where they differ between versions of Python.

    >>> sorted(locked("numpy==2.4.6 ; python_full_version < '3.12'\\nnumpy==2.5.5")["numpy"])
    ['2.4.6', '2.5.5']
    """
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock, re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def platform_record() -> dict[str, Any]:
    """System, processor with its number of cores, memory in bytes, and the driver of an NVIDIA card."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "cpu_usable": cores.usable(),
        "memory": _memory(),
        "nvidia_driver": _nvidia_driver(),
    }


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # a system that does not tell
        return None


def _nvidia_driver() -> str | None:
    """From the kernel module: asking nvidia-smi takes long and can hang."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"\b\d{3}\.\d+(?:\.\d+)?\b", text)
    return found[0] if found else None


def _cpu_model() -> str | None:
    with contextlib.suppress(OSError):  # Linux on x86; elsewhere the file is missing or has no such line
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
            return done.stdout.strip() or None
    return platform.processor() or None
