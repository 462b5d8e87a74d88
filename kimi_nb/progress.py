"""Progress for people: one line that is rewritten in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

__all__ = ["ProgressLine", "bar"]


def bar(done: float, width: int = 24) -> str:
    """Draw a fraction between 0 and 1 as a bar of ``width`` characters."""
    full = round(min(max(done, 0.0), 1.0) * width)
    return "█" * full + "░" * (width - full)


class ProgressLine:
    """Show the newest of many short messages.

    Args:
        stream: Where to write; standard error by default, so that ``--json`` output stays clean.
        every_s: Outside a terminal, the least time between two lines.
    """

    def __init__(self, stream: TextIO | None = None, *, every_s: float = 10.0) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._every_s = every_s
        self._last = float("-inf")

    def update(self, text: str) -> None:
        """Show ``text`` in place of the message before it."""
        now = time.monotonic()
        if self._live:
            # A line that wraps could not be rewritten.
            width = shutil.get_terminal_size().columns - 1
            shown = text if len(text) <= width else f"{text[: width - 1]}…"
            self._stream.write(f"\r\x1b[2K{shown}")
            self._stream.flush()
        elif now - self._last >= self._every_s:
            self._last = now
            print(text, file=self._stream, flush=True)

    def done(self, text: str) -> None:
        """Show ``text`` and leave it standing."""
        start = "\r\x1b[2K" if self._live else ""
        print(f"{start}{text}", file=self._stream, flush=True)
        self._last = float("-inf")
