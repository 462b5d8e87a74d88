"""A server's log: the newest lines in memory, all of them in a file, secrets in neither."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from kimi_nb.files import cache_home

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["ServerLog", "last_lines", "new_log_path"]

_RING_LINES = 4000
_LONGEST_LINE = 64 * 1024
_LARGEST_FILE = 32 * 1024 * 1024
_KEPT_LOGS = 20


def new_log_path(name: str) -> Path:
    """Return a fresh path under our cache folder, and remove the oldest logs there."""
    folder = cache_home() / "logs"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        old = sorted(folder.glob("*.log*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in old[_KEPT_LOGS - 1 :]:
            path.unlink()
    return (
        folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns() % 10**6:06}.log"
    )


def last_lines(path: Path, n: int) -> list[str]:
    """Return the newest lines of a log's file; none of one that has not been begun.

    Raises:
        OSError: It is there and cannot be read.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, max(n, 0))]
    except FileNotFoundError:
        return []


class ServerLog:
    """Read a program's output to its end, so that the program is never blocked by a full pipe.

    Args:
        path: The file; made with mode 0600 when the first line comes. At 32 MiB it is renamed to ``NAME.1``
            and begun anew. When it cannot be written, the lines are still kept in memory.
        redact: Takes the secrets out of a line.
    """

    def __init__(self, path: Path, redact: Callable[[str], str]) -> None:
        self.path = path
        #: Why the file could not be written, if it could not.
        self.trouble: OSError | None = None
        self._redact = redact
        self._ring: deque[str] = deque(maxlen=_RING_LINES)
        self._count = 0
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._size = 0

    def follow(
        self, stream: IO[bytes], *, on_line: Callable[[str], None], on_end: Callable[[], None]
    ) -> threading.Thread:
        """Read ``stream`` in a thread of its own until it ends; return the thread.

        Args:
            stream: What the program writes; closed at the end.
            on_line: Called with each line, already without secrets.
            on_end: Called once, when the program has closed its output.
        """
        thread = threading.Thread(
            target=self._read, args=(stream, on_line, on_end), name="llama-server log", daemon=True
        )
        thread.start()
        return thread

    @property
    def count(self) -> int:
        """How many lines there have been."""
        return self._count

    def tail(self, n: int = 50, *, since: int = 0) -> list[str]:
        """Return the newest ``n`` lines, of those after the first ``since``."""
        with self._lock:
            fresh = min(n, self._count - since, len(self._ring))
            return list(self._ring)[-fresh:] if fresh > 0 else []

    def _read(self, stream: IO[bytes], on_line: Callable[[str], None], on_end: Callable[[], None]) -> None:
        try:
            with stream:
                while raw := stream.readline(_LONGEST_LINE):
                    cut = not raw.endswith(b"\n")
                    line = self._add(raw, cut=cut)
                    on_line(line)
                    # The rest of an overlong line is dropped: a secret cut in two would not be recognised.
                    while cut and (rest := stream.readline(_LONGEST_LINE)):
                        cut = not rest.endswith(b"\n")
        finally:
            with self._lock:
                self._close()
            on_end()

    def _add(self, raw: bytes, *, cut: bool) -> str:
        # A model's name may hold bytes that are no UTF-8, and llama.cpp prints them as they are.
        line = self._redact(raw.decode("utf-8", errors="replace").rstrip("\r\n"))
        if cut and len(raw) == _LONGEST_LINE:
            line = line[: _LONGEST_LINE // 2] + " [line cut]"
        with self._lock:
            self._ring.append(line)
            self._count += 1
            if self.trouble is None:
                self._write(line)
        return line

    def _write(self, line: str) -> None:
        data = line.encode("utf-8", errors="replace") + b"\n"
        try:
            if self._file is not None and self._size > _LARGEST_FILE:
                self._close()
                self.path.replace(self.path.with_name(self.path.name + ".1"))
            if self._file is None:
                # A named pipe that nobody reads would hold us here, and with us the server.
                how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
                handle = os.open(self.path, how, 0o600)
                self._file = os.fdopen(handle, "ab", buffering=0)
                self._size = os.fstat(handle).st_size
            self._file.write(data)
            self._size += len(data)
        except OSError as error:  # such as a full disk: the server is worth more than its log
            self.trouble = error
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
