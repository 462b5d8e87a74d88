"""Walk through one GGUF header without ever trusting it.

The scan is fed with the file's first bytes, piece by piece, and says when the header is complete; so the same
code reads a local file in growing windows and an HTTP answer as it arrives. Every count, length, shape and
offset is checked against what the file can hold before anything is done with it, and strings in arrays are
stepped over, not decoded. Rules and limits follow ``ggml/src/gguf.cpp``; where that file sets none we set our
own, far above any real model's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from kimi_nb.model.gguf_faults import bytes_text, fault, quoted
from kimi_nb.model.gguf_outlook import Outlook, PackedArray
from kimi_nb.model.gguf_sniff import name_of_stranger
from kimi_nb.model.gguf_tensors import TensorInfo, TensorRow, place, type_and_size
from kimi_nb.model.gguf_values import NumberArray, StringArray

if TYPE_CHECKING:
    from collections.abc import Generator

    from kimi_nb.model.gguf_values import Scalar, Value

__all__ = ["MAX_HEADER_BYTES", "Header", "HeaderScan"]

MAX_HEADER_BYTES = 64 << 20  # Kimi's is about 7 MiB
MAX_TENSORS = 1 << 17
MAX_KEYS = 1 << 16
MAX_KEY_BYTES = (1 << 16) - 1  # the GGUF specification's
MAX_NAME_BYTES = 63  # GGML_MAX_NAME counts the closing zero
MAX_DIMS = 4  # GGML_MAX_DIMS
DEFAULT_ALIGNMENT = 32

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TYPE_NAMES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "arr", "u64", "i64", "f64")
_SCALARS = {kind: struct.Struct(f"<{code}") for kind, code in _CODES.items()}
_TAILS = tuple(struct.Struct(f"<{n}QIQ") for n in range(MAX_DIMS + 1))  # dimensions, type, offset
_MIN_KEY_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8
_SNIFF_BYTES = 512


@dataclass(frozen=True, eq=False)
class Header:
    """The header of one file.

    Attributes:
        label: The file's name, for messages.
        size: Bytes of the whole file.
        version: GGUF version, 2 or 3.
        alignment: Bytes that tensor data is aligned to.
        metadata: Key to value; large arrays stay packed.
        types: Key to llama.cpp's short type name: ``u32``, ``str``, ``arr[str]``.
        tensors: In file order.
        data_offset: Where tensor data starts.
        data_end: Where the last tensor's data ends; a file that is shorter is incomplete.
        raw: The header's bytes, padding before the data included.
    """

    label: str
    size: int
    version: int
    alignment: int
    metadata: dict[str, Value] = field(repr=False)
    types: dict[str, str] = field(repr=False)
    tensors: tuple[TensorInfo, ...] = field(repr=False)
    data_offset: int
    data_end: int
    raw: bytes = field(repr=False)

    def check_data(self) -> None:
        """Raise ``ModelFileError`` KNB306 if the file is too short for its tensors."""
        missing = self.data_end - self.size
        if missing > 0:
            whole = bytes_text(self.data_end)
            raise fault("KNB306", self.label, f"{bytes_text(missing)} of {whole} are missing")


class HeaderScan:
    """Scan the header of one file whose first bytes arrive in pieces.

    Args:
        label: The file's name, for messages.
        size: Bytes of the whole file.
        max_bytes: The longest header to accept.
    """

    def __init__(self, label: str, size: int, *, max_bytes: int = MAX_HEADER_BYTES) -> None:
        self.label = label
        self.size = size
        self.max_bytes = max_bytes
        self.wanted = min(size, 24)
        self._buffer = bytearray()
        self._outlook = Outlook()
        self._header: Header | None = None
        self._steps = self._parse()

    @property
    def received(self) -> int:
        """Bytes fed so far."""
        return len(self._buffer)

    @property
    def expected(self) -> int:
        """The header's likely length, judged by what has been read of it."""
        return min(self._outlook.expected_bytes(self.received), self.size)

    @property
    def header(self) -> Header:
        """The result, once :meth:`feed` has returned True."""
        if self._header is None:
            msg = "the header is not complete yet"
            raise RuntimeError(msg)
        return self._header

    def feed(self, piece: bytes) -> bool:
        """Take the file's next bytes and return whether the header is complete.

        ``wanted`` then says how many bytes from the file's start the next step needs. An empty piece stands
        for the end of the file.

        Raises:
            ModelFileError: The header is damaged (KNB300 to KNB318).
        """
        if self._header is not None:
            return True
        if self.size == 0:
            raise fault("KNB304", self.label, "it has no bytes at all")
        if not piece and self.received < self.size:
            self._truncated()
        self._buffer += piece
        try:
            next(self._steps)
        except StopIteration as stop:
            self._header = stop.value
            self._buffer = bytearray()
            return True
        return False

    def _truncated(self) -> NoReturn:
        raise fault("KNB305", self.label, f"only {bytes_text(self.received)} of it are there")

    def _until(self, end: int) -> Generator[None, None, None]:
        """Wait until the buffer reaches ``end``."""
        while len(self._buffer) < end:
            if end > self.size:
                raise fault("KNB305", self.label, f"it is only {bytes_text(self.size)} long")
            if end > self.max_bytes:
                self._oversize()
            self.wanted = end
            yield

    def _oversize(self) -> NoReturn:
        raise fault("KNB318", self.label, f"it would be longer than {bytes_text(self.max_bytes)}")

    def _length(self, length: int, what: str) -> None:
        """Refuse a length that no header can hold, before anything is made from it."""
        if length > self.max_bytes:
            raise fault("KNB312", self.label, f"{what} claims {length:,} entries or bytes")

    def _parse(self) -> Generator[None, None, Header]:
        buffer = self._buffer
        yield from self._until(min(4, self.size))
        if not buffer.startswith(b"GGUF"):
            if not b"GGUF".startswith(buffer):
                yield from self._until(min(self.size, _SNIFF_BYTES))
                id_, why = name_of_stranger(bytes(buffer[:_SNIFF_BYTES]))
                raise fault(id_, self.label, why)
            self._truncated()
        yield from self._until(24)
        version = self._version()
        n_tensors, n_keys = self._counts()
        self._outlook.n_tensors = n_tensors
        position, metadata, types = yield from self._metadata(24, n_keys)
        alignment = self._alignment(metadata, types)
        shard = metadata.get("split.no")
        position, rows = yield from self._tensors(position, n_tensors)
        data_offset = -(-position // alignment) * alignment if n_tensors else position
        if data_offset > self.size:
            raise fault("KNB306", self.label, "the file ends where its tensor data should begin")
        yield from self._until(data_offset)
        index = shard if isinstance(shard, int) else 0
        tensors, data_end = place(self.label, rows, data_offset, alignment, index)
        raw = bytes(buffer[:data_offset])
        return Header(
            label=self.label,
            size=self.size,
            version=version,
            alignment=alignment,
            metadata={key: _materialise(value, raw) for key, value in metadata.items()},
            types=types,
            tensors=tensors,
            data_offset=data_offset,
            data_end=data_end,
            raw=raw,
        )

    def _version(self) -> int:
        (version,) = _U32.unpack_from(self._buffer, 4)
        if version in {2, 3}:
            return int(version)
        swapped = int.from_bytes(self._buffer[4:8], "big")
        if version and version & 0xFFFF == 0 and swapped in {1, 2, 3}:
            raise fault("KNB308", self.label, "its byte order is that of other machines")
        raise fault("KNB307", self.label, f"it says version {version}, and llama.cpp reads 2 and 3")

    def _counts(self) -> tuple[int, int]:
        n_tensors, n_keys = struct.unpack_from("<QQ", self._buffer, 8)
        for n, most, what in ((n_tensors, MAX_TENSORS, "tensors"), (n_keys, MAX_KEYS, "metadata keys")):
            if n > most:
                raise fault(
                    "KNB309", self.label, f"it claims {n:,} {what}, and real models have fewer than {most:,}"
                )
        least = 24 + n_keys * _MIN_KEY_BYTES + n_tensors * _MIN_TENSOR_BYTES
        if least > self.size:
            raise fault(
                "KNB305",
                self.label,
                f"{n_keys:,} keys and {n_tensors:,} tensors cannot be described in {bytes_text(self.size)}",
            )
        return n_tensors, n_keys

    def _string(self, position: int, what: str) -> Generator[None, None, tuple[bytes, int]]:
        yield from self._until(position + 8)
        (length,) = _U64.unpack_from(self._buffer, position)
        self._length(length, what)
        start, end = position + 8, position + 8 + length
        yield from self._until(end)
        return bytes(self._buffer[start:end]), end

    def _metadata(
        self, position: int, n_keys: int
    ) -> Generator[None, None, tuple[int, dict[str, Scalar | PackedArray], dict[str, str]]]:
        buffer = self._buffer
        metadata: dict[str, Scalar | PackedArray] = {}
        self._outlook.metadata = metadata
        types: dict[str, str] = {}
        for index in range(n_keys):
            raw_key, position = yield from self._string(position, f"the name of key {index}")
            key = self._key(raw_key, index, metadata)
            yield from self._until(position + 4)
            (kind,) = _U32.unpack_from(buffer, position)
            position += 4
            value: Scalar | PackedArray
            if kind == _STRING:
                text, position = yield from self._string(position, f"the text of {quoted(key)}")
                value = text.decode("utf-8", "replace")
            elif kind == _ARRAY:
                value, position = yield from self._array(position, key)
                types[key] = f"arr[{_TYPE_NAMES[value.kind]}]"
            elif kind in _SCALARS:
                reader = _SCALARS[kind]
                yield from self._until(position + reader.size)
                (value,) = reader.unpack_from(buffer, position)
                position += reader.size
            else:
                raise fault("KNB311", self.label, f"key {quoted(key)} has the unknown type {kind}")
            metadata[key] = value
            types.setdefault(key, _TYPE_NAMES[kind])
        return position, metadata, types

    def _key(self, raw: bytes, index: int, seen: dict[str, Scalar | PackedArray]) -> str:
        if not raw or len(raw) > MAX_KEY_BYTES:
            why = "is empty" if not raw else f"has {len(raw):,} bytes, and {MAX_KEY_BYTES:,} are allowed"
            raise fault("KNB310", self.label, f"the name of key {index} {why}")
        key = _plain_text(raw)
        if key is None:
            raise fault("KNB310", self.label, f"the name of key {index} is not text: {raw[:40]!r}")
        if key in seen:
            raise fault("KNB310", self.label, f"{quoted(key)} occurs twice")
        return key

    def _array(self, position: int, key: str) -> Generator[None, None, tuple[PackedArray, int]]:
        yield from self._until(position + 12)
        (kind,) = _U32.unpack_from(self._buffer, position)
        (count,) = _U64.unpack_from(self._buffer, position + 4)
        start = position + 12
        self._length(count, f"array {quoted(key)}")
        if kind in _SCALARS:
            end = start + count * _SCALARS[kind].size
            yield from self._until(end)
        elif kind == _STRING:
            end = yield from self._skip_strings(start, count, key)
        elif kind == _ARRAY:
            raise fault(
                "KNB311", self.label, f"key {quoted(key)} is an array of arrays, which llama.cpp refuses"
            )
        else:
            raise fault("KNB311", self.label, f"key {quoted(key)} is an array of the unknown type {kind}")
        return PackedArray(kind, start, end, count), end

    def _skip_strings(self, position: int, count: int, key: str) -> Generator[None, None, int]:
        """Step over ``count`` strings. The inner loop is where reading a large header spends its time."""
        buffer, read = self._buffer, _U64.unpack_from
        if position + 8 * count > self.size:
            raise fault(
                "KNB312",
                self.label,
                f"array {quoted(key)} claims {count:,} strings, more than the file can hold",
            )
        start, left = position, count
        while left:
            try:
                for left in range(left, 0, -1):  # noqa: B007, B020 - what is left when the bytes run out
                    position += 8 + read(buffer, position)[0]
                left = 0
            except (struct.error, OverflowError):  # a length lies beyond the buffer, or a step led there
                self._length(position - self.size, f"a string in {quoted(key)}")
                self._outlook.array = (key, count, left, position)
                self._outlook.array_from = start
                yield from self._until(position + 8)
        self._outlook.array = None
        self._length(position - self.size, f"a string in {quoted(key)}")
        yield from self._until(position)
        return position

    def _alignment(self, metadata: dict[str, Scalar | PackedArray], types: dict[str, str]) -> int:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if types.get("general.alignment", "u32") != "u32" or not isinstance(alignment, int):
            raise fault("KNB313", self.label, "general.alignment is not a u32")
        if alignment <= 0 or alignment & (alignment - 1):
            raise fault(
                "KNB313", self.label, f"general.alignment is {alignment}, which is not a power of two"
            )
        return alignment

    def _tensors(self, position: int, n_tensors: int) -> Generator[None, None, tuple[int, list[TensorRow]]]:
        """Read the tensor list: name, shape, type, bytes, offset within the data."""
        buffer = self._buffer
        rows: list[TensorRow] = []
        seen: set[str] = set()
        self._outlook.tensors_from = position
        for index in range(n_tensors):
            self._outlook.tensors_read = index
            raw_name, position = yield from self._string(position, f"the name of tensor {index}")
            name = self._tensor_name(raw_name, index, seen)
            seen.add(name)
            yield from self._until(position + 4)
            (n_dims,) = _U32.unpack_from(buffer, position)
            position += 4
            if n_dims > MAX_DIMS:
                raise fault(
                    "KNB315", self.label, f"tensor {name!r} has {n_dims:,} dimensions, and 4 are allowed"
                )
            tail = _TAILS[n_dims]
            yield from self._until(position + tail.size)
            *shape, kind, offset = tail.unpack_from(buffer, position)
            position += tail.size
            type_name, n_bytes = type_and_size(self.label, name, shape, kind)
            rows.append(TensorRow(name, tuple(shape), type_name, n_bytes, offset))
        return position, rows

    def _tensor_name(self, raw: bytes, index: int, seen: set[str]) -> str:
        if len(raw) > MAX_NAME_BYTES:
            why = f"the name of tensor {index} has {len(raw):,} bytes, and {MAX_NAME_BYTES} are allowed"
            raise fault("KNB314", self.label, why)
        name = _plain_text(raw)
        if name is None:
            raise fault("KNB314", self.label, f"the name of tensor {index} is not text: {raw!r}")
        if name in seen:
            raise fault("KNB314", self.label, f"{name!r} occurs twice")
        return name


def _materialise(value: Scalar | PackedArray, raw: bytes) -> Value:
    if not isinstance(value, PackedArray):
        return value
    if value.kind == _STRING:
        return StringArray(raw, value.start, value.count)
    return NumberArray(raw, value.start, value.count, _CODES[value.kind])


def _plain_text(raw: bytes) -> str | None:
    """Return a name as text, or None where it is not UTF-8 or holds control characters."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None
