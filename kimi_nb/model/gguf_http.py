"""Read headers over HTTP: hardly more bytes than a header has, from all shards at once.

The first round asks every shard for a window in which most headers end. Where one does not (the first shard
carries the vocabulary), what has arrived tells how long it will be, and the next request asks for just that.
Answers are read as they come and left as soon as the header is complete. A connection that breaks is taken up
where it broke, if the server says that the file is still the same (``If-Range`` with its ETag), so that two
versions never mix.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from kimi_nb.model.gguf_faults import bytes_text, fault
from kimi_nb.model.gguf_scan import HeaderScan
from kimi_nb.model.http_answers import (
    ATTEMPTS,
    check_range,
    new_client,
    refuse_status,
    token_headers,
    trouble,
    worth_waiting,
)
from kimi_nb.model.splits import assemble, shard_names, split_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx2

    from kimi_nb.model.gguf_model import Model
    from kimi_nb.model.gguf_scan import Header
    from kimi_nb.model.http_answers import Pin

__all__ = ["WINDOW_BYTES", "read_headers", "read_url_headers"]

WINDOW_BYTES = 16 << 20
"""The longest header that is read over HTTP; Kimi's is about 7 MiB."""

_SHARD_SECONDS = 180.0  # a megabyte in half a minute is no connection to download a model over
_MAX_PARALLEL = 64
# The shards share the list of tensors, for Kimi some 80 KiB in all, wherever the vocabulary is.
_FIRST_ROUND = 160 << 10
_LEAST_WINDOW = 16 << 10
_SLACK = 1.005
_EXPIRED = {401, 403, 404, 410}  # what an address says that the Hub gave us some time ago


class _Job(NamedTuple):
    """One header to be read."""

    url: str
    label: str
    window: int
    commit: str | None


def read_url_headers(urls: Sequence[str]) -> Model:
    """Read the headers of a model whose shards lie at ``urls``, in order.

    The address of one shard is enough where the others lie beside it under llama.cpp's names.

    Raises:
        ModelFileError: KNB300 to KNB322, the files are damaged or do not belong together; KNB340 to KNB349,
            they cannot be fetched.
    """
    headers = read_headers(urls)
    count = split_count(headers[0])
    if len(urls) == 1 and count > 1:
        known = headers[0]
        parts = urlsplit(urls[0])
        folder = parts.path.rpartition("/")[0]
        names = shard_names(known.label, count)
        urls = [parts._replace(path=f"{folder}/{name}").geturl() for name in names]
        others = [url for url, name in zip(urls, names, strict=True) if name != known.label]
        fetched = iter(read_headers(others))
        headers = [known if name == known.label else next(fetched) for name in names]
    return assemble(headers, list(urls))


def read_headers(urls: Sequence[str], *, commit: str | None = None) -> list[Header]:
    """Read one header from each address, all at once.

    Args:
        urls: Addresses of GGUF files; of a split model, with its first shard first.
        commit: What every answer's ``X-Repo-Commit`` must say, where it has one.

    Raises:
        ModelFileError: As :func:`read_url_headers`; of several troubles, the first shard's.
    """
    window = max(_FIRST_ROUND // max(len(urls), 1), _LEAST_WINDOW)
    jobs = [_Job(url, _file_name(url), window, commit) for url in urls]
    with new_client(_MAX_PARALLEL) as client, ThreadPoolExecutor(min(len(jobs), _MAX_PARALLEL) or 1) as pool:
        tasks = [pool.submit(_read_one, client, job) for job in jobs]
        try:
            headers = [task.result() for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
    for header in headers:
        header.check_data()
    return headers


def _file_name(url: str) -> str:
    plain = url.partition("?")[0]
    try:
        return unquote(urlsplit(url).path.rpartition("/")[2]) or plain
    except ValueError as error:
        raise fault("KNB348", plain, "its address is not a URL") from error


def _read_one(client: httpx2.Client, job: _Job) -> Header:
    """Read one file's header; a connection that breaks is taken up again, a few times."""
    import httpx2

    deadline = time.monotonic() + _SHARD_SECONDS
    scan: HeaderScan | None = None
    pin: Pin | None = None
    url, end, attempt, why = job.url, job.window, 0, ""
    while attempt < ATTEMPTS:
        attempt += 1
        start = scan.received if scan else 0
        headers = {"Range": f"bytes={start}-{end - 1}", **token_headers(url, job.url)}
        if pin and pin.etag and not pin.etag.startswith("W/"):
            headers["If-Range"] = pin.etag
        try:
            with client.stream("GET", url, headers=headers) as response:
                if worth_waiting(response, attempt):
                    continue
                if url != job.url and response.status_code in _EXPIRED:
                    url = job.url
                    continue
                refuse_status(response, job.label)
                seen = check_range(response, job.label, start, job.commit)
                if pin not in {None, seen}:
                    raise fault("KNB342", job.label, "its size or its ETag is another than at first")
                pin = seen
                url = str(response.url)  # the Hub sends us on to where the bytes are: no need to ask again
                scan = scan or HeaderScan(job.label, seen.size, max_bytes=WINDOW_BYTES)
                if _drink(response, scan, deadline):
                    return scan.header
            why = f"the connection ended after {bytes_text(scan.received)}"
            if scan.received == end < WINDOW_BYTES:
                end, attempt = _next_window(scan), 0
        except (httpx2.ReadError, httpx2.ReadTimeout, httpx2.RemoteProtocolError) as error:
            why = f"{type(error).__name__} after {bytes_text(scan.received if scan else 0)}"
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise trouble(job.label, job.url, error) from error
    raise fault("KNB341", job.label, f"{why}, and {ATTEMPTS} attempts did not help")


def _next_window(scan: HeaderScan) -> int:
    """Return up to where to ask next: to the header's likely end, and some way on at least."""
    least = max(scan.received + scan.received // 64, scan.received + _LEAST_WINDOW, scan.wanted)
    return min(max(round(scan.expected * _SLACK), least), WINDOW_BYTES)


def _drink(response: httpx2.Response, scan: HeaderScan, deadline: float) -> bool:
    """Feed the answer to the scan as it comes; return whether the header is complete."""
    for piece in response.iter_raw():
        if scan.feed(piece):
            return True
        if time.monotonic() > deadline:
            raise fault("KNB341", scan.label, f"it took more than {_SHARD_SECONDS:.0f} s")
    return scan.received >= scan.size and scan.feed(b"")
