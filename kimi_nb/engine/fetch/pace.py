"""How fast, how long still, when to try again: the arithmetic of waiting."""

from __future__ import annotations

import random
import threading
import time
from collections import deque

__all__ = ["Limiter", "Meter", "backoff_s"]


def backoff_s(failures: int, *, base: float = 0.5, most: float = 60.0) -> float:
    """Return how long to wait after the n-th failure in a row: doubling, with jitter."""
    return random.uniform(0.5, 1.0) * min(most, base * 2.0 ** min(failures, 16))  # noqa: S311 - no secret


class Limiter:
    """Let at most ``rate`` bytes a second pass, over all connections; ``None`` for no limit."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def take(self, count: int, stop: threading.Event) -> None:
        """Account for ``count`` bytes and wait until they were due."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            # A quarter of a second may be made up for after a pause, no more: a limit is a promise to the
            # line.
            self._free_at = max(self._free_at, now - 0.25) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            stop.wait(wait)


class Meter:
    """The rate over the last minute."""

    def __init__(self, *, span_s: float = 60.0) -> None:
        self._span_s = span_s
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, total: int, now: float | None = None) -> float | None:
        """Note how many bytes came so far; return bytes a second, or ``None`` while that cannot be said."""
        now = time.monotonic() if now is None else now
        self._samples.append((now, total))
        while len(self._samples) > 2 and now - self._samples[1][0] >= self._span_s:  # noqa: PLR2004 - a pair
            self._samples.popleft()
        then, before = self._samples[0]
        return (total - before) / (now - then) if now > then else None
