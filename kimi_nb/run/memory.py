"""How much memory a run took, and whether the system killed something for want of it."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

__all__ = ["PeakMemory", "oom_kills"]

_MIB = 1 << 20


class PeakMemory:
    """Watch a process and everything below it, from a thread of our own.

    Args:
        pid: The process to watch.
        every_s: How often to look.
    """

    def __init__(self, pid: int, *, every_s: float = 0.25) -> None:
        self._pid = pid
        self._every_s = every_s
        self._stop = threading.Event()
        self._process_bytes = 0
        self._tree_bytes = 0
        self._looking = threading.Lock()
        self.look()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join(timeout=5)

    @property
    def process_mib(self) -> float | None:
        """The process's largest resident size so far, in MiB; on Linux the system's own high-water mark."""
        return round(self._process_bytes / _MIB, 1) if self._process_bytes else None

    @property
    def tree_mib(self) -> float | None:
        """The largest resident size of the process and all below it together, in MiB."""
        return round(max(self._tree_bytes, self._process_bytes) / _MIB, 1) if self._process_bytes else None

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            self.look()

    def look(self) -> None:
        """Look now, at a moment that matters, such as the end of a cell."""
        import psutil

        try:
            process = psutil.Process(self._pid)
            own = process.memory_info().rss
            below = 0
            for child in process.children(recursive=True):
                try:
                    below += child.memory_info().rss
                except psutil.Error:
                    continue  # it has just ended
        except psutil.Error:
            return
        with self._looking:
            self._process_bytes = max(self._process_bytes, own, _high_water_bytes(self._pid))
            self._tree_bytes = max(self._tree_bytes, own + below)


def _high_water_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def oom_kills(root: Path = Path("/")) -> int | None:
    """Return how many processes the system has killed so far for want of memory.

    Args:
        root: Where ``proc`` and ``sys`` are.

    Returns:
        The counter of this process's control group (version 2 or 1), else that of the machine, else None.
    """
    if root == Path("/") and sys.platform != "linux":
        return None
    for path in [*_counter_files(root), root / "proc/vmstat"]:
        try:
            words = path.read_text(encoding="ascii", errors="replace").split()
        except OSError:
            continue
        if "oom_kill" in words[:-1]:
            return int(words[words.index("oom_kill") + 1])
    return None


def _counter_files(root: Path) -> list[Path]:
    """List where the counter may be: the process's own group first, then the top of what is seen."""
    fs = root / "sys/fs/cgroup"
    own: list[Path] = []
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            own.append(fs / group.strip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            own.append(fs / "memory" / group.strip("/") / "memory.oom_control")
    return [*own, fs / "memory.events", fs / "memory/memory.oom_control"]
