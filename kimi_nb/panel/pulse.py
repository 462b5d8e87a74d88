"""Looking at something now and then, for as long as there is something to see."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pulse"]


class Pulse:
    """Calls ``beat`` in a thread that lives only while it is needed.

    Args:
        beat: Returns after how many seconds it wants to be called again, or None: not before the next
            :meth:`wake`. The thread ends then.
        name: Of the thread.
    """

    def __init__(self, beat: Callable[[], float | None], name: str) -> None:
        self._beat = beat
        self._name = name
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def beating(self) -> bool:
        """Whether it will call again by itself."""
        return self._thread is not None

    def wake(self) -> None:
        """Have ``beat`` called at once, or once more if it is being called; return without waiting for it."""
        with self._lock:
            self._woken.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause: float | None = None
        try:
            while self._goes_on(pause):
                self._woken.clear()
                pause = self._beat()
        except BaseException:
            self._thread = None
            raise

    def _goes_on(self, pause: float | None) -> bool:
        if pause is not None:
            self._woken.wait(pause)
            return True
        with self._lock:
            if not self._woken.is_set():
                self._thread = None
            return self._thread is not None
