"""A local server that speaks the Hub's protocol, for lessons and tests that must not need the network.

The real ``huggingface_hub`` works against it: ``HfApi(endpoint=hub.endpoint)``, or ``HF_ENDPOINT`` for its
command line. As on the real Hub, the API and the small files come from one host, and a large file is a
redirect to a signed, expiring address on a second host (here: a second port), which must never see the user's
token.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
import time
from typing import TYPE_CHECKING, Self

from kimi_nb.nano.hub_http import Handler, Server
from kimi_nb.nano.hub_records import Blob, Repo, Seen, blob_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Blob", "LocalHub", "Seen"]

_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")
_PIECE = 1024 * 1024


class LocalHub:
    """Serve folders as Hub repositories on 127.0.0.1.

    Args:
        folder: Every ``namespace/name`` folder in it is published as a repository of that name.
        token: When given, requests to the first host need ``Authorization: Bearer <token>``.
        redirect_s: For how long a signed address on the second host is good.

    Use it as a context manager; :attr:`endpoint` is what ``HF_ENDPOINT`` would be set to. Everything asked of
    it is kept in :attr:`seen`.
    """

    def __init__(
        self, folder: Path | None = None, *, token: str | None = None, redirect_s: float = 3600.0
    ) -> None:
        self.token = token
        self.redirect_s = redirect_s
        self.gated: set[str] = set()
        self.licenses: dict[str, str] = {}
        self.seen: list[Seen] = []
        self.xet_endpoint: str | None = None
        self._repos: dict[str, Repo] = {}
        self._blobs: dict[str, Blob] = {}
        self._key = secrets.token_bytes(16)
        self._ports: dict[str, int] = {}
        self._servers: list[Server] = []
        self._threads: list[threading.Thread] = []
        for found in sorted(folder.glob("*/*")) if folder is not None else ():
            if found.is_dir():
                self.publish(f"{found.parent.name}/{found.name}", found)

    # ---- repositories

    def publish(
        self, repo: str, folder: Path, *, ref: str = "main", xet: Mapping[str, str] | None = None
    ) -> str:
        """Make a commit of ``folder``'s files, point ``ref`` at it, and return its hash.

        Args:
            repo: ``namespace/name``.
            folder: Its files are served from where they lie; keep them as they are while the hub runs.
            ref: Branch or tag.
            xet: The Xet hash of each path that Xet storage holds.
        """
        files: dict[str, Blob] = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not name.startswith((".cache/", ".git/")):
                files[name] = blob_of(path, (xet or {}).get(name))
        listing = "\n".join(f"{name} {blob.sha256}" for name, blob in files.items())
        commit = hashlib.sha1(f"{repo}\n{listing}".encode(), usedforsecurity=False).hexdigest()
        entry = self._repos.setdefault(repo, Repo())
        entry.commits.pop(commit, None)  # the newest comes last
        entry.commits[commit] = files
        entry.refs[ref] = commit
        self._blobs.update({blob.sha256: blob for blob in files.values()})
        return commit

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, Blob]] | None:
        """Return the commit hash and the files that ``revision`` names, or ``None``."""
        entry = self._repos.get(repo)
        if entry is None:
            return None
        commit = entry.refs.get(revision, revision)
        files = entry.commits.get(commit)
        return None if files is None else (commit, files)

    def history(self, repo: str) -> list[str]:
        """Return a repository's commits, the newest first."""
        return list(self._repos[repo].commits)[::-1]

    def has(self, repo: str) -> bool:
        """Tell whether a repository of this name was published."""
        return repo in self._repos

    def blob(self, sha256: str) -> Blob | None:
        """Return the file with this content."""
        return self._blobs.get(sha256)

    # ---- signed addresses on the second host

    def sign(self, sha256: str, expires: int) -> str:
        """Return the signature that makes an address on the second host good until ``expires``."""
        return hashlib.blake2b(f"{sha256} {expires}".encode(), key=self._key, digest_size=16).hexdigest()

    def signed_url(self, sha256: str) -> str:
        """Return an address on the second host that is good for :attr:`redirect_s` seconds."""
        expires = int(time.time() + self.redirect_s)
        return f"{self.storage}/blobs/{sha256}?Expires={expires}&Signature={self.sign(sha256, expires)}"

    # ---- running

    @property
    def endpoint(self) -> str:
        """The first host: API, small files, redirects."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage(self) -> str:
        """The second host: the bytes of large files."""
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def start(self) -> Self:
        """Listen on two ports of 127.0.0.1: free ones, and after :meth:`stop` the same as before."""
        self._servers = [Server(self, host, self._ports.get(host, 0)) for host in ("hub", "storage")]
        self._ports = {server.host: server.server_port for server in self._servers}
        for server in self._servers:
            thread = threading.Thread(
                target=server.serve_forever, args=(0.05,), name=f"local-{server.host}", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        return self

    def stop(self) -> None:
        """Stop listening and end every open connection."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
            server.drop_connections()
        for thread in self._threads:
            thread.join()
        self._servers, self._threads = [], []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- places where a test puts faults

    def before(self, handler: Handler) -> bool:  # noqa: ARG002 - a place to override
        """Look at a request before it is answered; return True when it has been answered here."""
        return False

    def range_of(self, handler: Handler, blob: Blob) -> tuple[int, int] | None:
        """Return the bytes (first, past the last) that a request asks for; ``None`` for the whole file."""
        match = _RANGE.match(handler.headers.get("Range", ""))
        condition = handler.headers.get("If-Range")
        if match is None or (condition is not None and condition != f'"{blob.sha256}"'):
            return None
        return int(match[1]), min(int(match[2]) + 1 if match[2] else blob.size, blob.size)

    def send_body(self, handler: Handler, blob: Blob, start: int, stop: int) -> None:
        """Send the bytes from ``start`` to before ``stop`` of a file."""
        with blob.source.open("rb") as file:
            while start < stop:
                sent = os.sendfile(
                    handler.connection.fileno(), file.fileno(), start, min(_PIECE, stop - start)
                )
                if sent == 0:
                    handler.close_connection = True
                    return
                start += sent
                handler.seen.sent += sent
