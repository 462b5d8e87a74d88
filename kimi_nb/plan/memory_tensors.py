"""Tensors as llama.cpp's graph knows them: shapes, strides, sources and views, and never any data.

A small part of ggml, enough to write a model's graph down and to ask how many bytes each of its tensors
takes. Sizes may be huge numbers that stand for symbols; see :mod:`kimi_nb.plan.memory_symbols`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from kimi_nb.model.ggml_types import TYPES_BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["INPLACE_OPS", "VIEW_OPS", "Graph", "Tensor", "row_bytes"]

VIEW_OPS = frozenset({"VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"})
"""Operations that only look at another tensor (``ggml_is_view_op``)."""

INPLACE_OPS = frozenset(
    {"FILL", "SCALE", "ADD", "SUB", "MUL", "DIV", "UNARY", "ROPE", "RMS_NORM", "CLAMP", "SOFT_MAX"}
)
"""Operations that may write over their own source (``ggml_op_can_inplace``), as far as they occur here."""


def row_bytes(kind: str, n: int) -> int:
    """Return the bytes of ``n`` values in a row."""
    entry = TYPES_BY_NAME[kind]
    return entry.type_size * n // entry.block_size


@lru_cache(maxsize=4096)
def _strides(kind: str, ne: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a tensor without gaps."""
    row = row_bytes(kind, ne[0])
    return TYPES_BY_NAME[kind].type_size, row, row * ne[1], row * ne[1] * ne[2]


