"""The tensor list of a header: how large each tensor is, and that they lie where they must."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from kimi_nb.model.ggml_types import REMOVED_TYPES, TYPES
from kimi_nb.model.gguf_faults import fault

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_DATA_BYTES", "TensorInfo", "TensorRow", "place", "type_and_size"]

MAX_ELEMENTS = (1 << 63) - 1
MAX_DATA_BYTES = 1 << 50  # a pebibyte: far above any model, far below anything that overflows


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as a header describes it.

    Attributes:
        name: For example ``blk.3.ffn_down_exps.weight``.
        shape: Dimensions in ggml's order: the first is the length of a row.
        type: The ggml type's name: ``Q4_K``.
        n_bytes: Size of its data, without padding.
        shard: Index of its file, from 0.
        offset: Where its data starts, in bytes from the start of that file.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    n_bytes: int
    shard: int
    offset: int

    @property
    def n_elements(self) -> int:
        """Number of weights."""
        product = 1
        for n in self.shape:
            product *= n
        return product

    @property
    def layer(self) -> int | None:
        """The N of ``blk.N.``, or None outside the layers."""
        parts = self.name.split(".", 2)
        return int(parts[1]) if parts[0] == "blk" and len(parts) > 1 and parts[1].isdecimal() else None


class TensorRow(NamedTuple):
    """One tensor as read, its place not yet checked; ``offset`` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: str
    n_bytes: int
    offset: int


def type_and_size(label: str, name: str, shape: Sequence[int], kind: int) -> tuple[str, int]:
    """Return a tensor's type name and bytes, as ``ggml_nbytes`` counts them.

    Raises:
        ModelFileError: An impossible shape (KNB315), or a type that llama.cpp does not read (KNB316).
    """
    known = TYPES.get(kind)
    if known is None:
        what = (
            f"the removed type {REMOVED_TYPES[kind]}" if kind in REMOVED_TYPES else f"the unknown type {kind}"
        )
        raise fault("KNB316", label, f"tensor {name!r} has {what}")
    elements = 1
    for n in shape:
        elements *= n
        if n > MAX_ELEMENTS or elements > MAX_ELEMENTS:
            raise fault("KNB315", label, f"tensor {name!r} has the shape {list(shape)}")
    row = shape[0] if shape else 1
    if row % known.block_size:
        why = f"tensor {name!r} has rows of {row:,}, and {known.name} needs a multiple of {known.block_size}"
        raise fault("KNB316", label, why)
    n_bytes = elements // known.block_size * known.type_size
    if n_bytes > MAX_DATA_BYTES:
        raise fault("KNB315", label, f"tensor {name!r} would have {n_bytes:,} bytes")
    return known.name, n_bytes


def place(
    label: str, rows: Sequence[TensorRow], data_offset: int, alignment: int, shard: int
) -> tuple[tuple[TensorInfo, ...], int]:
    """Check that tensors follow one another without gap or overlap; return them and the end of their data.

    Raises:
        ModelFileError: A tensor is not where it must be (KNB317), or all are too large (KNB315).
    """
    expected = data_end = 0
    tensors = []
    for row in rows:
        if row.offset != expected:
            why = f"tensor {row.name!r} starts at byte {row.offset:,} of the data instead of {expected:,}"
            raise fault("KNB317", label, why)
        tensors.append(
            TensorInfo(row.name, row.shape, row.type, row.n_bytes, shard, data_offset + row.offset)
        )
        data_end = expected + row.n_bytes
        expected = -(-data_end // alignment) * alignment
        if expected > MAX_DATA_BYTES:
            raise fault("KNB315", label, f"its tensors up to {row.name!r} would have {expected:,} bytes")
    return tuple(tensors), data_offset + data_end
