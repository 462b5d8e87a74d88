"""A server on loopback that speaks the Hub's protocol for files of any pretended size, and can misbehave."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Remote:
    """One file: its first bytes, and how long it pretends to be."""

    head: bytes
    size: int
    etag: str = '"v1"'


@dataclass
class RangeServer:
    files: dict[str, Remote]
    repo: str = "owner/model-GGUF"
    commit: str = COMMIT
    ignore_range: bool = False
    status: int = 0
    status_headers: dict[str, str] = field(default_factory=dict)
    fail_first: int = 0
    """How many answers carry ``status``; 0 means all."""
    cut_after: int | None = None
    cuts: int = 1
    new_etag_after: int | None = None
    hang: bool = False
    wrong_start: bool = False
    api_text: str | None = None
    redirect: bool = True
    answer_commit: str | None = None
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    """Bytes of file content handed to the network, whether anyone read them or not."""
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(request.path.partition("?")[0])
        with self.lock:
            self.seen.append((request.command, path, dict(request.headers)))
            fail = self.status and (not self.fail_first or self.failed < self.fail_first)
            self.failed += bool(fail)
        if fail:
            self.reply(request, self.status, b"no", self.status_headers)
        elif path.startswith("/api/models/"):
            listed = {"sha": self.commit, "siblings": [{"rfilename": name} for name in self.files]}
            self.reply(request, 200, (self.api_text or json.dumps(listed)).encode())
        elif found := re.fullmatch(rf"/{self.repo}/resolve/([^/]+)/(.+)", path):
            if found[2] not in self.files or found[1] != self.commit:
                self.reply(request, 404, b"", {"X-Error-Message": "Entry not found"})
            elif self.redirect:
                self.reply(
                    request,
                    302,
                    b"",
                    {
                        "Location": f"/cdn/{found[2]}?sig=SECRET",
                        "X-Repo-Commit": self.answer_commit or self.commit,
                    },
                )
            else:
                self.content(request, found[2])
        elif path.startswith("/cdn/"):
            self.content(request, path.removeprefix("/cdn/"))
        else:
            self.reply(request, 404, b"")

    def reply(self, request, status: int, body: bytes, headers=None) -> None:
        request.send_response(status)
        for key, value in (headers or {}).items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def content(self, request, name: str) -> None:
        remote = self.files[name]
        with self.lock:
            self.contents += 1
            etag = remote.etag
            if self.new_etag_after is not None and self.contents > self.new_etag_after:
                etag = '"v2"'
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        fits = request.headers.get("If-Range") in {None, etag}
        if self.hang:
            time.sleep(1.5)
        if not found or self.ignore_range or not fits:
            start, end, status = 0, remote.size, 200
        else:
            start, end, status = int(found[1]), min(int(found[2]) + 1, remote.size), 206
        request.send_response(status)
        request.send_header("ETag", etag)
        request.send_header("Content-Length", str(end - start))
        if status == 206:
            told = start + 7 if self.wrong_start else start
            request.send_header("Content-Range", f"bytes {told}-{end - 1}/{remote.size}")
        request.end_headers()
        limit = end
        with self.lock:
            if self.cut_after is not None and self.cuts:
                self.cuts -= 1
                limit = min(end, start + self.cut_after)
        while start < limit:
            piece = remote.head[start : min(limit, start + 16384)] or bytes(min(16384, limit - start))
            request.wfile.write(piece)
            start += len(piece)
            with self.lock:
                self.sent += len(piece)
        if limit < end:
            request.close_connection = True

    def __enter__(self):
        self.lock = threading.Lock()
        self.failed = self.contents = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                with contextlib.suppress(ConnectionError):
                    outer.answer(self)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args):
                pass  # a reader that has enough closes its connection

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
