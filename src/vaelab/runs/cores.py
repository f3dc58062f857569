"""How many processor cores a process may use: those that it may run on, and the time that its control group may take."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable() -> int:
    """Cores that this process may run on."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return len(affinity) or os.cpu_count() or 1


def within(usable: int, quota: float | None) -> int:
    """Of the cores that it may run on, those that it may use at a time.

    >>> within(64, None), within(64, 3.5), within(2, 8.0), within(64, 0.5)
    (64, 4, 2, 1)
    """
    return usable if quota is None else max(1, min(usable, math.ceil(quota)))


def quota(cgroup: Path = CGROUP) -> float | None:
    """Cores' worth of time that the control group of this process may use; None = no limit is set.

    Version 2 (``cpu.max`` of this group and of those above it), else version 1. Within a container its own group is at the top.
    """
    limits = []
    for group in _own_groups(cgroup):
        words = _read(group / "cpu.max").split()
        if words and words[0] != "max":
            limits.append(int(words[0]) / int(words[1]))
    used, period = (_read(cgroup / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if used and period and int(used) > 0:
        limits.append(int(used) / int(period))
    return min(limits, default=None)


def _own_groups(cgroup: Path) -> list[Path]:
    lines = [line for line in _read(OWN_GROUP).splitlines() if line.startswith("0::")]
    own = cgroup / lines[0].removeprefix("0::").lstrip("/") if lines else cgroup
    return [group for group in (own, *own.parents) if group.is_relative_to(cgroup)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # no such file: another version, or another system
        return ""
