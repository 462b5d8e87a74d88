"""HTTP as a ranged transfer needs it: one connection a thread, kept open, no token beyond the first host.

huggingface_hub's client is not used here because it restarts a file in every new process, refuses files over
50 GB without Xet, and cannot be told which bytes to bring.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from kimi_nb.errors import DownloadError

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Answer", "Wire", "origin"]

REDIRECTS = {301, 302, 303, 307, 308}


def origin(url: str) -> tuple[str, str, int]:
    """Return what decides whether two addresses are the same host: scheme, name, port."""
    parts = urlsplit(url)
    return (
        parts.scheme,
        (parts.hostname or "").lower(),
        parts.port or (443 if parts.scheme == "https" else 80),
    )


@cache
def _tls() -> ssl.SSLContext:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        if bundle := os.environ.get(name):
            return ssl.create_default_context(cafile=bundle)
    context = ssl.create_default_context()
    if not context.get_ca_certs() and not os.environ.get("SSL_CERT_DIR"):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


@dataclass
class Answer:
    """A response whose body is still to be read."""

    url: str
    status: int
    headers: http.client.HTTPMessage
    response: http.client.HTTPResponse

    def read_into(self, buffer: memoryview) -> int:
        """Read the next bytes of the body as soon as there are any; return how many, 0 at the end.

        :meth:`http.client.HTTPResponse.readinto` would wait until the buffer is full, and a slow drip would
        look like silence. A body without a length (which no file has) is read the slow way.
        """
        response = self.response
        if response.length is None or response.chunked:
            return response.readinto(buffer)
        if response.length == 0 or response.isclosed():
            return 0
        count: int = response.fp.readinto1(buffer[: response.length])
        response.length -= count
        return count

    def read_all(self, *, limit: int) -> bytes:
        """Return the whole body, which must be small."""
        data = self.response.read(limit)
        self.response.close()
        return data

    def header(self, name: str) -> str | None:
        """Return a header's value."""
        return self.headers.get(name)

    def etag(self) -> str | None:
        """Return the ETag if it is strong, which If-Range demands."""
        tag = self.headers.get("ETag")
        return tag if tag and not tag.startswith("W/") else None

    def total(self) -> int | None:
        """Return the size of the whole file, of which this may be a part."""
        span = self.headers.get("Content-Range", "")
        if "/" in span:
            size = span.rpartition("/")[2]
            return int(size) if size.isdigit() else None
        length = self.headers.get("Content-Length", "")
        return int(length) if length.isdigit() else None

    def first(self) -> int | None:
        """Return the offset of the first byte that the body holds."""
        span = self.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        return int(span) if span.isdigit() else None

    def retry_after(self) -> float | None:
        """Return how many seconds the server asks us to wait."""
        value = self.headers.get("Retry-After", "").strip()
        if value.isdigit():
            return float(value)
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (TypeError, ValueError):
            return None


