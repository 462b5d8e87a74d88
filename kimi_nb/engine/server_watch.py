"""Watching a server that is ready: does it still run, does it still answer, and may it be started again?"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Probe", "RestartPolicy", "Watch"]


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """When a server that ended by itself is started again. It must have been ready once.

    Args:
        most: So many restarts at most...
        within_s: ... in so many seconds; then it is left alone.
        first_delay_s: Before the first restart; doubled for each one after it.
        longest_delay_s: The delay never exceeds this.
    """

    most: int = 5
    within_s: float = 600.0
    first_delay_s: float = 1.0
    longest_delay_s: float = 60.0

    def delay_s(self, earlier: Sequence[float], now: float) -> float | None:
        """Return how long to wait before a restart, or None when there were too many.

        Args:
            earlier: When there were restarts, in seconds.
            now: The present, on the same clock.
        """
        recent = sum(now - moment < self.within_s for moment in earlier)
        if recent >= self.most:
            return None
        return float(min(self.first_delay_s * 2**recent, self.longest_delay_s))


class Probe:
    """Tell a server that works hard from one that hangs.

    The question asked (:class:`~kimi_nb.engine.server_liveness.Liveness`) passes through the same queue as
    generation does, so that an answer proves that the model is not stuck. While a long prompt is read no
    answer comes for minutes, which is not a fault: the processor time it uses tells.

    Args:
        ask: Asks; raises OSError when there is no answer.
        cpu_s: The processor time that the server has used, or None when it cannot be told.
        hung_s: Without an answer for so long, it hangs even if it uses processor time.
    """

    def __init__(self, ask: Callable[[], None], cpu_s: Callable[[], float | None], *, hung_s: float) -> None:
        self._ask = ask
        self._cpu_s = cpu_s
        self._hung_s = hung_s
        self._answered = time.monotonic()
        self._used = cpu_s()

    def well(self) -> bool:
        """Ask once; return whether the server answers, or is evidently at work."""
        used_before, self._used = self._used, self._cpu_s()
        try:
            self._ask()
        except OSError:
            used = self._cpu_s()
            working = used is not None and used_before is not None and used - used_before > 1.0
            return working and time.monotonic() - self._answered < self._hung_s
        self._answered = time.monotonic()
        return True


class Watch:
    """A thread that notices a server's death at once, and asks it now and then whether it is well.

    Args:
        died: Called when :meth:`wake` was; returns whether there is still something to watch.
        ask: Called every ``every_s`` seconds.
        every_s: Seconds between two questions.
    """

    def __init__(self, *, died: Callable[[], bool], ask: Callable[[], None], every_s: float) -> None:
        self._died = died
        self._ask = ask
        self._every_s = every_s
        self._woken = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="llama-server watch", daemon=True)

    def open(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once: the server may have ended."""
        self._woken.set()

    def close(self) -> None:
        """End at the next chance; nothing is asked or told after that."""
        self._closed = True
        self._woken.set()

    @property
    def closed(self) -> bool:
        """Whether it was told to end."""
        return self._closed

    def _run(self) -> None:
        while not self._closed:
            woken = self._woken.wait(self._every_s)
            self._woken.clear()
            if self.closed or not self._died():
                return
            if not woken:
                self._ask()
