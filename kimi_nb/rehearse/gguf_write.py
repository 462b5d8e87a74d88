"""Writing the header of a GGUF file: keys with their types, and the list of tensors."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from kimi_nb.model.ggml_types import TYPES_BY_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ALIGNMENT", "TensorSpec", "header_bytes", "padded"]

ALIGNMENT = 32
_VERSION = 3
_CODES = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "arr": 9}
_CODES |= {"u64": 10, "i64": 11, "f64": 12}
_FORMATS = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?"}
_FORMATS |= {"u64": "Q", "i64": "q", "f64": "d"}


class TensorSpec(NamedTuple):
    """A tensor to be written: its name, its shape in ggml's order, and its type's name."""

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def n_bytes(self) -> int:
        """Bytes of its data, without padding."""
        kind, total = TYPES_BY_NAME[self.type], 1
        for n in self.shape[1:]:
            total *= n
        return kind.row_size(self.shape[0]) * total


def padded(n: int) -> int:
    """Return ``n`` rounded up to the alignment of tensor data."""
    return -(-n // ALIGNMENT) * ALIGNMENT


def header_bytes(keys: Mapping[str, tuple[str, Any]], tensors: Sequence[TensorSpec]) -> bytes:
    """Return the header of a file whose tensors follow one another.

    Args:
        keys: Key to type and value; types are named as :attr:`kimi_nb.model.Model.types` names them.
        tensors: In the order of their data.
    """
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(keys))]
    for name, (kind, value) in keys.items():
        parts += [_string(name), _typed(kind, value)]
    offset = 0
    for spec in tensors:
        n, number = len(spec.shape), TYPES_BY_NAME[spec.type].id
        parts += [_string(spec.name), struct.pack(f"<I{n}QIQ", n, *spec.shape, number, offset)]
        offset += padded(spec.n_bytes)
    data = b"".join(parts)
    return data + bytes(padded(len(data)) - len(data))


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _plain(kind: str, value: Any) -> bytes:
    return _string(value) if kind == "str" else struct.pack(f"<{_FORMATS[kind]}", value)


def _typed(kind: str, value: Any) -> bytes:
    if kind.startswith("arr["):
        item = kind[4:-1]
        start = struct.pack("<IIQ", _CODES["arr"], _CODES[item], len(value))
        return start + b"".join(_plain(item, entry) for entry in value)
    return struct.pack("<I", _CODES[kind]) + _plain(kind, value)
