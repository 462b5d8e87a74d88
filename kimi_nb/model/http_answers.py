"""What a server's answers mean: which can be used, which deserve another try, what to say of the others."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from kimi_nb.model.gguf_faults import fault

if TYPE_CHECKING:
    import httpx2

    from kimi_nb.errors import ModelFileError

__all__ = [
    "ATTEMPTS",
    "Pin",
    "check_range",
    "get",
    "new_client",
    "refuse_status",
    "token_headers",
    "trouble",
    "worth_waiting",
]

ATTEMPTS = 3
_LONGEST_WAIT = 3.0
_QUIET_SECONDS = 20.0
_CONNECT_SECONDS = 10.0
_OK, _PARTIAL, _UNAUTHORIZED, _TOO_MANY, _SERVER_ERROR = 200, 206, 401, 429, 500
_KNOWN = {401: "KNB343", 403: "KNB344", 404: "KNB345", 410: "KNB345", 412: "KNB342", 429: "KNB346"}


class Pin(NamedTuple):
    """What must stay the same while one file is read."""

    size: int
    etag: str | None


def new_client(connections: int = 8) -> httpx2.Client:
    """Return an HTTP client that waits no more than 20 s for the next byte and follows redirects.

    An Authorization header does not follow a redirect to another host.
    """
    import httpx2

    return httpx2.Client(
        timeout=httpx2.Timeout(_QUIET_SECONDS, connect=_CONNECT_SECONDS),
        follow_redirects=True,
        max_redirects=5,
        limits=httpx2.Limits(max_connections=connections),
        headers={"Accept-Encoding": "identity", "User-Agent": "kimi-nb"},
    )


def token_headers(url: str, home: str | None = None) -> dict[str, str]:
    """Return the Authorization header for the Hub, with the token from ``HF_TOKEN`` if there is one.

    A token never travels unencrypted, except to this machine itself, and never to another server than that of
    ``home``, from where a redirect to ``url`` may have come.
    """
    if home and urlsplit(url)[:2] != urlsplit(home)[:2]:
        return {}
    token = os.environ.get("HF_TOKEN", "").strip()
    parts = urlsplit(url)
    safe = parts.scheme == "https" or parts.hostname in {"127.0.0.1", "localhost", "::1"}
    return {"Authorization": f"Bearer {token}"} if token and safe else {}


def get(client: httpx2.Client, url: str, label: str) -> httpx2.Response:
    """GET a small answer.

    Raises:
        ModelFileError: KNB341 to KNB349.
    """
    import httpx2

    failures = 0
    while True:
        failures += 1
        try:
            response = client.get(url, headers=token_headers(url))
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            if failures < ATTEMPTS and isinstance(error, (httpx2.ReadError, httpx2.RemoteProtocolError)):
                continue
            raise trouble(label, url, error) from error
        if not worth_waiting(response, failures):
            refuse_status(response, label)
            return response


def worth_waiting(response: httpx2.Response, failures: int) -> bool:
    """Whether the server asks for a moment's patience that we have; if so, wait."""
    if response.status_code not in {429, 500, 502, 503, 504} or failures >= ATTEMPTS:
        return False
    asked = response.headers.get("Retry-After", "")
    seconds = float(asked) if re.fullmatch(r"\d{1,6}", asked) else 0.5 * failures
    if seconds > _LONGEST_WAIT:
        return False
    time.sleep(seconds)
    return True


def refuse_status(response: httpx2.Response, label: str) -> None:
    """Raise the error that an answer's status stands for; 200 and 206 pass.

    Raises:
        ModelFileError: KNB342 to KNB349.
    """
    status = response.status_code
    if status in {_OK, _PARTIAL}:
        return
    told = response.headers.get("X-Error-Message", "")
    why = f"{response.request.url.host} answers {status}" + (f", {told[:120]!r}" if told else "")
    if status == _UNAUTHORIZED and response.request.headers.get("Authorization"):
        raise fault("KNB343", label, f"{why} although a token was sent", fix="Renew the token in HF_TOKEN.")
    if status == _TOO_MANY and response.headers.get("Retry-After"):
        why += f" and asks to wait {response.headers['Retry-After'][:40]} s"
    raise fault(_KNOWN.get(status, "KNB347" if status >= _SERVER_ERROR else "KNB349"), label, why)


def check_range(response: httpx2.Response, label: str, start: int, commit: str | None) -> Pin:
    """See that an answer holds the bytes that were asked for, of the revision that was asked for.

    Raises:
        ModelFileError: KNB340, KNB342 or KNB349.
    """
    for answer in (*response.history, response):
        said = answer.headers.get("X-Repo-Commit")
        if commit and said and said != commit:
            raise fault("KNB342", label, f"it comes from commit {said[:12]} instead of {commit[:12]}")
    if response.status_code == _OK:
        if start:
            raise fault("KNB342", label, "the server would only send it from the start again")
        raise fault("KNB340", label, f"{response.request.url.host} ignores byte ranges")
    told = response.headers.get("Content-Range", "").strip()
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", told)
    if not found:
        raise fault("KNB349", label, "the answer does not say which bytes it holds")
    if int(found[1]) != start:
        why = f"bytes from {start:,} were asked for, and those from {int(found[1]):,} came"
        raise fault("KNB349", label, why)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise fault("KNB349", label, "its bytes were compressed on the way")
    return Pin(size=int(found[3]), etag=response.headers.get("ETag"))


def trouble(label: str, url: str, error: Exception) -> ModelFileError:
    """Return the error for a request without answer; never with the query, which may be secret."""
    import httpx2

    try:
        host = urlsplit(url).hostname or "the server"
    except ValueError:
        host = "the server"
    if isinstance(error, httpx2.InvalidURL):
        return fault("KNB348", label, "its address is not a URL")
    if isinstance(
        error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol)
    ):
        return fault("KNB348", label, f"{host}: {str(error)[:120] or type(error).__name__}")
    return fault("KNB341", label, f"{host}: {type(error).__name__}")
