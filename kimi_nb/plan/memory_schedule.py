"""Which processor computes which node, and what must be copied between them.

Written after ``ggml_backend_sched_split_graph`` in ``ggml/src/ggml-backend.cpp``, with the rules of the
CUDA backend for what it can compute, when it takes work over from the host, and which tensors it keeps
alive for its fused kernels (``ggml/src/ggml-cuda/ggml-cuda.cu``). Backends are numbered: the GPUs first,
the host last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from kimi_nb.model.ggml_types import TYPES_BY_NAME
from kimi_nb.plan.memory_fusion import kept_for_fusion
from kimi_nb.plan.memory_tensors import VIEW_OPS, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kimi_nb.plan.memory_tensors import Graph

__all__ = ["CACHE_KINDS_WITH_FLASH", "MATMUL_KINDS", "Rules", "Schedule", "flash_attention_fits", "schedule"]

_COPIES = 4  # GGML_SCHED_MAX_COPIES
_MAX_SOURCES = 10  # GGML_MAX_SRC
_KV_STRIDE = 256  # FATTN_KQ_STRIDE

MATMUL_KINDS = frozenset(TYPES_BY_NAME) - {"TQ1_0", "TQ2_0", "Q8_1", "I8", "I16", "I32", "I64", "F64"}
"""Types whose matrices CUDA multiplies; others stay on the host."""

CACHE_KINDS_WITH_FLASH = frozenset({"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"})
"""Cache types that CUDA's flash attention reads."""


@dataclass(frozen=True)
class Rules:
    """What the schedule depends on besides the graph.

    Attributes:
        n_gpus: Number of GPUs.
        op_offload: Whether GPUs take over large batches of work on weights in host memory.
        pipeline: Whether several batches are on their way at once (``n_copies`` of every input).
        batch_of: Tells whether a batch of a node's size is large enough to be taken over.
    """

    n_gpus: int
    op_offload: bool
    pipeline: bool
    batch_of: Callable[[int], bool]


