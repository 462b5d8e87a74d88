"""Compute buffers: what llama.cpp reserves on each device for one step.

The graph is built, scheduled and traced once for each pattern of placement, with a few layers in place of
a long run of alike ones and symbols in place of sizes; the trace is then played for any number of layers,
context and batch.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from kimi_nb.plan.memory_allocator import GPU_ALIGNMENT, HOST_ALIGNMENT, trace
from kimi_nb.plan.memory_graph import Batch, Layer, Weight, build_graph
from kimi_nb.plan.memory_replay import TRACED, Program, compile_trace, find_alike
from kimi_nb.plan.memory_schedule import Rules, schedule
from kimi_nb.plan.memory_symbols import CONTEXT, OUTPUTS, TOKENS_PER_STREAM, Dimensions, read

if TYPE_CHECKING:
    from collections.abc import Hashable

    from kimi_nb.plan.memory_placement import Placement
    from kimi_nb.plan.memory_weights import Entry, ModelWeights

__all__ = ["OFFLOAD_MIN_BATCH", "Step", "compute_bytes"]

OFFLOAD_MIN_BATCH = 32  # GGML_OP_OFFLOAD_MIN_BATCH
_KEPT_PROGRAMS = 256


@dataclass(frozen=True)
class Step:
    """One step and how it is run.

    Attributes:
        dimensions: Tokens for each stream, outputs, and context of each stream.
        streams: Caches side by side.
        flash_attn: Whether attention is one fused operation.
        cache_kind: ggml type of the cache.
        op_offload: Whether GPUs take over large batches on weights in host memory.
        cache_on_host: Whether the cache is kept off the GPUs.
    """

    dimensions: Dimensions
    streams: int
    flash_attn: bool
    cache_kind: str
    op_offload: bool
    cache_on_host: bool


@dataclass(frozen=True)
class _Run:
    """Layers in a row that are placed alike."""

    mark: Hashable
    first: int
    count: int

    @property
    def traced(self) -> int:
        """How many of them are traced."""
        return min(self.count, TRACED)


_programs: OrderedDict[Hashable, list[Program]] = OrderedDict()


def compute_bytes(weights: ModelWeights, placement: Placement, step: Step) -> list[int]:
    """Return the compute buffer of each GPU and, last, of the host, in bytes."""
    runs = _runs(weights, placement, step)
    programs, runs = _programs_for(weights, placement, step, runs)
    repeats = [run.count - TRACED for run in runs]
    alignments = [GPU_ALIGNMENT] * placement.n_gpus + [HOST_ALIGNMENT]
    known: dict[tuple[int, int, tuple[int, ...]], int] = {}
    found = []
    for program, alignment in zip(programs, alignments, strict=True):
        key = (program.alike, alignment, tuple(repeats[loop.run] for loop in program.loops))
        if key not in known:
            known[key] = program.peak_bytes(step.dimensions, alignment, repeats)
        found.append(known[key])
    return found


def _runs(weights: ModelWeights, placement: Placement, step: Step) -> list[_Run]:
    marks = [_mark(weights, placement, step, layer) for layer in range(len(weights.layers))]
    runs, first = [], 0
    for mark, members in groupby(marks):
        count = sum(1 for _ in members)
        runs.append(_Run(mark, first, count))
        first += count
    return runs


def _mark(weights: ModelWeights, placement: Placement, step: Step, layer: int) -> Hashable:
    """Return what makes a layer differ from others in the memory that computing it needs.

    The types of weights matter only where they are copied to another device.
    """
    host = placement.n_gpus
    device, experts_on_host = placement.layers[layer], placement.experts_on_host[layer]
    kinds = -1
    if host and step.op_offload:
        if device == host:
            kinds = weights.kinds[layer]
        elif experts_on_host:
            kinds = weights.expert_kinds[layer]
    if not placement.overrides:
        return (weights.structure[layer], device, experts_on_host, kinds)
    moved = tuple(
        (entry.role, placed, entry.kind)
        for entry in weights.layers[layer]
        if (placed := placement.overrides.get(entry.name)) is not None
    )
    return (weights.structure[layer], device, experts_on_host, kinds, moved)


def _programs_for(
    weights: ModelWeights, placement: Placement, step: Step, runs: list[_Run]
) -> tuple[list[Program], list[_Run]]:
    """Return a program for each backend, and the runs that they loop over."""
    host = placement.n_gpus
    tokens, outputs, _ = step.dimensions
    # Which batches are large enough for a GPU to take them over: tokens of all streams, of one, outputs.
    large = tuple(host > 0 and n >= OFFLOAD_MIN_BATCH for n in (tokens * step.streams, tokens, outputs))
    pipeline = host > 1 and placement.all_offloaded and not placement.overridden and not step.cache_on_host
    ends = {
        "token_embd": placement.overrides.get(weights.ends["token_embd"].name, host),
        "output_norm": placement.overrides.get(weights.ends["output_norm"].name, placement.output),
        "output": placement.overrides.get(weights.ends["output"].name, placement.output),
    }
    fixed = (
        weights,
        tuple(ends.values()),
        host,
        step.streams,
        step.flash_attn,
        step.cache_kind,
        step.op_offload,
        step.cache_on_host,
        pipeline,
        large,
    )
    key = (fixed, tuple((run.mark, run.traced) for run in runs))
    programs = _programs.get(key)
    if programs is None:
        made = _make(weights, placement, step, runs, ends, large, pipeline=pipeline)
        if made is None:  # layers that looked alike are not: look at every one
            runs = [_Run(run.mark, run.first + i, 1) for run in runs for i in range(run.count)]
            return _programs_for(weights, placement, step, runs)
        programs = _programs[key] = made
        while len(_programs) > _KEPT_PROGRAMS:
            _programs.popitem(last=False)
    else:
        _programs.move_to_end(key)
    return programs, runs


def _make(
    weights: ModelWeights,
    placement: Placement,
    step: Step,
    runs: list[_Run],
    ends: dict[str, int],
    large: tuple[bool, ...],
    *,
    pipeline: bool,
) -> list[Program] | None:
    layers: list[Layer] = []
    loops: list[tuple[int, int]] = []
    for number, run in enumerate(runs):
        if run.count > TRACED:
            loops.append((number, len(layers)))
        layers += [_layer(weights, placement, step, run.first + i) for i in range(run.traced)]
    tokens = TOKENS_PER_STREAM * step.streams
    batch = Batch(
        tokens=tokens,
        outputs=OUTPUTS,
        context=CONTEXT,
        streams=step.streams,
        flash_attn=step.flash_attn,
        cache_kind=step.cache_kind,
    )
    graph = build_graph(
        weights.shape, layers, {role: _weight(weights.ends[role], at) for role, at in ends.items()}, batch
    )
    known = dict(zip((OUTPUTS, TOKENS_PER_STREAM, tokens), reversed(large), strict=True))

    def is_large(size: int) -> bool:
        return known[size] if size in known else read(size).constant >= OFFLOAD_MIN_BATCH

    rules = Rules(placement.n_gpus, step.op_offload, pipeline, is_large)
    programs = [compile_trace(one, loops) for one in trace(schedule(graph, rules), placement.n_gpus)]
    found = [program for program in programs if program is not None]
    return find_alike(found) if len(found) == len(programs) else None


def _weight(entry: Entry, device: int) -> Weight:
    return Weight(entry.kind, entry.ne, device)


def _layer(weights: ModelWeights, placement: Placement, step: Step, layer: int) -> Layer:
    return Layer(
        tuple(
            (entry.role, _weight(entry, placement.device_of(entry, layer))) for entry in weights.layers[layer]
        ),
        placement.n_gpus if step.cache_on_host else placement.layers[layer],
    )
