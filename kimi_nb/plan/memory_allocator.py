"""Which tensors take memory on each backend, and when they give it back.

The first of two steps, after ``ggml_gallocr_alloc_graph_impl`` in ``ggml/src/ggml-alloc.c``: for each
backend, which tensor's memory is taken and given back in which order. That depends on the graph and not
on sizes; for the second step see :mod:`kimi_nb.plan.memory_replay`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from kimi_nb.model.ggml_types import TYPES_BY_NAME
from kimi_nb.plan.memory_symbols import Polynomial, read
from kimi_nb.plan.memory_tensors import INPLACE_OPS, row_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kimi_nb.plan.memory_schedule import Schedule
    from kimi_nb.plan.memory_symbols import Dimensions
    from kimi_nb.plan.memory_tensors import Tensor

__all__ = ["GPU_ALIGNMENT", "HOST_ALIGNMENT", "Copied", "Trace", "gpu_bytes", "trace"]

GPU_ALIGNMENT = 128  # ggml_backend_cuda_buffer_type_get_alignment
HOST_ALIGNMENT = 32  # TENSOR_ALIGNMENT
_ROW_PADDING = 512  # MATRIX_ROW_PADDING


def gpu_bytes(kind: str, ne0: int, n_bytes: int) -> int:
    """Return what a tensor takes on a GPU: rows of quantised matrices are read a little past their end."""
    if TYPES_BY_NAME[kind].is_quantized and ne0 % _ROW_PADDING:
        return n_bytes + row_bytes(kind, _ROW_PADDING - ne0 % _ROW_PADDING)
    return n_bytes


class Copied(NamedTuple):
    """The size of a weight that is copied to a backend; it depends on the weight's type, which is not traced.

    Attributes:
        layer: Which of the layers that are traced; one more than the last for weights of no layer.
        role: Which of its weights.
    """

    layer: int
    role: str


@dataclass(eq=False)
class Trace:
    """What happens on one backend: ``+n`` takes memory for slot n, ``-n`` gives it back; counted from 1.

    Attributes:
        events: The events of all nodes.
        sizes: The size of each slot.
        cuts: How many events there are before each layer.
        copies: The slots of copies of weights.
    """

    events: list[int] = field(default_factory=list)
    sizes: list[Polynomial | Copied] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    copies: list[tuple[int, Copied]] = field(default_factory=list)
    _distinct: dict[Polynomial, list[int]] = field(default_factory=dict)

    def bytes_at(self, at: Dimensions, alignment: int, weights: Sequence[Mapping[str, int]]) -> list[int]:
        """Return what each slot takes; slot 0 is none.

        Args:
            at: The dimensions.
            alignment: What sizes are rounded up to.
            weights: For each layer that was traced, what a copy of each weight takes here; see ``Copied``.
        """
        mask = alignment - 1
        sizes = [0] * (len(self.sizes) + 1)
        for size, slots in self._slots_by_size().items():
            n = (size.at(at) + mask) & ~mask
            for slot in slots:
                sizes[slot] = n
        for slot, (layer, role) in self.copies:
            sizes[slot] = weights[layer][role]
        return sizes

    def _slots_by_size(self) -> dict[Polynomial, list[int]]:
        """Return the slots of each size: there are few sizes, and every estimate asks for all slots'."""
        if not self._distinct:
            for slot, size in enumerate(self.sizes, 1):
                if isinstance(size, Polynomial):
                    self._distinct.setdefault(size, []).append(slot)
        return self._distinct


def trace(schedule: Schedule, n_gpus: int) -> list[Trace]:
    """Return what happens on each backend, the host's last."""
    return _Tracer(schedule, n_gpus).run()


class _Tracer:
    """Traces one schedule."""

    def __init__(self, schedule: Schedule, n_gpus: int) -> None:
        self.schedule = schedule
        self.n_gpus = n_gpus
        self.traces = [Trace() for _ in range(n_gpus + 1)]

    def run(self) -> list[Trace]:
        """Walk through leaves and nodes as the allocator does."""
        for leaf, backend in self.schedule.leaves:
            self._allocate(leaf, backend)
        self._count()
        cuts = set(self.schedule.cuts)
        for number, (node, backend) in enumerate(self.schedule.nodes):
            if number in cuts:
                for one in self.traces:
                    one.cuts.append(len(one.events))
            for source in node.sources:
                if source.memory is None:
                    self._allocate(source, backend)
            self._allocate(node, backend)
            for source in node.sources:
                self._used(source)
        return self.traces

    def _count(self) -> None:
        """Count who needs what, and take memory for inputs first, so that nothing overwrites them."""
        for node, backend in self.schedule.nodes:
            if node.view_of is not None and node.op != "NONE":
                node.view_of.views += 1
            if node.is_input:
                self._allocate(node, backend)
            for source in node.sources:
                source.children += 1
                if source.is_input:
                    self._allocate(source, backend)

    def _allocate(self, tensor: Tensor, backend: int) -> None:
        if tensor.device is not None or tensor.view_of is not None or tensor.memory is not None:
            return
        if tensor.op in INPLACE_OPS and _take_over(tensor):
            return
        found = self.traces[backend]
        slot = len(found.sizes) + 1
        if tensor.tag is None:
            found.sizes.append(self._size(tensor, backend))
        else:
            found.sizes.append(Copied(*tensor.tag))
            found.copies.append((slot, Copied(*tensor.tag)))
        found.events.append(slot)
        tensor.memory = found.events, slot

    def _used(self, source: Tensor) -> None:
        """Note that one of the nodes that need a tensor is done, and give its memory back after the last."""
        source.children -= 1
        if source.children or source.views:
            return
        base = source
        if source.view_of is not None:
            base = source.view_of
            base.views -= 1
            if base.views or base.children:
                return
        if base.memory is not None and not base.keeps:
            events, slot = base.memory
            events.append(-slot)
            base.memory = None

    def _size(self, tensor: Tensor, backend: int) -> Polynomial:
        n = tensor.n_bytes
        if backend == self.n_gpus:
            return read(n)
        if tensor.op == "FLASH_ATTN_EXT":
            n += _flash_extra(tensor)
        return read(gpu_bytes(tensor.kind, tensor.ne[0], n))


def _take_over(tensor: Tensor) -> bool:
    """Write over a source's memory if nobody else needs it."""
    for source in tensor.sources:
        base = source.view_of or source
        if source.memory is None or source.keeps or base.keeps:
            continue
        if source.children != 1 or source.views or source.kind != tensor.kind:
            continue
        if source.ne == tensor.ne and source.nb == tensor.nb:
            tensor.memory, source.memory = source.memory, None
            return True
    return False


def _flash_extra(tensor: Tensor) -> int:
    """Return the room for keys and values in f16, which CUDA's flash attention puts behind its result."""
    key, value = tensor.sources[1:3]
    if key.kind == "F16":
        return 0
    # Values that are a view of the keys share their copy.
    shared = value.view_of is not None and value.view_of in {key, key.view_of}
    return 2 * key.n_elements + (0 if shared else 2 * value.n_elements)
