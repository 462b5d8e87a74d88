"""What each device reads and multiplies for one token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from kimi_nb.plan.memory_weights import named_weights

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kimi_nb.plan.memory_placement import Placement
    from kimi_nb.plan.memory_weights import Entry, ModelWeights

__all__ = ["Work", "work_of"]


@dataclass
class Work:
    """One device's part of a token.

    Attributes:
        read: Bytes of weights that a token needs; of the experts, those it is sent to.
        packed: Weights among them of the types that take long to unpack (1 to 3 bits by codebook).
        plain: Weights of all other types.
        experts: Bytes of all experts here, whichever a token uses.
        expert_read: The part of ``read`` that is experts.
        rest: Bytes of all other weights that are multiplied.
        layers: How many layers have their attention here.
    """

    read: float = 0.0
    packed: float = 0.0
    plain: float = 0.0
    experts: float = 0.0
    expert_read: float = 0.0
    rest: float = 0.0
    layers: int = 0

    @property
    def weights(self) -> float:
        """Weights that a token passes through."""
        return self.packed + self.plain

    def add(self, other: Work) -> None:
        """Add another part."""
        self.read += other.read
        self.packed += other.packed
        self.plain += other.plain
        self.experts += other.experts
        self.expert_read += other.expert_read
        self.rest += other.rest


def work_of(weights: ModelWeights, placement: Placement) -> list[Work]:
    """Return the work of each GPU in use and, last, of the host."""
    host = placement.n_gpus
    works = [Work() for _ in range(host + 1)]
    known = named_weights(weights) if placement.overrides else {}
    moved = {known[name][1] for name in placement.overrides}
    for layer, (experts, rest) in enumerate(_layers(weights)):
        device = placement.layers[layer]
        works[device].layers += 1
        if layer in moved:
            for entry in weights.layers[layer]:
                works[placement.device_of(entry, layer)].add(_work([entry], weights))
        else:
            works[host if placement.experts_on_host[layer] else device].add(experts)
            works[device].add(rest)
    output = weights.ends["output"]
    works[placement.overrides.get(output.name, placement.output)].add(_work([output], weights))
    return works


@lru_cache(maxsize=16)
def _layers(weights: ModelWeights) -> tuple[tuple[Work, Work], ...]:
    """Return for each layer the work of its experts and of the rest."""
    return tuple(
        (
            _work([entry for entry in layer if entry.is_expert], weights),
            _work([entry for entry in layer if not entry.is_expert], weights),
        )
        for layer in weights.layers
    )


def _work(entries: Iterable[Entry], weights: ModelWeights) -> Work:
    total = Work()
    for entry in entries:
        used = weights.shape.n_expert_used / max(weights.shape.n_expert, 1) if entry.is_expert else 1.0
        count = 1
        for n in entry.ne:
            count *= n
        total.read += used * entry.on_host
        if entry.is_expert:
            total.experts += entry.on_host
            total.expert_read += used * entry.on_host
        else:
            total.rest += entry.on_host
        if entry.kind.startswith(("IQ1", "IQ2", "IQ3", "TQ")):
            total.packed += used * count
        else:
            total.plain += used * count
    return total
