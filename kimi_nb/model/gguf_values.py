"""Metadata arrays that stay packed in the header's bytes until someone looks at them.

Kimi's header carries 163,840 tokens and as many merges; making Python strings of them would take most of the
time that reading the header takes, and hardly anyone needs them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import overload

__all__ = ["NumberArray", "Scalar", "StringArray", "Value"]

_LENGTH = struct.Struct("<Q")


class StringArray(Sequence[str]):
    """An array of strings in a header, decoded one at a time.

    Bytes that are not UTF-8 become U+FFFD, as in llama.cpp's own output; :meth:`raw` gives them unchanged.
    """

    __slots__ = ("_buffer", "_count", "_start", "_starts")

    def __init__(self, buffer: bytes, start: int, count: int) -> None:
        self._buffer = buffer
        self._start = start
        self._count = count
        self._starts: list[int] | None = None

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<{self._count} strings>"

    def __iter__(self) -> Iterator[str]:
        position = self._start
        for _ in range(self._count):
            (length,) = _LENGTH.unpack_from(self._buffer, position)
            position += 8
            yield self._buffer[position : position + length].decode("utf-8", "replace")
            position += length

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.raw(i).decode("utf-8", "replace") for i in range(*index.indices(self._count))]
        return self.raw(index).decode("utf-8", "replace")

    def raw(self, index: int) -> bytes:
        """Return one string's bytes as they stand in the file."""
        if self._starts is None:
            starts, position = [], self._start
            for _ in range(self._count):
                starts.append(position)
                position += 8 + _LENGTH.unpack_from(self._buffer, position)[0]
            self._starts = starts
        start = self._starts[index]
        (length,) = _LENGTH.unpack_from(self._buffer, start)
        return self._buffer[start + 8 : start + 8 + length]


class NumberArray(Sequence[int | float | bool]):
    """An array of numbers or booleans in a header, unpacked at the first look."""

    __slots__ = ("_buffer", "_code", "_count", "_start", "_values")

    def __init__(self, buffer: bytes, start: int, count: int, code: str) -> None:
        self._buffer = buffer
        self._start = start
        self._count = count
        self._code = code
        self._values: tuple[int | float | bool, ...] | None = None

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<{self._count} numbers>"

    @overload
    def __getitem__(self, index: int) -> int | float | bool: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int | float | bool, ...]: ...
    def __getitem__(self, index: int | slice) -> int | float | bool | tuple[int | float | bool, ...]:
        if self._values is None:
            self._values = struct.unpack_from(f"<{self._count}{self._code}", self._buffer, self._start)
        return self._values[index]


Scalar = int | float | bool | str
Value = Scalar | StringArray | NumberArray
"""What a metadata key can hold."""