class Wire:
    """Open connections of one thread, by host.

    Args:
        endpoint: The only host that is sent ``token``.
        token: Sent as ``Authorization: Bearer``.
        timeout: Seconds without a byte after which a connection counts as dead.
    """

    def __init__(self, endpoint: str, token: str | None, *, timeout: float = 30.0) -> None:
        self._home = origin(endpoint)
        self._token = token
        self.timeout = timeout
        self._open: dict[tuple[str, str, int], http.client.HTTPConnection] = {}
        self._aborted = False

    def get(self, url: str, headers: dict[str, str] | None = None, *, method: str = "GET") -> Answer:
        """Send one request and return the answer, redirects included; the body is the caller's to read."""
        given = {"User-Agent": "kimi-nb", "Accept-Encoding": "identity", **(headers or {})}
        if self._token and origin(url) == self._home:
            given["Authorization"] = f"Bearer {self._token}"
        if self._aborted:
            raise ConnectionAbortedError("the transfer has ended")
        key = origin(url)
        fresh = key not in self._open
        connection = self._open.get(key) or self._connect(urlsplit(url))
        self._open[key] = connection
        try:
            connection.request(method, _target(url, connection), headers=given | _proxy_login(connection))
            response = connection.getresponse()
        except (OSError, http.client.HTTPException):
            self.drop(url)
            if fresh:
                raise
            return self.get(
                url, headers, method=method
            )  # a kept connection that the server had closed meanwhile
        return Answer(url, response.status, response.headers, response)

    def follow(self, url: str, headers: dict[str, str] | None = None, *, method: str = "GET") -> Answer:
        """As :meth:`get`, following redirects that stay on the host."""
        for _ in range(10):
            answer = self.get(url, headers, method=method)
            target = answer.header("Location")
            if (
                answer.status not in REDIRECTS
                or target is None
                or origin(urljoin(url, target)) != origin(url)
            ):
                return answer
            self.finish(answer)
            url = urljoin(url, target)
        raise http.client.HTTPException(f"too many redirects from {origin(url)[1]}")

    def finish(self, answer: Answer) -> None:
        """Free the connection of an answer for the next request, or close it if that costs too much."""
        left = answer.response.length
        if left is not None and left <= 64 * 1024:
            try:
                answer.response.read()
            except (OSError, http.client.HTTPException):
                self.drop(answer.url)
        else:
            self.drop(answer.url)
        answer.response.close()

    def drop(self, url: str) -> None:
        """Close the connection to a host."""
        connection = self._open.pop(origin(url), None)
        if connection is not None:
            connection.close()

    def abort(self) -> None:
        """Wake a thread that is reading, from another thread, by ending its connections."""
        self._aborted = True
        for connection in list(self._open.values()):
            sock = connection.sock
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close every connection."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self, parts: SplitResult) -> http.client.HTTPConnection:
        scheme, host, port = origin(parts.geturl())
        via = _proxy_for(scheme, host, port)
        if via is None:
            return self._to(scheme, host, port)
        proxy_host, proxy_port = via.hostname or "", via.port or 80
        if scheme == "https":
            connection = self._to(scheme, proxy_host, proxy_port)
            connection.set_tunnel(host, port, headers=_login(via))
            return connection
        return _ProxiedConnection(proxy_host, proxy_port, timeout=self.timeout, login=_login(via))

    def _to(self, scheme: str, host: str, port: int) -> http.client.HTTPConnection:
        if scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self.timeout, context=_tls())
        return http.client.HTTPConnection(host, port, timeout=self.timeout)


class _ProxiedConnection(http.client.HTTPConnection):
    """Plain HTTP through a proxy: the request line names the whole address."""

    def __init__(self, host: str, port: int, *, timeout: float, login: dict[str, str]) -> None:
        super().__init__(host, port, timeout=timeout)
        self.login = login


def _proxy_for(scheme: str, host: str, port: int) -> SplitResult | None:
    """Return the proxy that the environment, or macOS's settings, name for a host."""
    if proxy_bypass(f"{host}:{port}"):
        return None
    proxies = getproxies()
    found = proxies.get(scheme) or proxies.get("all")
    if not found:
        return None
    via = urlsplit(found if "//" in found else f"http://{found}")
    if via.scheme != "http":
        raise DownloadError(
            "KNB421",
            f"cannot use the proxy {via.scheme}://{via.hostname}",
            why=f"{via.scheme} proxies are not supported here",
            fix="Set HTTPS_PROXY to an http:// proxy, or unset it.",
        )
    return via


def _login(via: SplitResult) -> dict[str, str]:
    if via.username is None:
        return {}
    pair = f"{unquote(via.username)}:{unquote(via.password or '')}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair).decode()}


def _proxy_login(connection: http.client.HTTPConnection) -> dict[str, str]:
    return connection.login if isinstance(connection, _ProxiedConnection) else {}


def _target(url: str, connection: http.client.HTTPConnection) -> str:
    if isinstance(connection, _ProxiedConnection):
        return url
    parts = urlsplit(url)
    return f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
