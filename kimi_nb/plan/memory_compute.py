"""Compute buffers: what llama.cpp reserves on each device for one step.

The graph is built, scheduled and traced once for each pattern of placement, with a few layers in place of
a long run of alike ones and symbols in place of sizes; the trace is then played for any number of layers,
context and batch, and any types of weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from kimi_nb.plan.memory_allocator import GPU_ALIGNMENT, HOST_ALIGNMENT, gpu_bytes, trace
from kimi_nb.plan.memory_graph import Batch, Layer, Weight, build_graph
from kimi_nb.plan.memory_pattern import pattern_of
from kimi_nb.plan.memory_replay import TRACED, Peak, Program, compile_trace, share_traces
from kimi_nb.plan.memory_schedule import Rules, flash_attention_fits, schedule
from kimi_nb.plan.memory_symbols import CONTEXT, OUTPUTS, TOKENS_PER_STREAM, Dimensions, read
from kimi_nb.plan.memory_tensors import row_bytes
from kimi_nb.plan.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from kimi_nb.plan.memory_pattern import Pattern, Run
    from kimi_nb.plan.memory_placement import Placement
    from kimi_nb.plan.memory_weights import Entry, ModelWeights

__all__ = ["OFFLOAD_MIN_BATCH", "Step", "compute_bytes"]

OFFLOAD_MIN_BATCH = 32  # GGML_OP_OFFLOAD_MIN_BATCH


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


#: For each pattern its programs; None where layers that looked alike are not.
_programs: Recent[list[Program] | None] = Recent(256)
#: For each program and sizes what came of it, for other numbers of layers.
_peaks: Recent[list[Peak]] = Recent(1024)


def compute_bytes(weights: ModelWeights, placement: Placement, step: Step) -> list[int]:
    """Return the compute buffer of each GPU and, last, of the host, in bytes."""
    shape = weights.shape
    attention_on_host = step.cache_on_host or (
        step.flash_attn
        and not flash_attention_fits(weights.cache_width, shape.n_lora_kv, shape.n_head, step.cache_kind)
    )
    pipeline = (
        placement.n_gpus > 1
        and placement.all_offloaded
        and not placement.overridden
        and not step.cache_on_host
    )
    pattern = pattern_of(weights, placement, every_gpu=attention_on_host)
    programs = None
    # With pipelining, what the host hands to GPUs has its places from the start on, for every layer others.
    if not (pipeline and (attention_on_host or placement.overrides)):
        programs = _programs_for(weights, pattern, step, pipeline=pipeline)
    if programs is None:  # no layer stands for another
        pattern = pattern_of(weights, placement, every_gpu=True).one_by_one()
        programs = _programs_for(weights, pattern, step, pipeline=pipeline) or []
    return [
        _peak_bytes(programs[number], weights, runs, step.dimensions, on_host=number == pattern.n_gpus)
        for number, runs in pattern.backends
    ]


def _peak_bytes(
    program: Program, weights: ModelWeights, runs: Sequence[Run], at: Dimensions, *, on_host: bool
) -> int:
    """Play a program, if what comes of it is not known."""
    # Of a long run the third layer is played again and again, from the second on; the last two are traced.
    runs_looped = (runs[loop.run] for loop in program.loops)
    loops = [range(run.first + 1, run.first + run.count - (TRACED - 3)) for run in runs_looped]
    counts = [len(layers) for layers in loops]
    traced: list[int] = []
    key: Hashable = (program.trace, at, on_host)
    if program.trace.copies:  # of weights, whose types matter
        traced = [layer for run in runs for layer in _traced(run)]
        first, *others = ([weights.kinds[layer] for layer in layers] for layers in (traced, *loops))
        key = (
            key,
            weights,
            tuple(first),
            tuple(tuple(one) if len(set(one)) > 1 else one[0] for one in others),
        )
    known = _peaks.get(key, list)
    for peak in known:
        if peak.holds_for(counts):
            return peak.n_bytes
    alignment = HOST_ALIGNMENT if on_host else GPU_ALIGNMENT
    if program.trace.copies:
        sizes = _copies(weights)[on_host]
        sizes_traced = [*(sizes[layer] for layer in traced), sizes[-1]]
        peak = program.peak(
            at, alignment, sizes_traced, [[sizes[layer] for layer in layers] for layers in loops]
        )
    else:
        peak = program.peak(at, alignment, (), [[{}] * n for n in counts])
    known.append(peak)
    return peak.n_bytes


def _traced(run: Run) -> list[int]:
    """Return which layers stand for a run: of a long one the first three and the last two."""
    first = min(run.traced, 3)
    last = run.traced - first
    end = run.first + run.count
    return [*range(run.first, run.first + first), *range(end - last, end)]


@lru_cache(maxsize=16)
def _copies(weights: ModelWeights) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
    """Return what a copy of each weight takes on a GPU and on the host: by layer, and last the others."""
    known: dict[Hashable, tuple[dict[str, int], dict[str, int]]] = {}
    for kinds, form, layer in zip(weights.kinds, weights.forms, weights.layers, strict=True):
        if (kinds, form) not in known:
            known[kinds, form] = _sizes({entry.role: entry for entry in layer})
    listed = [known[key] for key in zip(weights.kinds, weights.forms, strict=True)]
    listed.append(_sizes(weights.ends))
    return [on_gpu for on_gpu, _ in listed], [on_host for _, on_host in listed]


def _sizes(entries: Mapping[str, Entry]) -> tuple[dict[str, int], dict[str, int]]:
    on_gpu, on_host = {}, {}
    for role, entry in entries.items():
        n_bytes = row_bytes(entry.kind, entry.ne[0])
        for n in entry.ne[1:]:
            n_bytes *= n
        on_gpu[role] = _padded(gpu_bytes(entry.kind, entry.ne[0], n_bytes), GPU_ALIGNMENT)
        on_host[role] = _padded(n_bytes, HOST_ALIGNMENT)
    return on_gpu, on_host


def _padded(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


def _programs_for(
    weights: ModelWeights, pattern: Pattern, step: Step, *, pipeline: bool
) -> list[Program] | None:
    """Return a program for each backend that is traced."""
    host = pattern.n_gpus
    tokens, outputs, _ = step.dimensions
    # Which batches are large enough for a GPU to take them over: tokens of all streams, of one, outputs.
    large = tuple(host > 0 and n >= OFFLOAD_MIN_BATCH for n in (tokens * step.streams, tokens, outputs))
    key = (
        weights.shape,
        tuple((weights.ends[role].ne, weights.ends[role].gpu_can, at) for role, at in pattern.ends.items()),
        tuple((run.mark, run.traced) for run in pattern.runs),
        host,
        step.streams,
        step.flash_attn,
        step.cache_kind,
        step.op_offload,
        step.cache_on_host,
        pipeline,
        large,
    )
    return _programs.get(key, lambda: _make(weights, pattern, step, large, pipeline=pipeline))


def _make(
    weights: ModelWeights, pattern: Pattern, step: Step, large: tuple[bool, ...], *, pipeline: bool
) -> list[Program] | None:
    layers: list[Layer] = []
    loops: list[tuple[int, int]] = []
    for number, run in enumerate(pattern.runs):
        if run.count > TRACED:
            loops.append((number, len(layers)))
        layers += [_layer(weights, pattern, step, run, len(layers) + i) for i in range(run.traced)]
    tokens = TOKENS_PER_STREAM * step.streams
    batch = Batch(
        tokens=tokens,
        outputs=OUTPUTS,
        context=CONTEXT,
        streams=step.streams,
        flash_attn=step.flash_attn,
        cache_kind=step.cache_kind,
    )
    ends = {role: _weight(weights.ends[role], at, (len(layers), role)) for role, at in pattern.ends.items()}
    graph = build_graph(weights.shape, layers, ends, batch)
    known = dict(zip((OUTPUTS, TOKENS_PER_STREAM, tokens), reversed(large), strict=True))

    def is_large(size: int) -> bool:
        return known[size] if size in known else read(size).constant >= OFFLOAD_MIN_BATCH

    rules = Rules(pattern.n_gpus, step.op_offload, pipeline, is_large)
    programs = [compile_trace(one, loops) for one in trace(schedule(graph, rules), pattern.n_gpus)]
    found = [program for program in programs if program is not None]
    return share_traces(found) if len(found) == len(programs) else None


def _weight(entry: Entry, device: int, tag: tuple[int, str]) -> Weight:
    return Weight(entry.kind, entry.ne, device, tag)


def _layer(weights: ModelWeights, pattern: Pattern, step: Step, run: Run, number: int) -> Layer:
    host, mark = pattern.n_gpus, run.mark
    return Layer(
        tuple(
            (
                entry.role,
                _weight(
                    entry, mark.at(entry.role, is_expert=entry.is_expert, host=host), (number, entry.role)
                ),
            )
            for entry in weights.layers[run.first]
        ),
        host if step.cache_on_host else mark.device,
    )
