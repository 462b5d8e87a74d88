"""Bytes from Xet storage, through hf_xet, range by range.

huggingface_hub hands hf_xet a whole file, to be written under a random name that is thrown away if anything
goes wrong. hf_xet can also stream a range; so our own part files, with their journal, work for Xet as they do
for HTTP, and a killed download continues.
"""

from __future__ import annotations

import os
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from kimi_nb.engine.fetch.source import HttpSource, Retry, Sink, Source
from kimi_nb.errors import KimiNbError

if TYPE_CHECKING:
    from kimi_nb.engine.fetch.job import Options
    from kimi_nb.engine.fetch.manifest import Manifest, RemoteFile
    from kimi_nb.engine.fetch.remote import Hub
    from kimi_nb.engine.fetch.wire import Wire

__all__ = ["XetSource", "pick_source"]

MOST_FAILURES = 5
SAFETY_S = 60


def pick_source(manifest: Manifest, hub: Hub, options: Options) -> tuple[Source, str]:
    """Choose how bytes are to come, and say why.

    Args:
        manifest: Says whether the repository offers Xet.
        hub: Gives tokens for Xet storage.
        options: The person's own choice, and their limit.
    """
    http = HttpSource(manifest, limit_bytes_s=options.limit_bytes_s)
    offered = any(file.xet_hash for file in manifest.files)
    if options.transfer == "http":
        return http, "ranged HTTP, as asked"
    if not offered:
        return http, "ranged HTTP: the repository offers no Xet storage"
    if os.environ.get("HF_HUB_DISABLE_XET", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return http, "ranged HTTP: HF_HUB_DISABLE_XET is set"
    try:
        found = version("hf_xet")
    except PackageNotFoundError:
        return http, "ranged HTTP: hf_xet is not installed"
    return XetSource(manifest, hub, http), f"Xet: the repository offers it and hf_xet {found} is installed"


class XetSource:
    """Xet storage, with ranged HTTP behind it for what Xet does not have or does not give.

    Args:
        manifest: Names the files' Xet hashes.
        hub: Gives tokens.
        http: Used for files without a Xet hash, and for all once Xet has failed :data:`MOST_FAILURES` times
            in a row.
    """

    name = "Xet"

    def __init__(self, manifest: Manifest, hub: Hub, http: HttpSource) -> None:
        self._manifest, self._hub, self._http = manifest, hub, http
        self._lock = threading.Lock()
        self._group: Any = None
        self._ends_at = 0.0
        self._failures = 0
        self._streams: set[Any] = set()

    def takes_ranges(self, file: RemoteFile) -> bool:
        """See :class:`~kimi_nb.engine.fetch.source.Source`."""
        return self._by_xet(file) or self._http.takes_ranges(file)

    def fetch(self, wire: Wire, file: RemoteFile, start: int, stop: int, sink: Sink) -> None:
        """See :class:`~kimi_nb.engine.fetch.source.Source`."""
        if not self._by_xet(file):
            self._http.fetch(wire, file, start, stop, sink)
            return
        from hf_xet import XetFileInfo  # type: ignore[import-untyped] # a binary without stubs

        position, group = start, None
        try:
            group = self._opened()
            stream = group.download_stream(XetFileInfo(file.xet_hash, file.size), start, stop)
            self._streams.add(stream)
            try:
                for chunk in stream:
                    view = memoryview(chunk)[: stop - position]
                    sink(position, view)
                    position += len(view)
            finally:
                stream.cancel()
                self._streams.discard(stream)
        except (Retry, KimiNbError):
            raise
        except Exception as error:
            self._failed(group)
            raise Retry(f"Xet storage did not answer ({type(error).__name__})", server=False) from error
        if position < stop:  # hf_xet ends the stream of a content it does not know without a word
            self._failed(group)
            raise Retry("Xet storage ended the file early", server=False)
        self._failures = 0

    @property
    def afterword(self) -> str:
        """See :class:`~kimi_nb.engine.fetch.source.Source`."""
        return "; then ranged HTTP, because Xet kept failing" if self._failures >= MOST_FAILURES else ""

    def abort(self) -> None:
        """Wake threads that wait for a chunk."""
        for stream in list(self._streams):
            stream.cancel()

    def _by_xet(self, file: RemoteFile) -> bool:
        return file.xet_hash is not None and self._failures < MOST_FAILURES

    def _failed(self, group: Any) -> None:
        with self._lock:
            if group is self._group:  # several streams of one group fail together, which counts once
                self._failures += 1
                self._group = None

    def _opened(self) -> Any:
        """Return a group of streams with a token that is still good."""
        with self._lock:
            if self._group is None or time.time() > self._ends_at - SAFETY_S:
                from hf_xet import XetSession

                endpoint, token, self._ends_at = self._hub.xet_token(
                    self._manifest.repo, self._manifest.commit
                )
                self._group = XetSession().new_download_stream_group(
                    endpoint=endpoint, token=token, token_expiry_unix_secs=int(self._ends_at)
                )
            return self._group
