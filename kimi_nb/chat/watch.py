"""End a stream that has gone quiet or past its deadline.

The HTTP client's read timeout cannot do this alone: llama-server sends an empty comment every 30 seconds,
also while the model is stuck, and each of them starts that clock anew.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import httpx2

__all__ = ["Watch"]


class Watch:
    """Watch one response from a thread of its own, and shut its socket down when it takes too long.

    Args:
        response: The streaming response.
        quiet_s: The longest wait for the next event.
        deadline: The :func:`time.monotonic` after which the stream must end; None for no limit.
    """

    def __init__(self, response: httpx2.Response, *, quiet_s: float, deadline: float | None) -> None:
        self.expired: Literal["quiet", "deadline"] | None = None
        self._response = response
        self._quiet_s = quiet_s
        self._deadline = deadline
        self._last = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="kimi-nb chat watch", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Note that an event arrived."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            quiet_until = self._last + self._quiet_s
            until = quiet_until if self._deadline is None else min(quiet_until, self._deadline)
            wait = until - time.monotonic()
            if wait <= 0:
                self.expired = "deadline" if until == self._deadline else "quiet"
                self._shut()
                return
            if self._stopped.wait(wait):
                return

    def _shut(self) -> None:
        stream = self._response.extensions.get("network_stream")
        handle = stream.get_extra_info("socket") if stream is not None else None
        if handle is not None:
            with contextlib.suppress(OSError):  # it ended by itself a moment ago
                # The plain socket's method also for TLS: the reader must wake up, not find its TLS state
                # gone.
                socket.socket.shutdown(handle, socket.SHUT_RDWR)
