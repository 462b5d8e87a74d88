"""The few requests that a supervisor makes of its own server, over loopback and nothing else."""

from __future__ import annotations

import http.client
import json
import select
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ["HOST", "Answer", "ServerHttp"]

#: The only address that we serve on and ask.
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Answer:
    """A status and a body."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON, or None when it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def text(self) -> str:
        """Return the body as text, whatever its bytes."""
        return self.body.decode("utf-8", errors="replace")


class ServerHttp:
    """A client for one port on loopback.

    It uses the standard library's client, which heeds no proxy settings: the key never leaves the machine.

    Args:
        port: Where the server listens.
        api_key: Sent with every request.
    """

    def __init__(self, port: int, api_key: str) -> None:
        self.port = port
        self._api_key = api_key

    @classmethod
    def at(cls, base_url: str, api_key: str) -> Self:
        """Return a client for the server whose clients use ``base_url``, which ends in ``:PORT/v1``."""
        return cls(int(base_url.removesuffix("/v1").rpartition(":")[2]), api_key)

    def ask(
        self,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        timeout_s: float = 10.0,
        while_waiting: Callable[[], None] | None = None,
    ) -> Answer:
        """Send a request (POST when there is a body) and return the answer.

        Args:
            path: Such as ``/health``.
            body: Sent as JSON.
            timeout_s: The longest wait for a connection, or for the next bytes.
            while_waiting: When given, the wait for the first byte has no limit and this is called five times
                a second; it ends the wait by raising.

        Raises:
            OSError: No connection, or it broke, or the time is over.
        """
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout_s)
        headers = {"Authorization": f"Bearer {self._api_key}", "Content-Type": "application/json"}
        with closing(connection):
            try:
                if body is None:
                    connection.request("GET", path, headers=headers)
                else:
                    connection.request("POST", path, json.dumps(body), headers=headers)
                if while_waiting is not None:
                    while not select.select([connection.sock], [], [], 0.2)[0]:
                        while_waiting()
                response = connection.getresponse()
                return Answer(response.status, response.read())
            except http.client.HTTPException as error:
                raise ConnectionError(f"{HOST}:{self.port} does not speak HTTP: {error}") from error
