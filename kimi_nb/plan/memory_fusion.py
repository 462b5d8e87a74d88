"""Tensors that CUDA keeps alive longer, because one of its kernels does several nodes' work at once.

Written after ``ggml_backend_cuda_graph_optimize`` in ``ggml/src/ggml-cuda/ggml-cuda.cu``. Only what can
match in a deepseek2 graph is looked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.plan.memory_tensors import Tensor

__all__ = ["kept_for_fusion"]

_MAX_EXPERTS_USED = 32  # MOE_WEIGHTED_REDUCTION_MAX_EXPERTS
_MAX_EXPERTS = 512  # launch_topk_moe_cuda's powers of two
_ODD_EXPERT_COUNTS = frozenset({288, 576})
_SELECTION = ("ARGSORT", "VIEW", "GET_ROWS")
_NORMALISATION = ("RESHAPE", "SUM_ROWS", "CLAMP", "DIV", "RESHAPE")


def kept_for_fusion(nodes: Sequence[Tensor], kept: dict[Tensor, list[Tensor]]) -> None:
    """Add to ``kept`` which tensors of one split must live until which node has been computed."""

    def keep(tensor: Tensor, until: Tensor) -> None:
        held = kept.setdefault(until, [])
        if tensor not in held:
            held.append(tensor)

    i = 0
    while i < len(nodes):
        n = _weighted_sum(nodes, i)
        if n:
            experts, weights = nodes[i].sources
            keep(experts, nodes[i + n - 1])
            keep(weights, nodes[i + n - 1])
            i += n - 1
        n = _routing(nodes, i)
        # The last node that must stay is the one after the pattern, as in the source.
        if n and i + n < len(nodes):
            for node in nodes[i : i + n]:
                for tensor in (node, *node.sources):
                    keep(tensor, nodes[i + n])
            i += n - 1
        i += 1


def _weighted_sum(nodes: Sequence[Tensor], i: int) -> int:
    """Return how many nodes from ``i`` on weigh the experts' outputs and add them up, or 0."""
    node = nodes[i]
    used = node.ne[1]
    if node.label != "weighted experts" or not 1 < used <= _MAX_EXPERTS_USED or i + 2 * used > len(nodes):
        return 0
    return 2 * used


def _routing(nodes: Sequence[Tensor], i: int) -> int:
    """Return how many nodes from ``i`` on turn the router's scores into experts and weights, or 0."""
    n_experts = nodes[i].ne[0]
    power_of_two = n_experts & (n_experts - 1) == 0 and n_experts <= _MAX_EXPERTS
    if nodes[i].label != "gating" or not (power_of_two or n_experts in _ODD_EXPERT_COUNTS):
        return 0
    ops = [node.op for node in nodes[i : i + 14]]
    at = 1
    if ops[at : at + 1] != ["RESHAPE"]:
        return 0
    at += 1
    if ops[at : at + 1] == ["ADD"]:
        at += 1
    if tuple(ops[at : at + 3]) != _SELECTION:
        return 0
    at += 3
    if tuple(ops[at : at + 5]) == _NORMALISATION:
        at += 5
    return at + 1 if ops[at : at + 1] == ["SCALE"] else at
