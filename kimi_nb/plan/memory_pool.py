"""What CUDA's kernels borrow while they compute a step, which llama.cpp counts nowhere.

Every matrix multiplication takes scratch memory from a pool (``ggml_cuda_pool``) that grows to the largest
need of any and never shrinks. It grows with the tokens of a step: it is what runs out while the first long
prompt is read, long after a healthy start. Followed here are ``ggml_cuda_mul_mat_q`` (``mmq.cu``), which
keeps a copy of what it multiplies in 8 bits, and the slower way for types and GPUs that it does not serve
(``ggml_cuda_mul_mat_id`` and ``ggml_cuda_mul_mat_cublas``), which unpacks weights and sorts rows by expert.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from kimi_nb.plan.memory_weights import named_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kimi_nb.plan.memory_compute import Step
    from kimi_nb.plan.memory_placement import Placement
    from kimi_nb.plan.memory_weights import Entry, Form, ModelWeights

__all__ = ["pool_bytes"]

_OFFLOAD_FROM = 32
_FEW = 8  # MMVQ_MAX_BATCH_SIZE: so few tokens are multiplied one by one
_ROW = 512  # MATRIX_ROW_PADDING
_TURING = 7.5
_GRANULARITY = 2 << 20  # of CUDA's virtual memory
_SLOW_KINDS = frozenset({"IQ1_M", "F16", "BF16"})
_PLAIN = {"F16", "BF16"}
_BY_HEAD = {"attn_k_b", "attn_v_b"}
_IDS = 12  # bytes a row: two lists of numbers, and some to spare

_Line = tuple[float, float]
"""Bytes for each token of a step, and bytes in any case."""


def pool_bytes(
    weights: ModelWeights,
    placement: Placement,
    step: Step,
    capabilities: Sequence[float | None],
) -> list[int]:
    """Return for each GPU in use what its pool grows to.

    Args:
        weights: The model's weights.
        placement: Where they are.
        step: The longest step.
        capabilities: CUDA's compute capability of each of the GPUs, such as 8.9; None if not known.
    """
    host = placement.n_gpus
    tokens = step.dimensions.tokens * step.streams
    if not host or tokens <= _FEW:
        return [0] * host
    plain = 0.0
    if not step.flash_attn:  # scores of all heads, and queries, in 16 bits
        plain = 2.0 * tokens * weights.shape.n_head * (step.dimensions.context + weights.cache_width)
    found = [plain] * host
    lent = 0 if step.op_offload and tokens >= _OFFLOAD_FROM else host  # the first computes for the host
    tables = {modern: _layers(weights, modern) for modern in {_modern(one) for one in capabilities}}
    known = named_weights(weights) if placement.overrides else {}
    moved = {layer for name in placement.overrides if (layer := known[name][1]) is not None}
    for layer in moved:
        needs = [
            (placement.device_of(entry, layer), entry)
            for entry in weights.layers[layer]
            if entry.gpu_can  # others are computed where they are, on the host
        ]
        for device, entry in needs:
            gpu = lent if device == host else device
            if gpu < host:
                line = _line(entry, weights, _modern(capabilities[gpu]))
                found[gpu] = max(found[gpu], line[0] * tokens + line[1])
    every = zip(placement.layers, placement.experts_on_host, weights.kinds, weights.forms, strict=True)
    alike = {key: layer for layer, key in enumerate(every) if layer not in moved}  # one of them is enough
    for (at, away, _, _), layer in alike.items():
        experts_at = host if away else at
        for part, device in ((0, experts_at), (1, at)):
            gpu = lent if device == host else device
            if gpu < host:
                for slope, fixed in tables[_modern(capabilities[gpu])][layer][part]:
                    found[gpu] = max(found[gpu], slope * tokens + fixed)
    return [-(-int(n_bytes) // _GRANULARITY) * _GRANULARITY for n_bytes in found]


def _modern(capability: float | None) -> bool:
    """Whether a GPU multiplies packed weights in long steps; those before Turing may not."""
    return capability is None or capability >= _TURING


@lru_cache(maxsize=32)
def _layers(weights: ModelWeights, modern: bool) -> tuple[tuple[tuple[_Line, ...], tuple[_Line, ...]], ...]:  # noqa: FBT001 - one of two tables
    """Return for each layer what its experts and the rest need, without what is exceeded in any case."""
    known: dict[tuple[int, Form], tuple[tuple[_Line, ...], tuple[_Line, ...]]] = {}
    found = []
    for entries, kinds, form in zip(weights.layers, weights.kinds, weights.forms, strict=True):
        if (kinds, form) not in known:
            known[kinds, form] = (
                _largest(_line(one, weights, modern) for one in entries if one.is_expert and one.gpu_can),
                _largest(_line(one, weights, modern) for one in entries if not one.is_expert and one.gpu_can),
            )
        found.append(known[kinds, form])
    return tuple(found)


def _largest(lines: Iterable[_Line]) -> tuple[_Line, ...]:
    every = set(lines)
    return tuple(
        one
        for one in every
        if not any(other != one and other[0] >= one[0] and other[1] >= one[1] for other in every)
    )


def _line(entry: Entry, weights: ModelWeights, modern: bool) -> _Line:  # noqa: FBT001 - as above
    """Return what multiplying with one weight borrows."""
    if len(entry.ne) < 2 or entry.kind == "F32":  # noqa: PLR2004 - a vector; or multiplied as it is
        return 0.0, 0.0
    wide, high = entry.ne[0], entry.ne[1]
    used = weights.shape.n_expert_used if entry.is_expert else 1
    rows = used * (weights.shape.n_head if entry.role in _BY_HEAD else 1)
    packed = entry.kind not in _SLOW_KINDS and modern
    if packed:
        padded = -(-wide // _ROW) * _ROW
        return rows * (padded * 9 / 8 + (_IDS if entry.is_expert else 0)), 0.0
    unpacked = 0 if entry.kind in _PLAIN else 2 * wide * high * (1 if entry.is_expert else _third(entry))
    if entry.is_expert:  # sorted copies in 32 bits, and one expert's share of them in 16
        return rows * (4.0 * (wide + high) + _IDS) + 2.0 * (wide + high), unpacked
    return rows * 2.0 * (wide + high), unpacked


def _third(entry: Entry) -> int:
    return entry.ne[2] if len(entry.ne) > 2 else 1  # noqa: PLR2004 - matrices have two
