"""An OpenAI-speaking HTTP server on loopback that answers from a script, and misbehaves exactly as told.

It is not a model: each request takes the next :class:`Act` of the script (the last one repeats). What it received is
kept in ``requests``, and when each piece of a streamed answer left is kept in ``sent_at``, so that a test can hold a
client's clock against the server's.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Act:
    """One answer.

    ``pieces`` are streamed deltas, each ``(delay_s, delta)``; a delta given as a string is sent as a raw event, one
    given as bytes as raw bytes. After them comes a chunk with ``finish``, one with ``usage`` and ``timings``, and
    ``[DONE]``, each left out when falsy.
    """

    pieces: list = field(default_factory=list)
    finish: str | None = "stop"
    usage: dict | None = field(
        default_factory=lambda: {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    )
    timings: dict | None = None
    done: bool = True
    status: int = 200
    body: object = None  # with a status other than 200: dict is JSON, str is sent as text/html
    cut: bool = False  # close the connection without the last chunk of the transfer encoding
    delay_s: float = 0.0  # before the response's first byte
    hang: bool = False  # after the pieces, send comments only until the client goes or the engine stops


def say(
    content: str = "", reasoning: str = "", calls: list | None = None, finish: str | None = None, **more
) -> Act:
    """Build a well-formed answer; ``calls`` are ``(id, name, arguments)``."""
    pieces: list = [(0, {"role": "assistant", "content": None})]
    if reasoning:
        pieces += [(0, {"reasoning_content": part}) for part in _halves(reasoning)]
    if content:
        pieces += [(0, {"content": part}) for part in _halves(content)]
    for index, (id_, name, arguments) in enumerate(calls or ()):
        head, tail = _halves(arguments) if len(arguments) > 1 else (arguments, "")
        call = {"index": index, "id": id_, "type": "function", "function": {"name": name, "arguments": head}}
        pieces.append((0, {"tool_calls": [call]}))
        if tail:
            pieces.append((0, {"tool_calls": [{"index": index, "function": {"arguments": tail}}]}))
    return Act(pieces, finish=finish or ("tool_calls" if calls else "stop"), **more)


def _halves(text: str) -> list[str]:
    middle = (len(text) + 1) // 2
    return [part for part in (text[:middle], text[middle:]) if part] or [""]


def _whole(act: Act) -> dict:
    """The answer to a request that does not stream; without tool calls."""
    deltas = [delta for _, delta in act.pieces if isinstance(delta, dict)]
    message = {"role": "assistant"}
    for name in ("content", "reasoning_content"):
        message[name] = "".join(delta.get(name) or "" for delta in deltas) or None
    choice = {"index": 0, "message": message, "finish_reason": act.finish}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "kimi-k2.5",
        "choices": [choice],
        "usage": act.usage,
    }


class ScriptedEngine:
    """Serve ``script``: a list of :class:`Act`, or a function ``(body, number) -> Act``."""

    def __init__(self, script, *, api_key: str = "scripted-key", kind: str = "llama-server") -> None:
        self._script = script
        self.api_key = api_key
        self.kind = kind
        self.requests: list[dict] = []
        self.refusals: list[tuple] = []
        self.sent_at: list[float] = []
        self.clients_gone = 0
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"engine": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = False
        self._server.block_on_close = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def engine(self):
        from kimi_nb.engine import Engine

        return Engine(kind=self.kind, base_url=self.base_url, api_key=self.api_key, model="kimi-k2.5")

    @property
    def bodies(self) -> list[dict]:
        """The chat requests' bodies."""
        return [request["body"] for request in self.requests if request["path"].endswith("/chat/completions")]

    def next_act(self, body: dict) -> Act:
        with self._lock:
            number = len(self.bodies) - 1
        if callable(self._script):
            return self._script(body, number)
        return self._script[min(number, len(self._script) - 1)]


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # the default of 5 resets connections when many come at once


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: ScriptedEngine
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def handle(self):
        try:
            super().handle()
        except ConnectionError:  # a client may go at any time
            self.engine.clients_gone += 1

    def do_GET(self):
        owner = {"llama-server": "llamacpp"}.get(self.engine.kind, self.engine.kind)
        model = {"id": "kimi-k2.5", "object": "model", "created": 1, "owned_by": owner}
        self._json(200, {"object": "list", "data": [model]})

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        body = json.loads(raw)
        self.engine.requests.append(
            {
                "path": self.path,
                "headers": dict(self.headers),
                "body": body,
                "at": time.perf_counter(),
                "client": self.client_address,
            }
        )
        if self.headers.get("Authorization") != f"Bearer {self.engine.api_key}":
            self._json(
                401, {"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}
            )
            return
        act = self.engine.next_act(body)
        try:
            self._play(act, body)
        except (BrokenPipeError, ConnectionResetError):
            self.engine.clients_gone += 1
            self.close_connection = True

    def _play(self, act: Act, body: dict) -> None:
        if act.delay_s and self.engine.stopping.wait(act.delay_s):
            self.close_connection = True
        elif isinstance(act.body, str):
            self._send(act.status, act.body.encode(), "text/html")
        elif act.status != 200 or act.body is not None:
            self._json(act.status, act.body or {})
        elif body.get("stream"):
            self._stream(act, body)
        else:
            self._json(200, _whole(act))

    def _stream(self, act: Act, body: dict) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for delay_s, delta in act.pieces:
            if delay_s:
                time.sleep(delay_s)
            self._piece(delta)
        while act.hang and not self.engine.stopping.is_set():
            time.sleep(0.02)
            self._chunk(b":\n\n")
        if act.cut:
            self.close_connection = True
            return
        timings = {"timings": act.timings} if act.timings else {}
        if act.finish:
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": act.finish}]} | timings)
        if act.usage and (body.get("stream_options") or {}).get("include_usage"):
            self._event({"choices": [], "usage": act.usage} | timings)
        if act.done:
            self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _piece(self, delta: dict | str | bytes) -> None:
        if isinstance(delta, bytes):
            self._chunk(delta)
        elif isinstance(delta, str):
            self._chunk(f"data: {delta}\n\n".encode())
        else:
            self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})

    def _event(self, event: dict) -> None:
        full = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "kimi-k2.5",
        } | event
        self._chunk(f"data: {json.dumps(full)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.engine.sent_at.append(time.perf_counter())
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _json(self, status: int, value: object) -> None:
        if status != 200:
            self.engine.refusals.append((status, value))
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, data: bytes, type_: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", type_)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
