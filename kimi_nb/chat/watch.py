"""End a request that has gone quiet, has passed its deadline, or is to be cancelled.

The HTTP client's read timeout cannot do this alone: llama-server sends an empty comment every 30 seconds,
also while the model is stuck, and each of them starts that clock anew. And a request that waits for a free
slot waits for the response's first byte, where nobody reads.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx2

    from kimi_nb.chat.answer import Answer, Limit

__all__ = ["Watch"]

_LOOK_EVERY_S = 1.0  # the limit becomes a near one when the last event has come
_CANCEL_EVERY_S = 0.05


class Watch:
    """Watch one request from a thread of its own, and shut its socket down when it takes too long.

    Args:
        answer: Knows the limits, and when an event last arrived.
        cancel: Set from any thread when the answer is not wanted any more.
    """

    def __init__(self, answer: Answer, cancel: threading.Event | None = None) -> None:
        self.expired: Limit | None = None
        self._answer = answer
        self._cancel = cancel
        self._socket: socket.socket | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="kimi-nb chat watch", daemon=True)
        self._thread.start()

    def trace(self, name: str, info: Mapping[str, Any]) -> None:
        """Learn of the connection as it is made: the HTTP library calls this with its steps."""
        if name.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")

    def saw(self, response: httpx2.Response) -> None:
        """Learn of the connection from its response: it may be one that was made earlier."""
        stream = response.extensions.get("network_stream")
        self._socket = stream.get_extra_info("socket") if stream is not None else self._socket

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        every_s = _LOOK_EVERY_S if self._cancel is None else _CANCEL_EVERY_S
        while True:
            until, limit = self._answer.limit
            wait = until - time.monotonic()
            if self._cancel is not None and self._cancel.is_set():
                self.expired = "cancel"
            elif wait <= 0:
                self.expired = limit
            if self.expired is not None and self._shut():
                return
            if self._stopped.wait(min(max(wait, _CANCEL_EVERY_S), every_s)):
                return

    def _shut(self) -> bool:
        """Shut the socket down, if there is one yet."""
        if self._socket is None:
            return False
        try:
            # The plain socket's method also for TLS: the reader must wake up, not find its TLS state gone.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:  # it ended by itself a moment ago, or is being wrapped in TLS just now
            return False
        return True
