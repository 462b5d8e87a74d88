"""The two HTTP hosts behind :class:`kimi_nb.nano.hub.LocalHub`: what each path answers."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from kimi_nb.nano.hub_records import Blob, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimi_nb.nano.hub import LocalHub

__all__ = ["Handler", "Server"]

_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)$")
_API = re.compile(
    r"/api/models/(?P<repo>[^/]+/[^/]+)"
    r"(?:/(?P<what>revision|tree|commits|paths-info|xet-read-token)/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?$"
)


class Server(ThreadingHTTPServer):
    """One of the two hosts; connections are counted, so that they can be ended."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: LocalHub, host: str, port: int = 0) -> None:
        self.hub = hub
        self.host = host
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Keep the connection in mind."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay quiet: a client that goes away in the middle of a file is what resuming is about."""

    def drop_connections(self) -> None:
        """End every open connection, so that no handler thread waits for a client that keeps its end open."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """Answer one connection's requests, to either host."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    seen: Seen

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing; :attr:`LocalHub.seen` keeps what was asked."""

    def send_response(self, code: int, message: str | None = None) -> None:
        """Note the status."""
        self.seen.status = code
        super().send_response(code, message)

    def do_HEAD(self) -> None:
        """Answer a HEAD."""
        self._answer()

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer()

    def do_POST(self) -> None:
        """Answer a POST."""
        self._answer()

    def _answer(self) -> None:
        hub = self.server.hub
        self.seen = Seen(
            self.server.host, self.command, self.path, {k.lower(): v for k, v in self.headers.items()}
        )
        hub.seen.append(self.seen)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.url = urlsplit(self.path)
        if hub.before(self):
            return
        if self.server.host == "storage":
            self._storage()
            return
        path = self.url.path
        if path == "/api/whoami-v2":
            self._whoami()
        elif match := _API.match(path):
            self._api(match)
        elif match := _RESOLVE.match(path):
            self._resolve(match)
        else:
            self.refuse(404, "NotFound", "Not found")

    # ---- small parts

    def send_json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        """Answer with a JSON document."""
        data = json.dumps(value).encode()
        self.send_response(200)
        self._headers(
            {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        )
        self._write(data)

    def refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer with an error as the Hub words it."""
        data = json.dumps({"error": message}).encode()
        self.send_response(status)
        given = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
        self._headers({**given, "Content-Length": str(len(data)), **(headers or {})})
        self._write(data)

    def _headers(self, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _write(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)
            self.seen.sent += len(data)

    def _authorized(self) -> bool:
        token = self.server.hub.token
        return token is None or self.headers.get("Authorization") == f"Bearer {token}"

    def _whoami(self) -> None:
        if self.headers.get("Authorization") and self._authorized():
            self.send_json({"type": "user", "name": "local", "auth": {"type": "access_token"}})
        else:
            self.refuse(401, "", "Invalid username or password.")

    def _commit(self, match: re.Match[str]) -> tuple[str, str, dict[str, Blob]] | None:
        """Return repository, commit hash and files of a request, or refuse it."""
        hub, repo = self.server.hub, unquote(match["repo"])
        if not self._authorized() or not hub.has(repo):
            # The Hub does not tell a missing repository from one that may not be seen.
            self.refuse(401, "RepoNotFound", "Repository not found")
            return None
        found = hub.find(repo, unquote(match["revision"] or "main"))
        if found is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {match['revision']}")
            return None
        return (repo, *found)

    # ---- the first host

    def _api(self, match: re.Match[str]) -> None:
        found = self._commit(match)
        if found is None:
            return
        repo, commit, files = found
        what = match["what"]
        if what == "tree":
            self._tree(repo, commit, files, unquote(match["path"] or ""))
        elif what == "paths-info":
            wanted = parse_qs(self.body.decode()).get("paths") or json.loads(self.body or b"{}").get(
                "paths", []
            )
            self.send_json([_file_entry(name, files[name]) for name in wanted if name in files])
        elif what == "commits":
            dated = "2026-01-01T00:00:00.000Z"
            self.send_json(
                [
                    {"id": each, "title": f"Upload {each[:7]}", "message": "", "authors": [], "date": dated}
                    for each in self.server.hub.history(repo)
                ]
            )
        elif what == "xet-read-token":
            self._xet_token()
        else:
            self.send_json(self._info(repo, commit, files))

    def _xet_token(self) -> None:
        hub = self.server.hub
        if hub.xet_endpoint is None:
            self.refuse(404, "NotFound", "No Xet storage here")
            return
        expires = int(time.time() + hub.redirect_s)
        given = {"casUrl": hub.xet_endpoint, "exp": expires, "accessToken": "xet-local"}
        headers = {"X-Xet-Cas-Url": hub.xet_endpoint, "X-Xet-Access-Token": "xet-local"}
        self.send_json(given, {**headers, "X-Xet-Token-Expiration": str(expires)})

    def _info(self, repo: str, commit: str, files: dict[str, Blob]) -> dict[str, object]:
        hub = self.server.hub
        detailed = "blobs" in parse_qs(self.url.query)
        siblings: list[dict[str, object]] = []
        for name, blob in files.items():
            entry: dict[str, object] = {"rfilename": name}
            if detailed:
                entry |= {"size": blob.size, "blobId": blob.git_oid}
                if blob.lfs:
                    entry["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": 134}
            siblings.append(entry)
        license_ = hub.licenses.get(repo)
        return {
            "_id": commit[:24],
            "id": repo,
            "modelId": repo,
            "author": repo.partition("/")[0],
            "sha": commit,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "private": hub.token is not None,
            "gated": "manual" if repo in hub.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": ["gguf", *([f"license:{license_}"] if license_ else [])],
            "cardData": {"license": license_} if license_ else {},
            "siblings": siblings,
        }

    def _tree(self, repo: str, commit: str, files: dict[str, Blob], folder: str) -> None:
        query = parse_qs(self.url.query)
        recursive = query.get("recursive", ["false"])[0].lower() in {"1", "true"}
        entries: dict[str, dict[str, object]] = {}
        prefix = f"{folder}/" if folder else ""
        for name, blob in files.items():
            if not name.startswith(prefix):
                continue
            for parent in reversed(PurePosixPath(name).parents):
                shown = parent.as_posix()
                direct = parent.parent.as_posix() == (folder or ".")
                if shown != "." and shown.startswith(prefix) and (recursive or direct):
                    oid = hashlib.sha1(shown.encode(), usedforsecurity=False).hexdigest()
                    entries[shown] = {"type": "directory", "oid": oid, "size": 0, "path": shown}
            if recursive or "/" not in name.removeprefix(prefix):
                entries[name] = _file_entry(name, blob)
        if folder and not entries:
            self.refuse(404, "EntryNotFound", f'"{folder}" does not exist on "{commit}"')
            return
        start, limit = int(query.get("cursor", ["0"])[0]), int(query.get("limit", ["1000"])[0])
        listed = list(entries.values())
        headers = {}
        if start + limit < len(listed):
            more = f"recursive={str(recursive).lower()}&limit={limit}&cursor={start + limit}"
            here = f"{self.server.hub.endpoint}/api/models/{repo}/tree/{commit}/{quote(folder)}".rstrip("/")
            headers["Link"] = f'<{here}?{more}>; rel="next"'
        self.send_json(listed[start : start + limit], headers)

    def _resolve(self, match: re.Match[str]) -> None:
        found = self._commit(match)
        if found is None:
            return
        repo, commit, files = found
        hub = self.server.hub
        name = unquote(match["path"])
        if repo in hub.gated and not self.headers.get("Authorization"):
            self.refuse(
                401, "GatedRepo", f"Access to model {repo} is restricted. You must have access to it."
            )
            return
        blob = files.get(name)
        if blob is None:
            self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        if not blob.lfs:
            self.send_blob(blob, {"X-Repo-Commit": commit, "ETag": f'"{blob.git_oid}"'})
            return
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(blob.size),
            "X-Linked-Etag": f'"{blob.sha256}"',
            "Accept-Ranges": "bytes",
            "Location": hub.signed_url(blob.sha256),
            "Content-Length": "0",
        }
        if blob.xet_hash is not None:
            headers["X-Xet-Hash"] = blob.xet_hash
            route = f"{hub.endpoint}/api/models/{repo}/xet-read-token/{commit}"
            headers["Link"] = f'<{route}>; rel="xet-auth"'
            headers["X-Xet-Refresh-Route"] = route
        self.send_response(302)
        self._headers(headers)

    # ---- the second host

    def _storage(self) -> None:
        hub, query = self.server.hub, parse_qs(self.url.query)
        sha256 = self.url.path.removeprefix("/blobs/")
        blob = hub.blob(sha256)
        expires = int(query.get("Expires", ["0"])[0])
        good = query.get("Signature", [""])[0] == hub.sign(sha256, expires)
        if blob is None or not good or expires < time.time():
            self.refuse(403, "", "Request has expired")
        elif self.headers.get("Authorization"):
            # As S3 does: a signed address and a token in one request are refused, and a leak is noticed.
            self.refuse(400, "", "Only one auth mechanism allowed")
        else:
            self.send_blob(blob, {"ETag": f'"{blob.sha256}"'})

    def send_blob(self, blob: Blob, headers: Mapping[str, str]) -> None:
        """Answer with a file or the part of it that was asked for."""
        hub = self.server.hub
        part = hub.range_of(self, blob)
        if part is not None and part[0] >= part[1]:
            self.refuse(416, "", "Range not satisfiable", {"Content-Range": f"bytes */{blob.size}"})
            return
        start, stop = part or (0, blob.size)
        given = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        given["Content-Length"] = str(stop - start)
        if part is not None:
            given["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
        self.send_response(200 if part is None else 206)
        self._headers(given)
        if self.command != "HEAD":
            hub.send_body(self, blob, start, stop)


def _file_entry(name: str, blob: Blob) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "oid": blob.git_oid, "size": blob.size, "path": name}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
    if blob.xet_hash is not None:
        entry["xetHash"] = blob.xet_hash
    return entry
