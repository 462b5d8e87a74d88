"""How many compilers may run at once: as many as processors and memory allow, container limits included."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["default_jobs", "memory_mib", "processors"]

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60


def _folders(controller: str) -> list[Path]:
    """Return the folders of this process's control groups: version 2, and version 1 of ``controller``."""
    try:
        lines = _OWN.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        _, names, inside = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = _CGROUPS / controller if names else _CGROUPS
        here = root / inside.lstrip("/")
        found += [folder for folder in (here, *here.parents) if folder.is_relative_to(root)]
    return [folder for folder in found if folder.is_dir()]


def _number(folder: Path, *names: str) -> int | None:
    for name in names:
        try:
            return int((folder / name).read_text(encoding="ascii").split()[0])
        except (OSError, ValueError):  # no such file here, or "max"
            continue
    return None


def memory_mib() -> int:
    """Return the memory that may still be used, in MiB, of the machine and of each control group."""
    import psutil

    free: list[int] = [psutil.virtual_memory().available]
    for folder in _folders("memory"):
        limit = _number(folder, "memory.max", "memory.limit_in_bytes")
        used = _number(folder, "memory.current", "memory.usage_in_bytes")
        if limit is None or used is None or limit >= _UNLIMITED:
            continue
        try:
            text = (folder / "memory.stat").read_text(encoding="ascii")
        except OSError:
            text = ""
        cached = re.search(
            r"^(?:total_)?inactive_file (\d+)", text, re.MULTILINE
        )  # the kernel gives this back
        free.append(limit - used + (int(cached[1]) if cached else 0))
    return max(min(free), 0) >> 20


def processors() -> int:
    """Return the number of processors this process may use at once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _folders("cpu"):
        try:
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            quota, period = (
                str(_number(folder, "cpu.cfs_quota_us") or -1),
                str(_number(folder, "cpu.cfs_period_us") or 1),
            )
        if quota.isdigit():
            allowed = min(allowed, max(1, round(int(quota) / int(period))))
    return allowed


def default_jobs(mib_each: int) -> int:
    """Return how many compilers to run at once, when each may need ``mib_each`` MiB."""
    return max(1, min(processors(), memory_mib() // mib_each))
