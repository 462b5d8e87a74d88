"""The graph that llama.cpp builds for one step of a deepseek2 model (Kimi K2 to K2.7, DeepSeek V3).

Written after ``src/models/deepseek2.cpp`` and ``src/llama-graph.cpp``, in the same order, because the order
decides which tensors live at the same time. Only multi-head latent attention is covered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kimi_nb.plan.memory_tensors import Graph, Tensor, row_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Batch", "Layer", "Shape", "Weight", "build_graph"]

_F32 = 4


@dataclass(frozen=True)
class Shape:
    """The hyperparameters that shape the graph, under llama.cpp's names."""

    n_embd: int
    n_head: int
    n_rot: int
    n_lora_kv: int
    n_embd_head_k_mla: int
    n_expert: int
    n_expert_used: int
    n_expert_groups: int
    n_group_used: int
    sigmoid_gating: bool
    expert_weights_norm: bool
    expert_weights_scale: bool


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight as the graph sees it; ``tag`` is what :class:`Tensor` keeps of it."""

    kind: str
    ne: tuple[int, ...]
    device: int
    tag: tuple[int, str]


@dataclass(frozen=True)
class Layer:
    """One layer: its weights by role (``attn_q_a``) and where its cache lies."""

    weights: tuple[tuple[str, Weight], ...]
    cache_device: int


@dataclass(frozen=True)
class Batch:
    """One step: numbers, or symbols for them.

    Attributes:
        tokens: Tokens of all streams together.
        outputs: Tokens for which logits are wanted.
        context: Tokens that the cache of one stream holds.
        streams: Caches side by side: one for each slot unless they share one.
        flash_attn: Whether attention is one fused operation.
        cache_kind: ggml type of the cache.
    """

    tokens: int
    outputs: int
    context: int
    streams: int
    flash_attn: bool
    cache_kind: str


def build_graph(shape: Shape, layers: Sequence[Layer], ends: dict[str, Weight], batch: Batch) -> Graph:
    """Return the graph for one step.

    Args:
        shape: Hyperparameters.
        layers: The layers, in order.
        ends: ``token_embd``, ``output_norm`` and ``output``.
        batch: What is computed.
    """
    return _Builder(shape, batch).run(layers, ends)


class _Builder:
    """Builds one graph."""

    def __init__(self, shape: Shape, batch: Batch) -> None:
        self.shape = shape
        self.batch = batch
        self.graph = Graph()

    def run(self, layers: Sequence[Layer], ends: dict[str, Weight]) -> Graph:
        """Build it all."""
        batch, graph = self.batch, self.graph
        embedded = _weight(ends["token_embd"]).rows(_input("I32", batch.tokens))
        graph.expand(embedded)
        graph.expand(_input("F32", self.shape.n_embd, batch.tokens))  # the way in for images, unused by text
        self.positions = _input("I32", batch.tokens)
        self.cells = _input("I64", batch.tokens)
        mask = "F16" if batch.flash_attn else "F32"
        self.mask = _input(mask, batch.context, batch.tokens // batch.streams, 1, batch.streams)
        self.wanted = _input("I32", batch.outputs)
        stream = embedded
        for number, layer in enumerate(layers):
            stream = self._layer(stream, layer, last=number == len(layers) - 1)
        stream = stream.like("RMS_NORM").like("MUL", _weight(ends["output_norm"]))
        graph.expand(_weight(ends["output"]).matmul(stream))
        return graph

    def _layer(self, stream: Tensor, layer: Layer, *, last: bool) -> Tensor:
        self.graph.cuts.append(len(self.graph.nodes))
        roles = dict(layer.weights)
        made: dict[str, Tensor] = {}

        def weight(role: str) -> Tensor:
            if role not in made:
                made[role] = _weight(roles[role])
            return made[role]

        def norm(tensor: Tensor, role: str) -> Tensor:
            return tensor.like("RMS_NORM").like("MUL", weight(role))

        before = stream
        attended = self._attention(norm(stream, "attn_norm"), layer, roles, weight, norm)
        if last:
            attended, before = attended.rows(self.wanted), before.rows(self.wanted)
        joined = attended.like("ADD", before)
        current = norm(joined, "ffn_norm")
        if "ffn_gate_inp" in roles:
            mixed = self._experts(current, roles, weight)
            shared = _feed_forward(current, weight, "ffn_up_shexp", "ffn_gate_shexp", "ffn_down_shexp")
            current = mixed.like("ADD", shared)
        else:
            current = _feed_forward(current, weight, "ffn_up", "ffn_gate", "ffn_down")
        return current.like("ADD", joined)

    def _attention(
        self,
        current: Tensor,
        layer: Layer,
        roles: dict[str, Weight],
        weight: Callable[[str], Tensor],
        norm: Callable[[Tensor, str], Tensor],
    ) -> Tensor:
        shape, tokens = self.shape, self.batch.tokens
        rot, latent, heads = shape.n_rot, shape.n_lora_kv, shape.n_head
        if "attn_q_a" in roles:
            query = weight("attn_q_b").matmul(norm(weight("attn_q_a").matmul(current), "attn_q_a_norm"))
        else:
            query = weight("attn_q").matmul(current)
        query = query.reshape(shape.n_embd_head_k_mla, heads, tokens)
        both = weight("attn_kv_a_mqa").matmul(current)
        stride = (latent + rot) * _F32
        key_rot = both.view((rot, 1, tokens), (stride, stride)).like("ROPE", self.positions)
        value = norm(both.view((latent, tokens), (stride,)), "attn_kv_a_norm")
        plain = query.view((shape.n_embd_head_k_mla - rot, heads, tokens), query.nb[1:3])
        query_rot = query.view((rot, heads, tokens), query.nb[1:3]).like("ROPE", self.positions)
        absorbed = weight("attn_k_b").matmul(plain.permute(0, 2, 1, 3)).permute(0, 2, 1, 3)
        query = absorbed.concat(query_rot)
        value = value.reshape(latent, 1, tokens)
        key = value.concat(key_rot)
        for tensor in (query, value, key):
            self.graph.expand(tensor)
        key, value = self._through_cache(key, layer.cache_device)
        attended = self._attend(query, key, value, weight)
        self.graph.expand(attended)
        return weight("attn_output").matmul(attended)

    def _through_cache(self, key: Tensor, device: int) -> tuple[Tensor, Tensor]:
        """Store the keys, and return keys and values as attention reads them: both are the same memory."""
        batch, width = self.batch, key.ne[0]
        cache = Tensor(batch.cache_kind, (width, batch.context, batch.streams))
        cache.device = device
        place = cache.reshape(width, batch.context * batch.streams) if batch.streams > 1 else cache
        self.graph.expand(place.set_rows(key.view((width, batch.tokens), (key.nb[2],)), self.cells))
        row = row_bytes(batch.cache_kind, width)
        keys = cache.view((width, 1, batch.context, batch.streams), (row, row, row * batch.context))
        return keys, keys.view((self.shape.n_lora_kv, *keys.ne[1:]), keys.nb[1:])

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, weight: Callable[[str], Tensor]) -> Tensor:
        streams = self.batch.streams
        each = query.ne[2] // streams
        query = query.view(
            (query.ne[0], query.ne[1], each, streams), (query.nb[1], query.nb[2], query.nb[2] * each)
        )
        query, key, value = (tensor.permute(0, 2, 1, 3) for tensor in (query, key, value))
        if not self.batch.flash_attn:
            scores = key.matmul(query).like("SOFT_MAX", self.mask)
            mixed = value.transpose().cont().matmul(scores)
            mixed = weight("attn_v_b").matmul(mixed).permute(0, 2, 1, 3)
            return mixed.cont(mixed.ne[0] * mixed.ne[1], mixed.ne[2] * mixed.ne[3])
        if key.kind == "F32":
            key, value = _cast(key, "F16"), _cast(value, "F16")
        mixed = Tensor(
            "F32",
            (value.ne[0], query.ne[2], query.ne[1], query.ne[3]),
            "FLASH_ATTN_EXT",
            (query, key, value, self.mask),
        )
        mixed = weight("attn_v_b").matmul(mixed.permute(0, 2, 1, 3)).permute(0, 2, 1, 3).cont()
        return mixed.reshape(mixed.ne[0] * mixed.ne[1], mixed.ne[2] * mixed.ne[3])

    def _experts(self, current: Tensor, roles: dict[str, Weight], weight: Callable[[str], Tensor]) -> Tensor:
        shape, graph, n = self.shape, self.graph, current.ne[1]
        used = shape.n_expert_used
        logits = weight("ffn_gate_inp").matmul(current)
        probabilities = logits.like("UNARY" if shape.sigmoid_gating else "SOFT_MAX")
        probabilities.label = "gating"
        selection = probabilities
        if "exp_probs_b" in roles:
            selection = selection.like("ADD", weight("exp_probs_b"))
        if shape.n_expert_groups > 1:
            selection = self._best_groups(selection, n)
        ids = selection.top_k(used)
        weights = probabilities.reshape(1, shape.n_expert, n).rows(ids)
        if shape.expert_weights_norm:
            weights = weights.reshape(used, n)
            weights = weights.like("DIV", weights.sum_rows().like("CLAMP")).reshape(1, used, n)
        if shape.expert_weights_scale:
            weights = weights.like("SCALE")
        graph.expand(weights)
        current = current.reshape(current.ne[0], 1, n)
        if "ffn_gate_up_exps" in roles:
            together = weight("ffn_gate_up_exps").matmul_id(current, ids)
            half = (together.ne[0] // 2, *together.ne[1:3])
            gate, up = (together.view(half, together.nb[1:3]) for _ in range(2))
        else:
            up = weight("ffn_up_exps").matmul_id(current, ids)
            gate = weight("ffn_gate_exps").matmul_id(current, ids)
        each = weight("ffn_down_exps").matmul_id(gate.like("GLU", up), ids).like("MUL", weights)
        each.label = "weighted experts"
        graph.expand(each)
        views = [each.view((each.ne[0], n), (each.nb[2],)) for _ in range(used)]
        for view in views:
            graph.expand(view)
        total = views[0]
        for view in views[1:]:
            total = total.like("ADD", view)
            graph.expand(total)
        return total.cont() if used == 1 else total

    def _best_groups(self, selection: Tensor, n: int) -> Tensor:
        """Mask all but the best groups of experts, as DeepSeek V3 does."""
        shape = self.shape
        groups = shape.n_expert_groups
        size = shape.n_expert // groups
        grouped = selection.reshape(size, groups, n)
        best = grouped.top_k(2)
        scores = grouped.reshape(1, size, groups, n).rows(best)
        scores = scores.reshape(scores.ne[1], scores.ne[2], scores.ne[3]).sum_rows()
        chosen = scores.reshape(scores.ne[1], scores.ne[2]).top_k(shape.n_group_used)
        kept = grouped.rows(chosen)
        return grouped.like("FILL").set_rows(kept, chosen).reshape(shape.n_expert, n)


def _input(kind: str, *ne: int) -> Tensor:
    tensor = Tensor(kind, ne)
    tensor.is_input = True
    return tensor


def _weight(weight: Weight) -> Tensor:
    tensor = Tensor(weight.kind, weight.ne)
    tensor.device = weight.device
    tensor.tag = weight.tag
    tensor.is_weight = True
    return tensor


def _cast(tensor: Tensor, kind: str) -> Tensor:
    cast = Tensor(kind, tensor.ne, "CPY", (tensor,))
    cast.sources.append(cast)  # ggml's own quirk
    return cast


def _feed_forward(current: Tensor, weight: Callable[[str], Tensor], up: str, gate: str, down: str) -> Tensor:
    raised = weight(up).matmul(current)
    return weight(down).matmul(weight(gate).matmul(current).like("GLU", raised))
