"""What made a run: ``manifest.json``, written before the first step and completed at the end. Schema 1."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaelab.errors import SettingError
from vaelab.runs.directory import RunDirectory
from vaelab.runs.files import read_json, write_json
from vaelab.runs.status import Status, utc_now

SCHEMA = 1
PACKAGES = (
    "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "omegaconf", "zuko", "numpy",
    "scikit-learn", "safetensors", "matplotlib", "wandb",
)  # fmt: skip


def start_manifest(
    run: RunDirectory,
    *,
    argv: Sequence[str],
    overrides: Sequence[str],
    experiment: str | None,
    seed: int,
    device: Mapping[str, Any],
    threads: int | Mapping[str, int],
    precision: str,
    data: Mapping[str, Any],
    parent: Mapping[str, Any] | None = None,
    tracker: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Write the manifest of a run that begins and return it.

    ``data`` holds requested, actual, fallback_reason, digests, image_shape, num_levels, num_train, num_val,
    num_test. ``more`` adds keys. Everything must be JSON primitives (TypeError names the key that is not). No
    environment variable, host name or user name enters the record by itself.
    """
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "vaelab": _version("vaelab"),
        "argv": list(argv),
        "overrides": list(overrides),
        "experiment": experiment,
        "seed": seed,
        "created": utc_now(),
        "finished": None,
        "status": Status.RUNNING.value,
        "git": git_state(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "platform": platform_record(),
        "device": dict(device),
        "threads": threads if isinstance(threads, int) else dict(threads),
        "precision": precision,
        "data": dict(data),
        "parent": None if parent is None else dict(parent),
        "tracker": dict(tracker) if tracker is not None else None,
    }
    for key in more:
        if key in manifest:
            raise TypeError(f"the manifest's {key} is not the caller's to set")
    manifest.update(more)
    write_json(run.manifest_file, manifest)
    return manifest


def complete_manifest(run: RunDirectory, status: Status, **more: Any) -> dict[str, Any]:
    """Add what is known at the end (time, status and ``more``: best score, digests, ...) to the manifest and
    return it.
    """
    manifest = read_manifest(run)
    manifest.update(more)
    finished = None if status is Status.RUNNING else utc_now()
    manifest.update(finished=finished, status=Status(status).value)
    write_json(run.manifest_file, manifest)
    return manifest


def read_manifest(run: RunDirectory) -> dict[str, Any]:
    """The manifest. Raises SettingError("run") if it is missing, damaged or of another schema."""
    manifest = read_json(run.manifest_file)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise SettingError("run", run.manifest_file, f"is not a manifest of schema {SCHEMA}")
    return manifest


def git_state(package: Path | None = None, timeout: float = 5.0) -> dict[str, Any] | None:
    """The commit of the code: ``{"repository": "package" | "cwd", "commit", "dirty", "branch"}``, None
    outside a repository.

    The repository of the package's source where it lies in one (and is not ignored there, as an installed
    package inside a project's ``.venv`` is), else the one of the current directory. ``dirty`` counts
    untracked files too. ``commit`` is None before the first commit, ``branch`` None on a detached head,
    ``dirty`` None if git took too long.
    """
    source = Path(__file__).resolve().parents[1] if package is None else package
    for name, folder in (("package", source), ("cwd", Path.cwd())):
        if _git(folder, timeout, "rev-parse", "--is-inside-work-tree") != "true":
            continue
        if name == "package" and _git(folder, timeout, "check-ignore", str(folder)) is not None:
            continue
        changes = _git(folder, timeout, "status", "--porcelain", "--ignore-submodules=none")
        return {
            "repository": name,
            "commit": _git(folder, timeout, "rev-parse", "--verify", "--quiet", "HEAD"),
            "dirty": None if changes is None else bool(changes),
            "branch": _git(folder, timeout, "symbolic-ref", "--quiet", "--short", "HEAD"),
        }
    return None


def _git(folder: Path, timeout: float, *arguments: str) -> str | None:
    """What git prints, or None where it fails, is not there or takes too long."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("GIT_")
    }  # set inside hooks
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def platform_record() -> dict[str, Any]:
    """System, processor and its number of cores."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "cpu_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


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