class Tensor:
    """One tensor of a graph.

    Attributes:
        op: What computes it; ``NONE`` for weights, inputs and the cache.
        kind: Its ggml type.
        ne: Four dimensions.
        nb: Four strides in bytes.
        sources: The tensors it is computed from, in ggml's order.
        view_of: The tensor whose memory it shares, never itself a view.
        device: Where its memory lies from the start (weights, cache), else None.
        tag: Which weight it is, or is a copy of: the number of its layer, and its role.
        is_weight: Whether it is a weight.
        is_input: Whether it is filled from outside before the graph runs.
        keeps: Whether its memory is never given back (``GGML_TENSOR_FLAG_OUTPUT``).
        backend: Where it is computed, once scheduled.
        memory: While it has memory that was taken for it: the events of its backend, and the slot.
        children: While it is traced: nodes that still need it.
        views: While it is traced: views of it that are still needed.
        label: A role that the scheduler looks for.
    """

    __slots__ = (
        "_bytes",
        "backend",
        "children",
        "device",
        "is_input",
        "is_weight",
        "keeps",
        "kind",
        "label",
        "memory",
        "nb",
        "ne",
        "op",
        "sources",
        "tag",
        "view_of",
        "views",
    )

    def __init__(
        self,
        kind: str,
        ne: Iterable[int],
        op: str = "NONE",
        sources: Iterable[Tensor] = (),
        *,
        view_of: Tensor | None = None,
        nb: tuple[int, ...] | None = None,
        label: str = "",
    ) -> None:
        self.op = op
        self.kind = kind
        shape = tuple(ne)
        self.ne = shape if len(shape) == 4 else shape + (1,) * (4 - len(shape))  # noqa: PLR2004 - as in ggml
        self.sources = list(sources)
        self.view_of: Tensor | None = (view_of.view_of or view_of) if view_of is not None else None
        self.nb = _strides(kind, self.ne) if nb is None else nb
        self.device: int | None = None
        self.memory: tuple[list[int], int] | None = None
        self.children = self.views = 0
        self.tag: tuple[int, str] | None = None
        self.is_weight = self.is_input = self.keeps = False
        self.backend = -1
        self.label = label
        self._bytes: int | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes from its first to its last element (``ggml_nbytes``)."""
        if self._bytes is None:
            ne, nb = self.ne, self.nb
            block = TYPES_BY_NAME[self.kind].block_size
            first = nb[0] * ne[0] // block if block > 1 else nb[0] + (ne[0] - 1) * nb[0]
            self._bytes = first + (ne[1] - 1) * nb[1] + (ne[2] - 1) * nb[2] + (ne[3] - 1) * nb[3]
        return self._bytes

    @property
    def n_elements(self) -> int:
        """Number of values."""
        return self.ne[0] * self.ne[1] * self.ne[2] * self.ne[3]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.ne[1] * self.ne[2] * self.ne[3]

    @property
    def home(self) -> int | None:
        """Where the memory it uses lies from the start: its own, or that of the tensor it views."""
        return self.view_of.device if self.view_of is not None else self.device

    def like(self, op: str, *others: Tensor) -> Tensor:
        """Return a new tensor of the same shape, computed by ``op`` from this one and ``others``."""
        return Tensor(self.kind, self.ne, op, (self, *others))

    def view(self, ne: tuple[int, ...], nb: tuple[int, ...]) -> Tensor:
        """Return a view with other dimensions; ``nb`` gives the strides from the second on."""
        shape = ne + (1,) * (4 - len(ne))
        strides = (TYPES_BY_NAME[self.kind].type_size, *nb)
        while len(strides) < 4:  # noqa: PLR2004 - ggml's tensors have four dimensions
            strides = (*strides, strides[-1] * shape[len(strides) - 1])
        return Tensor(self.kind, shape, "VIEW", (self,), view_of=self, nb=strides)

    def reshape(self, *ne: int) -> Tensor:
        """Return a view of the same values in other dimensions."""
        return Tensor(self.kind, ne, "RESHAPE", (self,), view_of=self)

    def permute(self, *axes: int) -> Tensor:
        """Return a view with dimension ``i`` moved to place ``axes[i]``."""
        ne, nb = [0] * 4, [0] * 4
        for old, new in enumerate(axes):
            ne[new], nb[new] = self.ne[old], self.nb[old]
        return Tensor(self.kind, ne, "PERMUTE", (self,), view_of=self, nb=tuple(nb))

    def transpose(self) -> Tensor:
        """Return a view with the first two dimensions exchanged."""
        (a, b, c, d), (p, q, r, s) = self.ne, self.nb
        return Tensor(self.kind, (b, a, c, d), "TRANSPOSE", (self,), view_of=self, nb=(q, p, r, s))

    def cont(self, *ne: int) -> Tensor:
        """Return a copy without gaps."""
        return Tensor(self.kind, ne or self.ne, "CONT", (self,))

    def matmul(self, other: Tensor) -> Tensor:
        """Return ``ggml_mul_mat(self, other)``."""
        return Tensor("F32", (self.ne[1], other.ne[1], other.ne[2], other.ne[3]), "MUL_MAT", (self, other))

    def matmul_id(self, other: Tensor, ids: Tensor) -> Tensor:
        """Return ``ggml_mul_mat_id(self, other, ids)``."""
        return Tensor("F32", (self.ne[1], ids.ne[0], other.ne[2]), "MUL_MAT_ID", (self, other, ids))

    def rows(self, ids: Tensor) -> Tensor:
        """Return ``ggml_get_rows(self, ids)``."""
        kind = "I32" if self.kind == "I32" else "F32"
        return Tensor(kind, (self.ne[0], ids.ne[0], ids.ne[1], ids.ne[2]), "GET_ROWS", (self, ids))

    def set_rows(self, values: Tensor, ids: Tensor) -> Tensor:
        """Return ``ggml_set_rows(self, values, ids)``."""
        return Tensor(self.kind, self.ne, "SET_ROWS", (values, ids, self), view_of=self, nb=self.nb)

    def concat(self, other: Tensor) -> Tensor:
        """Return the two, one after the other in the first dimension."""
        return Tensor(self.kind, (self.ne[0] + other.ne[0], *self.ne[1:]), "CONCAT", (self, other))

    def top_k(self, k: int) -> Tensor:
        """Return ``ggml_argsort_top_k(self, k)``."""
        order = Tensor("I32", self.ne, "ARGSORT", (self,))
        return order.view((k, *order.ne[1:]), order.nb[1:])

    def sum_rows(self) -> Tensor:
        """Return ``ggml_sum_rows(self)``."""
        return Tensor(self.kind, (1, *self.ne[1:]), "SUM_ROWS", (self,))


class Graph:
    """Nodes and leaves in the order in which ``ggml_build_forward_expand`` finds them."""

    def __init__(self) -> None:
        self.nodes: list[Tensor] = []
        self.leaves: list[Tensor] = []
        self.cuts: list[int] = []
        """Number of nodes there were when each layer was begun."""
        self._seen: set[Tensor] = set()

    def expand(self, tensor: Tensor) -> None:
        """Add a tensor after everything that it needs."""
        if tensor in self._seen:
            return
        self._seen.add(tensor)
        for source in tensor.sources:
            if source not in self._seen:
                self.expand(source)
        (self.leaves if tensor.op == "NONE" else self.nodes).append(tensor)
