"""How far a model has been loaded, and whether the program still does anything at all."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Activity"]

_GB = 1e9
_MB = 1e6


class Activity:
    """Watch a process while it loads a model.

    A model of 240 GB takes from a minute to an hour, so there is no time limit. What is limited is the time
    in which nothing happens: no processor time, no byte read, no memory gained.

    Args:
        pid: The process.
        total_bytes: What there is to load.
        lines: How many lines it has logged, which counts as something happening.
    """

    def __init__(self, pid: int, total_bytes: int, lines: Callable[[], int]) -> None:
        import psutil

        self._gone = psutil.Error
        self._lines = lines
        self._total = total_bytes
        self._seen: tuple[float, ...] = ()
        self._last = time.monotonic()
        self._done = 0
        try:
            self._process: psutil.Process | None = psutil.Process(pid)
        except psutil.Error:
            self._process = None

    def look(self) -> None:
        """Take a reading."""
        if self._process is None:
            return
        try:
            with self._process.oneshot():
                memory = self._process.memory_info().rss
                times = self._process.cpu_times()
                counters = self._process.io_counters() if hasattr(self._process, "io_counters") else None
        except (self._gone, OSError):  # it has just ended, or may not be looked at
            return
        # With mmap the weights show as resident memory, or as bytes from the disk when memory is short; read
        # without mmap, as characters.
        read = (counters.read_bytes, counters.read_chars) if counters is not None else (0, 0)
        self._done = max(self._done, memory, *read)
        seen = (round(times.user + times.system, 2), memory, *read, self._lines())
        if seen != self._seen:
            self._seen = seen
            self._last = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since a reading last differed from the one before it."""
        return time.monotonic() - self._last

    @property
    def fraction(self) -> float:
        """About how much has been loaded, from 0 to 1."""
        return min(self._done / self._total, 1.0) if self._total else 0.0

    def __str__(self) -> str:
        unit, name = (_GB, "GB") if self._total >= _GB else (_MB, "MB")
        return f"loading {min(self._done, self._total) / unit:.1f} of {self._total / unit:.1f} {name}"
