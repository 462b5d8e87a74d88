"""Where bytes come from: the Hub's ranged HTTP, with its signed, expiring addresses."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urljoin

from kimi_nb.engine.fetch.remote import TRANSIENT
from kimi_nb.engine.fetch.trouble import from_answer, not_a_hub, plain_words
from kimi_nb.engine.fetch.wire import REDIRECTS, Answer, Wire, origin
from kimi_nb.errors import DownloadError

if TYPE_CHECKING:
    from kimi_nb.engine.fetch.manifest import Manifest, RemoteFile

__all__ = ["HttpSource", "Retry", "Sink", "Source"]

READ = 1024 * 1024
SMALLEST_READ = 16 * 1024
HAND_ON_S = 1.0
SLOW_S = 20.0
SLOW_BYTES_S = 1024

Sink = Callable[[int, memoryview], None]
"""Takes an offset in the file and the bytes that belong there; the buffer is used again afterwards."""

_kept = threading.local()


def wire_buffer() -> bytearray:
    """Return this thread's receive buffer; memory that is touched again and again stays in the cache."""
    if not hasattr(_kept, "buffer"):
        _kept.buffer = bytearray(READ)
    buffer: bytearray = _kept.buffer
    return buffer


class Retry(Exception):  # noqa: N818 - an instruction to the caller
    """The bytes did not come this time.

    Args:
        why: For the message, should it be the last.
        after: Seconds the server asked us to wait.
        server: Whether a server answered at all; if one did, and keeps doing so, waiting for hours is
            pointless.
        transient: Whether the server itself says that it will pass.
    """

    def __init__(
        self, why: str, *, after: float | None = None, server: bool = True, transient: bool = False
    ) -> None:
        super().__init__(why)
        self.why, self.after, self.server, self.transient = why, after, server, transient


class Source(Protocol):
    """Something that brings a file's bytes."""

    def takes_ranges(self, file: RemoteFile) -> bool:
        """Tell whether a file can be had from its middle on, as far as is known."""

    @property
    def afterword(self) -> str:
        """What has to be added to the reason for choosing it, once it was used."""

    def abort(self) -> None:
        """Wake threads that wait for bytes by other means than their wire."""

    def fetch(self, wire: Wire, file: RemoteFile, start: int, stop: int, sink: Sink) -> None:
        """Hand the bytes from ``start`` to before ``stop`` to ``sink`` as they come, in order."""


@dataclass(frozen=True)
class _Place:
    """Where a file's bytes are served from just now."""

    url: str
    etag: str | None = None
    ranges: bool = True
    number: int = 0


