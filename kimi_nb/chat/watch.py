"""End a stream that has gone quiet or past its deadline.

The HTTP client's read timeout cannot do this alone: llama-server sends an empty comment every 30 seconds,
also while the model is stuck, and each of them starts that clock anew.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

    from kimi_nb.chat.answer import Answer, Limit

__all__ = ["Watch"]

_LOOK_EVERY_S = 1.0  # the limit becomes a near one when the last event has come


class Watch:
    """Watch one response from a thread of its own, and shut its socket down when it takes too long.

    Args:
        response: The streaming response.
        answer: Knows the limits, and when an event last arrived.
    """

    def __init__(self, response: httpx2.Response, answer: Answer) -> None:
        self.expired: Limit | None = None
        self._response = response
        self._answer = answer
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="kimi-nb chat watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            until, limit = self._answer.limit
            wait = until - time.monotonic()
            if wait <= 0:
                self.expired = limit
                self._shut()
                return
            if self._stopped.wait(min(wait, _LOOK_EVERY_S)):
                return

    def _shut(self) -> None:
        stream = self._response.extensions.get("network_stream")
        handle = stream.get_extra_info("socket") if stream is not None else None
        if handle is not None:
            with contextlib.suppress(OSError):  # it ended by itself a moment ago
                # The plain socket's method also for TLS: the reader must wake up, not find its TLS state
                # gone.
                socket.socket.shutdown(handle, socket.SHUT_RDWR)