@dataclass
class Schedule:
    """Nodes and leaves with the backend of each, in the order in which memory is reserved for them."""

    nodes: list[tuple[Tensor, int]] = field(default_factory=list)
    leaves: list[tuple[Tensor, int]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """Where in ``nodes`` each layer begins."""


@dataclass
class _Split:
    backend: int
    start: int
    end: int = 0
    inputs: list[Tensor] = field(default_factory=list)


def flash_attention_fits(key_width: int, value_width: int, heads_per_key: int, cache_kind: str) -> bool:
    """Whether CUDA has a flash attention kernel for a shape (``ggml_cuda_get_best_fattn_kernel``)."""
    if cache_kind not in CACHE_KINDS_WITH_FLASH:
        return False
    grouped = heads_per_key > 1
    if key_width == 576:  # noqa: PLR2004 - the widths that have kernels
        return value_width == 512 and grouped  # noqa: PLR2004 - as above
    if key_width == 320:  # noqa: PLR2004 - as above
        return value_width == 256 and heads_per_key % 32 == 0  # noqa: PLR2004 - as above
    if key_width == 192:  # noqa: PLR2004 - as above
        return value_width == 128 and heads_per_key % 8 == 0  # noqa: PLR2004 - as above
    if key_width == 512:  # noqa: PLR2004 - as above
        return value_width == key_width and grouped
    return key_width in {40, 64, 72, 80, 96, 112, 128, 256} and value_width == key_width


def schedule(graph: Graph, rules: Rules) -> Schedule:
    """Assign every node to a backend, split the graph where backends change, and add copies in between."""
    return _Scheduler(graph, rules).run()


class _Scheduler:
    """Schedules one graph."""

    def __init__(self, graph: Graph, rules: Rules) -> None:
        self.graph = graph
        self.rules = rules
        self.host = rules.n_gpus
        self.copies: dict[tuple[Tensor, int], list[Tensor]] = {}

    def run(self) -> Schedule:
        """Do all passes."""
        for tensor in (*self.graph.leaves, *self.graph.nodes):
            if tensor.backend < 0:
                tensor.backend = self._from_memory(tensor)
        self._expand()
        self._assign_rest()
        splits = self._split()
        return self._arrange(splits)

    # -- which backend

    def _supports(self, backend: int, node: Tensor) -> bool:
        if backend == self.host:
            return True
        for source in node.sources:
            at = source.device
            if at is not None and at not in (backend, self.host):
                return False
        if node.op in {"MUL_MAT", "MUL_MAT_ID"}:
            return node.sources[0].kind in MATMUL_KINDS
        if node.op == "FLASH_ATTN_EXT":
            query, key, value, _ = node.sources
            fits = flash_attention_fits(key.ne[0], value.ne[0], query.ne[2] // key.ne[2], key.kind)
            return fits and key.ne[1] % _KV_STRIDE == 0
        return True

    def _from_buffer(self, tensor: Tensor, node: Tensor) -> int:
        home = tensor.home
        return home if home is not None and self._supports(home, node) else -1

    def _from_memory(self, tensor: Tensor) -> int:
        """Pass 1: by where its own memory or that of its weights is."""
        own = self._from_buffer(tensor, tensor)
        if own >= 0:
            return own
        if tensor.is_input:
            return self.host
        if tensor.op in {"ROPE", "FLASH_ATTN_EXT"}:
            return -1
        for source in tensor.sources:
            if source.is_weight:
                backend = self._from_buffer(source, tensor)
                if (
                    backend == self.host
                    and self.rules.op_offload
                    and self.rules.batch_of(_batch_size(tensor))
                ):
                    return next((gpu for gpu in range(self.host) if self._supports(gpu, tensor)), backend)
                return backend
        return -1

    def _expand(self) -> None:
        """Pass 2: neighbours without weights follow, the GPUs' first."""
        nodes = [node for node in self.graph.nodes if node.op not in VIEW_OPS]
        self._spread(nodes, gpus_only=True)
        self._spread(reversed(nodes), gpus_only=True)
        self._spread(nodes, gpus_only=False)
        self._spread(reversed(nodes), gpus_only=False)

    def _spread(self, nodes: Iterable[Tensor], *, gpus_only: bool) -> None:
        current = -1
        for node in nodes:
            if node.backend >= 0:
                current = -1 if gpus_only and node.backend == self.host else node.backend
            elif current >= 0 and self._supports(current, node):
                node.backend = current

    def _assign_rest(self) -> None:
        """Passes 3 and 4: what is still open goes where most of its sources are, views where theirs is."""
        for node in self.graph.nodes:
            if node.op not in VIEW_OPS and node.backend < 0:
                able = [backend for backend in range(self.host + 1) if self._supports(backend, node)]
                node.backend = max(able, key=lambda b: (sum(self._reads(s, b) for s in node.sources), -b))
        for node in self.graph.nodes:
            if node.view_of is not None and node.backend < 0:
                node.backend = node.view_of.backend
            for source in node.sources:
                if source.backend < 0:
                    source.backend = node.backend if source.view_of is None else source.view_of.backend

    def _reads(self, tensor: Tensor, backend: int) -> bool:
        """Whether a backend can use a tensor where it lies (``ggml_backend_sched_buffer_supported``)."""
        home = tensor.home
        if home is None:
            home = tensor.backend
            if home < 0 and tensor.view_of is not None:
                home = tensor.view_of.backend
        return home == backend

    # -- splits and copies

    def _split(self) -> list[_Split]:
        """Pass 5: cut where the backend changes, or where a copied weight can take another's place."""
        nodes = self.graph.nodes
        start = next(i for i, node in enumerate(nodes) if node.op not in VIEW_OPS)
        split = _Split(nodes[start].backend, 0)
        splits = [split]
        for i in range(start, len(nodes)):
            node = nodes[i]
            if node.op in VIEW_OPS:
                continue
            if node.backend != split.backend or (split.inputs and self._wants_weight(node, split.backend)):
                split = _Split(node.backend, i)
                splits.append(split)
            for j, source in enumerate(node.sources):
                if source.backend != split.backend and not self._reads(source, split.backend):
                    key = (source, split.backend)
                    if key not in self.copies:
                        self.copies[key] = self._copy(source, split.backend)
                        split.inputs.append(source)
                    node.sources[j] = self.copies[key][0]
        for before, after in pairwise(splits):
            before.end = after.start
        splits[-1].end = len(nodes)
        return splits

    def _wants_weight(self, node: Tensor, backend: int) -> bool:
        for source in node.sources:
            if source.is_weight and source.backend != backend and not self._reads(source, backend):
                return True
        return False

    def _copy(self, source: Tensor, backend: int) -> list[Tensor]:
        copies = []
        for _ in range(_COPIES if self.rules.pipeline else 1):
            copy = Tensor(source.kind, source.ne, nb=source.nb)
            copy.backend = backend
            copy.tag = source.tag
            copy.is_input = copy.keeps = self.rules.pipeline
            copies.append(copy)
        return copies

    def _arrange(self, splits: list[_Split]) -> Schedule:
        """List everything as memory will be reserved for it."""
        result = Schedule()
        inputs = self._pipeline_inputs() if self.rules.pipeline else []
        kept: dict[Tensor, list[Tensor]] = {}
        for split in splits:
            if split.backend != self.host:
                kept_for_fusion(self.graph.nodes[split.start : split.end], kept)
        cuts = iter([*self.graph.cuts, len(self.graph.nodes)])
        cut = next(cuts)
        for split in splits:
            for source in split.inputs:
                # The source must not be given up before it is copied.
                result.nodes.append((_hold([source]), source.backend))
                result.nodes.append((self.copies[source, split.backend][0], split.backend))
            for i, node in enumerate(self.graph.nodes[split.start : split.end], split.start):
                if i == cut:
                    result.cuts.append(len(result.nodes))
                    cut = next(cuts)
                result.nodes.append((node, node.backend))
                until = kept.get(node, [])
                for at in range(0, len(until), _MAX_SOURCES):
                    result.nodes.append((_hold(until[at : at + _MAX_SOURCES]), split.backend))
        if self.rules.pipeline:
            result.leaves += [
                (copy, leaf.backend) for leaf in inputs for copy in self.copies[leaf, leaf.backend]
            ]
            result.leaves += [
                (copy, split.backend)
                for split in splits
                for source in split.inputs
                for copy in self.copies[source, split.backend]
            ]
        result.leaves += [(leaf, leaf.backend) for leaf in self.graph.leaves]
        return result

    def _pipeline_inputs(self) -> list[Tensor]:
        """Pass 6: every input exists once for each batch on its way; the first is the input itself."""
        inputs = [leaf for leaf in self.graph.leaves if leaf.is_input]
        for leaf in inputs:
            leaf.keeps = True
            self.copies[leaf, leaf.backend] = [leaf, *self._copy(leaf, leaf.backend)[1:]]
        return inputs


def _hold(tensors: list[Tensor]) -> Tensor:
    """Return a node that does nothing but need its sources."""
    first = tensors[0]
    return Tensor(first.kind, first.ne, "NONE", tensors, view_of=first, nb=first.nb)


def _batch_size(node: Tensor) -> int:
    """Return what CUDA takes for the batch size of an operation (``get_op_batch_size``)."""
    if node.op == "GET_ROWS":
        return 0
    if node.op == "MUL_MAT":
        return node.ne[1]
    return node.ne[2] if node.op == "MUL_MAT_ID" else node.n_rows
