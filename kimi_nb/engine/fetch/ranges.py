"""Sets of byte ranges: what of a file is here."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Ranges"]


class Ranges:
    """Half-open ranges of bytes, kept merged and sorted.

    Args:
        given: Ranges to start with, each (first, past the last).
    """

    def __init__(self, given: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in given:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        """Put a range in; ranges that touch become one."""
        if start >= stop:
            return
        low, high = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        if low < high:
            start, stop = min(start, self._starts[low]), max(stop, self._stops[high - 1])
        self._starts[low:high], self._stops[low:high] = [start], [stop]

    def remove(self, start: int, stop: int) -> None:
        """Take a range out."""
        kept = [
            piece for a, b in self for piece in ((a, min(b, start)), (max(a, stop), b)) if piece[0] < piece[1]
        ]
        self._starts, self._stops = [a for a, _ in kept], [b for _, b in kept]

    def gap(self, start: int, limit: int) -> tuple[int, int] | None:
        """Return the first stretch at or after ``start`` and before ``limit`` that no range covers."""
        index = bisect_right(self._starts, start) - 1
        if index >= 0 and self._stops[index] > start:
            start = self._stops[index]
        if start >= limit:
            return None
        following = bisect_right(self._starts, start)
        return start, min(limit, self._starts[following] if following < len(self._starts) else limit)

    def prefix(self) -> int:
        """Return how many bytes from the start on are covered without a gap."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0

    def total(self) -> int:
        """Return how many bytes are covered."""
        return sum(self._stops) - sum(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def __len__(self) -> int:
        return len(self._starts)
