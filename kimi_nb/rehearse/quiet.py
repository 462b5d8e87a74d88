"""How much of the processors other programs use while something is measured."""

from __future__ import annotations

import os
import time
from contextlib import suppress

__all__ = ["Others"]


class Others:
    """What other programs than this process and its children have used since this was made."""

    def __init__(self) -> None:
        self._cores = os.cpu_count() or 1
        self._start = time.monotonic()
        self._busy, self._own = _busy_s(), _own_s()

    def processors(self) -> float:
        """Return how many processors others used, on average; 0 where the system does not tell.

        Children count as our own once they have ended and were waited for.
        """
        passed = time.monotonic() - self._start
        others = (_busy_s() - self._busy) - (_own_s() - self._own)
        return min(max(others / passed, 0.0), float(self._cores)) if passed > 0 else 0.0

    def share(self) -> float:
        """Return the same as a share of all processors, from 0 to 1."""
        return self.processors() / self._cores


def _busy_s() -> float:
    """Return the seconds that all processors have worked since the system started."""
    import psutil

    with suppress(OSError, RuntimeError):
        times = psutil.cpu_times()
        steal = getattr(times, "steal", 0.0)
        return float(times.user + times.system + getattr(times, "irq", 0.0) + steal)
    return 0.0


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