class HttpSource:
    """Ranged requests over plain HTTP(S).

    Args:
        manifest: Names the repository, the commit and the Hub.
        limit_bytes_s: The most bytes a second that will be let pass: what is read at once stays small
            beside it.
    """

    def __init__(self, manifest: Manifest, *, limit_bytes_s: float | None = None) -> None:
        self._manifest = manifest
        self._step = READ if limit_bytes_s is None else max(SMALLEST_READ, min(READ, int(limit_bytes_s / 32)))
        self._places: dict[str, _Place] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._doubted: set[str] = set()

    def takes_ranges(self, file: RemoteFile) -> bool:
        """See :class:`Source`."""
        place = self._places.get(file.path)
        return place is None or place.ranges

    def fetch(self, wire: Wire, file: RemoteFile, start: int, stop: int, sink: Sink) -> None:
        """See :class:`Source`.

        Raises:
            Retry: Try again, perhaps later.
            DownloadError: Trying again cannot help.
        """
        try:
            place = self._place(wire, file)
            headers = {"Range": f"bytes={start}-{stop - 1}"}
            if place.etag:
                headers["If-Range"] = place.etag
            answer = wire.get(place.url, headers)
            try:
                position = self._check(answer, file, place, start)
                self._body(answer, position, stop, sink, skip_to=start)
            finally:
                wire.finish(answer)
        except (OSError, http.client.HTTPException) as error:
            raise Retry(plain_words(error), server=False) from error

    afterword = ""

    def abort(self) -> None:
        """See :class:`Source`; everything here waits on its wire."""

    def _body(self, answer: Answer, position: int, stop: int, sink: Sink, *, skip_to: int) -> None:
        buffer, filled = memoryview(wire_buffer())[: self._step], 0
        marked, mark, handed = position, time.monotonic(), time.monotonic()
        try:
            while position + filled < stop:
                full = min(len(buffer), stop - position)
                count = answer.read_into(buffer[filled:full])
                filled += count
                if not count:
                    missing = stop - position - filled
                    raise Retry(f"the connection ended {missing} bytes early", server=False)
                now = time.monotonic()
                if filled == full or now - handed > HAND_ON_S:
                    given, filled, position, handed = filled, 0, position + filled, now
                    self._hand_on(buffer[:given], position - given, sink, skip_to)
                if now - mark > SLOW_S:
                    if (position + filled - marked) / (now - mark) < SLOW_BYTES_S:
                        raise Retry("the connection had slowed to a drip", server=False)
                    marked, mark = position + filled, now
        finally:
            if filled:
                self._hand_on(buffer[:filled], position, sink, skip_to)

    @staticmethod
    def _hand_on(data: memoryview, position: int, sink: Sink, skip_to: int) -> None:
        drop = max(0, skip_to - position)
        if drop < len(data):
            sink(position + drop, data[drop:])

    def _check(self, answer: Answer, file: RemoteFile, place: _Place, start: int) -> int:
        """Return the offset of the body's first byte, or say why this answer is of no use."""
        status = answer.status
        if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            self._refused(answer, file, place)
        if answer.header("Content-Encoding") not in {None, "identity"}:
            raise Retry("something on the way compresses the file")
        if answer.total() != file.size:
            self._forget(file, place)
            raise Retry(f"the server has {answer.total()} bytes where the Hub promised {file.size}")
        if place.etag is None and answer.etag() is not None and file.path not in self._doubted:
            self._keep(file, place, replace(place, etag=answer.etag()))
        if status == HTTPStatus.PARTIAL_CONTENT:
            first = answer.first()
            if first != start:
                raise Retry(f"the server sent bytes from {first} on where {start} was asked for")
            return start
        if place.etag is not None and answer.etag() != place.etag:
            # Ask the Hub where our file is now. It vouches for the content, so storage hosts whose tags
            # differ among themselves are asked without a condition from then on; the hash has the last word
            # in any case.
            self._doubted.add(file.path)
            self._forget(file, place)
            raise Retry("the file at its address has changed")
        self._keep(file, place, replace(place, ranges=False))
        return 0

    def _refused(self, answer: Answer, file: RemoteFile, place: _Place) -> None:
        status, home = answer.status, origin(answer.url) == origin(self._manifest.endpoint)
        if status in TRANSIENT:
            raise Retry(f"the server answered {status}", after=answer.retry_after(), transient=True)
        self._forget(file, place)
        if home and status in {401, 403, 404}:
            raise _refusal(answer, file.path)
        raise Retry(f"the address had expired (HTTP {status})")

    # ---- addresses

    def _place(self, wire: Wire, file: RemoteFile) -> _Place:
        with self._guard:
            lock = self._locks.setdefault(file.path, threading.Lock())
        with lock:  # one connection asks, the others of the file wait for its answer
            place = self._places.get(file.path)
            if place is None or not place.url:
                number = place.number + 1 if place else 0
                place = _Place(
                    self._locate(wire, file), number=number, ranges=place.ranges if place else True
                )
                self._places[file.path] = place
            return place

    def _keep(self, file: RemoteFile, seen: _Place, place: _Place) -> None:
        if self._places[file.path].number == seen.number:
            self._places[file.path] = place

    def _forget(self, file: RemoteFile, seen: _Place) -> None:
        self._keep(file, seen, replace(seen, url="", etag=None))

    def _locate(self, wire: Wire, file: RemoteFile) -> str:
        """Ask the Hub for the file's address, and whether it is still the file the manifest names."""
        manifest = self._manifest
        url = f"{manifest.endpoint}/{manifest.repo}/resolve/{manifest.commit}/{quote(file.path)}"
        answer = wire.follow(url, method="HEAD")
        wire.finish(answer)
        if answer.status in TRANSIENT:
            raise Retry(f"the Hub answered {answer.status}", after=answer.retry_after(), transient=True)
        if answer.status not in {200, *REDIRECTS}:
            raise _refusal(answer, file.path)
        commit = answer.header("X-Repo-Commit")
        if commit is None:
            raise not_a_hub(file.path)
        etag = (answer.header("X-Linked-Etag") or answer.header("ETag") or "").removeprefix("W/").strip('"')
        if commit != manifest.commit or etag not in {file.sha256, file.git_oid}:
            raise DownloadError(
                "KNB414",
                f"{file.path} on the Hub is not the file the manifest names",
                why=f"commit {commit[:12]} with ETag {etag[:12]}, where {manifest.commit[:12]} was pinned",
                fix="Run the same command with --update to take the newer revision; equal files are kept.",
            )
        location = answer.header("Location")
        return urljoin(answer.url, location) if answer.status in REDIRECTS and location else answer.url


def _refusal(answer: Answer, path: str) -> DownloadError:
    return from_answer(answer.status, answer.header("X-Error-Code"), answer.header("X-Error-Message"), path)
