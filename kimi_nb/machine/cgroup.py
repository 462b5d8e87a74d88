"""The control groups this process lives in: where containers, Slurm, systemd and Kubernetes set their limits.

A limit can stand at any level: the tightest one from the process's own group up to the root counts. Inside a
container the upper levels are often hidden; version 1's ``hierarchical_memory_limit`` still tells of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kimi_nb.machine.read import MIB, Mount, key_values, mounts, number, text

__all__ = ["Limit", "MemoryLevel", "cpu_quota", "memory_levels"]

_UNLIMITED = 2**60
"""Version 1 writes "no limit" as the largest page-aligned number; no machine has this much."""


@dataclass(frozen=True)
class Limit:
    """A limit and where it is set."""

    mib: int
    source: str


@dataclass(frozen=True)
class MemoryLevel:
    """What one control group says of memory.

    Args:
        limits: Every limit it sets, in MiB.
        used_mib: What its processes hold that cannot simply be dropped: usage less cached files.
        swap_limit_mib: Swap its processes may use at most.
        swap_used_mib: Swap they use.
    """

    limits: tuple[Limit, ...]
    used_mib: int
    swap_limit_mib: int | None
    swap_used_mib: int


def memory_levels(root: Path) -> list[MemoryLevel]:
    """Return the memory control groups of this process, its own first."""
    second = [_level_v2(path, name) for path, name in _levels(root, "memory", 2)]
    return second + [_level_v1(path, name) for path, name in _levels(root, "memory", 1)]


def cpu_quota(root: Path) -> tuple[float, str] | None:
    """Return the tightest processor time limit, in cores, and where it is set."""
    found = []
    for path, name in _levels(root, "cpu", 2):
        quota, _, period = (text(path / "cpu.max") or "").partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            found.append((int(quota) / int(period), f"cgroup v2 cpu.max of {name}"))
    for path, name in _levels(root, "cpu", 1):
        spent, every = number(path / "cpu.cfs_quota_us"), number(path / "cpu.cfs_period_us")
        if spent is not None and spent > 0 and every:
            found.append((spent / every, f"cgroup v1 cpu.cfs_quota_us of {name}"))
    return min(found, default=None)


def _level_v2(path: Path, name: str) -> MemoryLevel:
    limits = [
        Limit(limit // MIB, f"cgroup v2 {kind} of {name}")
        for kind in ("memory.max", "memory.high")
        if (limit := number(path / kind)) is not None
    ]
    stat = key_values(path / "memory.stat")
    dropped = stat.get("inactive_file", 0) + stat.get("active_file", 0)
    used = max(0, (number(path / "memory.current") or 0) - dropped)
    swap = number(path / "memory.swap.max")
    return MemoryLevel(
        tuple(limits),
        used // MIB,
        None if swap is None else swap // MIB,
        (number(path / "memory.swap.current") or 0) // MIB,
    )


def _level_v1(path: Path, name: str) -> MemoryLevel:
    stat = key_values(path / "memory.stat")
    limits = []
    own = number(path / "memory.limit_in_bytes")
    if own is not None and own < _UNLIMITED:
        limits.append(Limit(own // MIB, f"cgroup v1 memory.limit_in_bytes of {name}"))
    above = stat.get("hierarchical_memory_limit")
    if above is not None and above < _UNLIMITED and above != own:
        limits.append(Limit(above // MIB, f"cgroup v1 hierarchical_memory_limit of {name}"))
    dropped = stat.get("total_inactive_file", 0) + stat.get("total_active_file", 0)
    usage = number(path / "memory.usage_in_bytes") or 0
    own_both = number(path / "memory.memsw.limit_in_bytes") or _UNLIMITED
    both = min(own_both, stat.get("hierarchical_memsw_limit", _UNLIMITED))
    memory = min((limit.mib for limit in limits), default=0)
    return MemoryLevel(
        tuple(limits),
        max(0, usage - dropped) // MIB,
        max(0, both // MIB - memory) if both < _UNLIMITED else None,
        max(0, (number(path / "memory.memsw.usage_in_bytes") or usage) - usage) // MIB,
    )


def _levels(root: Path, controller: str, version: int) -> list[tuple[Path, str]]:
    """Return the folder and name of this process's group and of each one above it, its own first."""
    own = _own_group(root, controller, version)
    if own is None:
        return []
    for mount in mounts(root):
        if _serves(mount, controller, version):
            return _climb(root, mount, own)
    return []


def _own_group(root: Path, controller: str, version: int) -> str | None:
    for line in (text(root / "proc/self/cgroup") or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and (  # noqa: PLR2004 - hierarchy, controllers, path
            parts[1] == "" if version == 2 else controller in parts[1].split(",")  # noqa: PLR2004 - the version
        ):
            return parts[2]
    return None


def _serves(mount: Mount, controller: str, version: int) -> bool:
    if version == 2:  # noqa: PLR2004 - the version
        return mount.filesystem == "cgroup2"
    return mount.filesystem == "cgroup" and controller in mount.options


def _climb(root: Path, mount: Mount, own: str) -> list[tuple[Path, str]]:
    top = root / mount.point.lstrip("/")
    inside = PurePosixPath(own)
    if inside.is_relative_to(mount.root):
        inside = inside.relative_to(mount.root)
    elif mount.root == "/":
        inside = inside.relative_to("/")
    else:
        inside = PurePosixPath()  # seen from another namespace: the mount itself is all that can be told
    if ".." in inside.parts:
        inside = PurePosixPath()
    found = []
    for part in (inside, *inside.parents):
        folder = top / part
        if folder.is_dir() and (folder, "/" + str(part).strip(".")) not in found:
            found.append((folder, "/" + str(part).strip(".")))
    return found
