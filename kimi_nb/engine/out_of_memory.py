"""Was it the kernel that killed a process, for want of memory?"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["OutOfMemoryWatch"]

_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


class OutOfMemoryWatch:
    """Compare the kernel's counts of processes killed for want of memory, before and after.

    Args:
        pid: A process in the control group to watch; our own by default.
        root: Where the kernel's file systems are, for tests.
    """

    def __init__(self, pid: int | str = "self", *, root: Path = Path("/")) -> None:
        self._own = _control_group_files(pid, root)
        self._whole = root / "proc/vmstat"
        self._own_before = _first_count(self._own)
        self._whole_before = _first_count([self._whole])

    def verdict(self) -> str:
        """Say what is known of a process that died by signal 9.

        Returns:
            ``certain``: in its own control group a process was killed for want of memory.
            ``likely``: somewhere on this machine one was. ``unlikely``: none was.
            ``unknown``: this system does not say.
        """
        own, whole = _first_count(self._own), _first_count([self._whole])
        if own is not None and self._own_before is not None and own > self._own_before:
            return "certain"
        if whole is not None and self._whole_before is not None:
            return "likely" if whole > self._whole_before else "unlikely"
        return "unlikely" if own is not None and own == self._own_before else "unknown"


def _control_group_files(pid: int | str, root: Path) -> list[Path]:
    """Return the files that may hold the count of a process's control group, version 2 first."""
    try:
        lines = (root / "proc" / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return []
    mount = root / "sys/fs/cgroup"
    found: list[Path] = []
    for line in lines:
        number, kinds, path = [*line.split(":", 2), "", ""][:3]
        inside = path.lstrip("/")
        if number == "0" and not kinds:
            found += [mount / inside / "memory.events", mount / "unified" / inside / "memory.events"]
        elif "memory" in kinds.split(","):
            # Inside a container the path may be the host's; the group's own files lie at the mount's root.
            found += [
                mount / "memory" / inside / "memory.oom_control",
                mount / "memory" / "memory.oom_control",
            ]
    return found


def _first_count(files: list[Path]) -> int | None:
    for file in files:
        try:
            found = _COUNT.search(file.read_text())
        except OSError:
            continue
        if found:
            return int(found[1])
    return None
