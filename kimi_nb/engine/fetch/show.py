"""Progress of a download for people: one line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from kimi_nb.engine.fetch.job import State
from kimi_nb.progress import ProgressLine, bar

if TYPE_CHECKING:
    from typing import Self, TextIO

    from kimi_nb.engine.fetch.job import Progress

__all__ = ["Show", "in_words"]

EVERY_S = 0.5


def in_words(now: Progress) -> str:
    """Return a line: how much, how fast, how long still, which files."""
    part = now.done_bytes / now.total_bytes if now.total_bytes else 1.0
    words = [f"{bar(part)} {part:4.0%}", f"{now.done_bytes / 1e9:.2f} of {now.total_bytes / 1e9:.2f} GB"]
    if now.rate_bytes_s is not None:
        words.append(f"{now.rate_bytes_s / 1e6:.1f} MB/s")
    if now.left_s is not None and part < 1:
        words.append(f"{_time(now.left_s)} left")
    done = sum(file.state is State.DONE for file in now.files)
    words.append(f"{done} of {len(now.files)} files verified")
    active = [file for file in now.files if file.state in {State.FETCHING, State.CHECKING}]
    if active:
        words.append(
            " ".join(f"{_number(file.path)}:{file.done / max(1, file.size):.0%}" for file in active[:4])
        )
    if now.note:
        words.append(now.note)
    return " | ".join(words)


def _number(path: str) -> str:
    """Return a short name for a file: its number if it is a shard."""
    stem = path.rsplit("/", 1)[-1].removesuffix(".gguf")
    head, dash, _ = stem.rpartition("-of-")
    return head.rpartition("-")[2].lstrip("0") if dash else stem[:16]


def _time(seconds: float) -> str:
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {left:02d} s" if minutes else f"{left} s"
    )


class Show:
    """Give :attr:`progress` and :attr:`notice` to a download; leaves the terminal clean.

    Args:
        stream: Standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._line = ProgressLine(self._stream)
        self._shown_at = 0.0
        self._last = ""

    def progress(self, now: Progress) -> None:
        """Show how far it is, a few times a second at most."""
        self._last = in_words(now)
        at = time.monotonic()
        if at - self._shown_at >= EVERY_S:
            self._shown_at = at
            self._line.update(self._last)

    def notice(self, line: str) -> None:
        """Show a line that stays."""
        self._line.done(f"note: {line}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._last:
            self._line.done(self._last)
