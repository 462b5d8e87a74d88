"""Which layers go to which GPU, by adding up bytes: fast, and checked afterwards by the exact report.

llama.cpp gives each GPU a run of consecutive layers, in order, and the output after the last layer; with
``-ncmoe N`` the experts of the first N layers stay in main memory. So the question is how small N can be,
and where to cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from kimi_nb.plan.memory import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.plan.memory_weights import ModelWeights

__all__ = ["Filling", "expert_mib", "fill"]

_STEPS = 12


@dataclass(frozen=True)
class Filling:
    """A placement.

    Attributes:
        n_gpu_layers: Layers on the GPUs, the output counted as one.
        n_cpu_moe: As llama.cpp counts: leading layers, dense ones included, whose experts are on the host.
        counts: How many of the layers each GPU gets.
    """

    n_gpu_layers: int
    n_cpu_moe: int
    counts: tuple[int, ...]


def fill(
    weights: ModelWeights, cache_mib: float, room_mib: Sequence[float], least: int = 0
) -> Filling | None:
    """Put as much on the GPUs as finds room: all layers with as many experts as can be, else fewer layers.

    Args:
        weights: The model's weights.
        cache_mib: The cache of one layer.
        room_mib: What each GPU has for weights and cache.
        least: The smallest ``n_cpu_moe`` to think of. From 1 on, llama.cpp does not work on several steps at
            once (pipelining), which takes buffers of its own; dense layers have no experts to move.

    Returns:
        The placement, spread evenly over the GPUs as far as it can be, or None where not even the output
        finds room.
    """
    n_layer = len(weights.layers)
    with_experts, without = _sizes(weights)
    dense = sum(1 for layer in range(n_layer) if not weights.sums[layer][0])
    steps = [n for n in (0, *range(max(dense, 1), n_layer + 1)) if n >= least]

    def sizes(n_cpu_moe: int) -> list[float]:
        layers = [*without[:n_cpu_moe], *with_experts[n_cpu_moe:]]
        unused = [0.0] * (weights.n_layer_all - n_layer)  # counted by llama.cpp, but not loaded
        return [*(size + cache_mib for size in layers), *unused, _output(weights)]

    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        if _cut(sizes(steps[middle]), room_mib) is None:
            low = middle + 1
        else:
            high = middle
    if low < len(steps):
        return Filling(weights.n_layer_all + 1, steps[low], _evenly(sizes(steps[low]), room_mib))
    bare = sizes(n_layer)
    low, high = 0, weights.n_layer_all
    while low < high:
        middle = (low + high + 1) // 2
        if _cut(bare[-middle:], room_mib) is None:
            high = middle - 1
        else:
            low = middle
    return Filling(low, n_layer, _evenly(bare[-low:], room_mib)) if low else None


def expert_mib(weights: ModelWeights, layer: int) -> float:
    """Return what the experts of a layer take on a GPU, in MiB."""
    return weights.sums[layer][0] / MIB


@lru_cache(maxsize=16)
def _sizes(weights: ModelWeights) -> tuple[list[float], list[float]]:
    """Return what each layer takes on a GPU with its experts, and without them, in MiB."""
    without = [rest / MIB for _, _, rest, _ in weights.sums]
    return [rest + sums[0] / MIB for rest, sums in zip(without, weights.sums, strict=True)], without


def _output(weights: ModelWeights) -> float:
    return (weights.ends["output"].on_gpu + weights.ends["output_norm"].on_gpu) / MIB


def _cut(sizes: Sequence[float], room: Sequence[float]) -> tuple[int, ...] | None:
    """Fill the GPUs in order, each as far as it goes; None if something is left over."""
    counts, at = [], 0
    for mib in room:
        before, left = at, mib
        while at < len(sizes) and sizes[at] <= left:
            left -= sizes[at]
            at += 1
        counts.append(at - before)
    return tuple(counts) if at == len(sizes) else None


def _evenly(sizes: Sequence[float], room: Sequence[float]) -> tuple[int, ...]:
    """Cut so that the fullest GPU is as empty as can be."""
    best = _cut(sizes, room)
    low, high = 0.0, 1.0
    for _ in range(_STEPS if len(room) > 1 else 0):
        middle = (low + high) / 2
        found = _cut(sizes, [mib * middle for mib in room])
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return best or ()
