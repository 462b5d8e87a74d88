"""What is alike in a placement, so that a few layers and GPUs can be traced in place of all.

Layers in a row that are computed in the same way make a run, whatever types their weights have; and of
neighbouring GPUs in the middle of a model that hold such a run each, one stands for all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from kimi_nb.plan.memory_replay import TRACED
from kimi_nb.plan.memory_weights import named_weights
from kimi_nb.plan.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Hashable

    from kimi_nb.plan.memory_placement import Placement
    from kimi_nb.plan.memory_weights import Form, ModelWeights

__all__ = ["Mark", "Pattern", "Run", "pattern_of"]

_MANY = 4
"""From so many GPUs on there can be two that are alike; the first and the last are not."""


class Mark(NamedTuple):
    """How a layer is computed.

    Attributes:
        form: The roles and shapes of its weights.
        device: Where it is.
        experts_on_host: Whether its experts are in host memory.
        moved: Weights that are elsewhere: role and device.
    """

    form: Form
    device: int
    experts_on_host: bool
    moved: tuple[tuple[str, int], ...] = ()

    def at(self, role: str, *, is_expert: bool, host: int) -> int:
        """Return the device of one of the layer's weights."""
        for name, device in self.moved:
            if name == role:
                return device
        return host if is_expert and self.experts_on_host else self.device


@dataclass(frozen=True)
class Run:
    """Layers in a row that are computed alike."""

    mark: Mark
    first: int
    count: int

    @property
    def traced(self) -> int:
        """How many of them are traced."""
        return min(self.count, TRACED)


@dataclass(frozen=True)
class Pattern:
    """What is to be traced.

    Attributes:
        runs: The layers.
        n_gpus: The GPUs that are traced, which is also the number of the host.
        ends: Where ``token_embd``, ``output_norm`` and ``output`` are.
        backends: For each GPU in use and the host: which of those that are traced it is like, and the runs as
            they are there, in the order of ``runs``.
    """

    runs: list[Run]
    n_gpus: int
    ends: dict[str, int]
    backends: list[tuple[int, list[Run]]]

    def one_by_one(self) -> Pattern:
        """Return the pattern with each layer as a run of its own."""
        runs = [Run(run.mark, run.first + i, 1) for run in self.runs for i in range(run.count)]
        return replace(self, runs=runs, backends=[(number, runs) for number in range(self.n_gpus + 1)])


_patterns: Recent[Pattern] = Recent(64)


def pattern_of(weights: ModelWeights, placement: Placement, *, every_gpu: bool = False) -> Pattern:
    """Return what is to be traced of a model.

    Args:
        weights: The model's weights.
        placement: Where they are.
        every_gpu: Whether no GPU may stand for another, because the host has a part in every layer.
    """
    if placement.overrides:
        return _pattern(weights, placement, every_gpu=True)
    host = placement.n_gpus
    key = (weights, placement.layers, placement.experts_on_host, placement.output, host, every_gpu)
    return _patterns.get(key, lambda: _pattern(weights, placement, every_gpu=every_gpu))


def _pattern(weights: ModelWeights, placement: Placement, *, every_gpu: bool) -> Pattern:
    marks = _marks(weights, placement)
    runs, first = [], 0
    for mark, members in groupby(marks):
        count = sum(1 for _ in members)
        runs.append(Run(mark, first, count))
        first += count
    host, moved = placement.n_gpus, placement.overrides
    usual = {"token_embd": host, "output_norm": placement.output, "output": placement.output}
    ends = {role: moved.get(weights.ends[role].name, at) for role, at in usual.items()} if moved else usual
    whole = Pattern(runs, host, ends, [(number, runs) for number in range(host + 1)])
    if every_gpu or host < _MANY:
        return whole
    return _with_fewer_gpus(whole, marks)


def _marks(weights: ModelWeights, placement: Placement) -> list[Mark]:
    marks = [
        Mark(form, device, there and form.has_experts)
        for form, device, there in zip(
            weights.forms, placement.layers, placement.experts_on_host, strict=True
        )
    ]
    if placement.overrides:
        known = named_weights(weights)
        moved: dict[int, list[tuple[str, int]]] = {}
        for name, device in placement.overrides.items():
            entry, layer = known[name]
            if layer is not None:
                moved.setdefault(layer, []).append((entry.role, device))
        for layer, roles in moved.items():
            marks[layer] = marks[layer]._replace(moved=tuple(sorted(roles)))
    return marks


def _with_fewer_gpus(whole: Pattern, marks: list[Mark]) -> Pattern:
    """Leave out GPUs that are like the one before, and whose neighbours are alike too.

    What such a GPU holds depends on how its layers are computed, and the last one before and the first one
    after them: from there a result comes in, and to there one goes out. Where other devices compute a part of
    these layers, they see those of all such GPUs as one run.
    """
    host = whole.n_gpus
    runs_on: dict[int, list[Run]] = {}
    for run in whole.runs:
        runs_on.setdefault(run.mark.device, []).append(run)
    like = list(range(host + 1))
    together: dict[int, Run] = {}
    for kind, members in groupby(range(host), lambda gpu: _kind(runs_on.get(gpu, []), marks, host)):
        first, *others = members
        if kind is None or not others:
            continue
        for gpu in others:
            like[gpu] = first
        own = runs_on[first][0]
        if own.mark.experts_on_host:  # whoever computes these, does so for all of the GPUs
            together[first] = replace(own, count=own.count + sum(runs_on[gpu][0].count for gpu in others))
    number = {gpu: i for i, gpu in enumerate(sorted(set(like)))}
    runs = [run for run in whole.runs if like[run.mark.device] == run.mark.device]

    def seen_from(gpu: int, run: Run) -> Run:
        at = run.mark.device
        if at == like[gpu]:
            return run if gpu == at else runs_on[gpu][0]
        return together.get(at, run)

    backends = [(number[like[gpu]], [seen_from(gpu, run) for run in runs]) for gpu in range(host + 1)]
    renumbered = [replace(run, mark=run.mark._replace(device=number[run.mark.device])) for run in runs]
    ends = {role: number[device] for role, device in whole.ends.items()}
    return Pattern(renumbered, len(number) - 1, ends, backends)


def _kind(runs: list[Run], marks: list[Mark], host: int) -> Hashable:
    """Return what GPUs with such runs have in common if they are alike; None for one that is like none."""
    if len(runs) != 1 or runs[0].first == 0 or runs[0].first + runs[0].count >= len(marks) - 1:
        return None
    own = runs[0]
    three = (marks[own.first - 1], own.mark, marks[own.first + own.count])
    if any(mark.device == host for mark in three):
        return None
    if own.mark.experts_on_host and own.count <= TRACED:
        return None  # another device computes the experts, for which these layers must be part of a loop
    return own.traced, *((mark.form, mark.experts_on_host) for mark in three)
