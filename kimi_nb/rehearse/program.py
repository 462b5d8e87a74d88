"""What a rehearsal measures, in which order: the most telling first, for the time may run out."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.plan.settings import Settings
from kimi_nb.rehearse.bench import BenchTests
from kimi_nb.rehearse.slices import Slice, moe_layers, slice_bytes

if TYPE_CHECKING:
    from kimi_nb.machine import Machine
    from kimi_nb.model import Model

__all__ = ["Slices", "Stage", "choose_slices", "stages"]

_MIB = 1 << 20
_EXPERTS_MIB = 512
_CACHES = 4
_UNKNOWN_CACHE_MIB = 64
_MEMORY_SHARE = 0.4
_DISK_SHARE = 0.8
_IN_MEMORY = 0.9
_MOE_LAYERS = 3
_DENSE_LAYERS = 3
_SMALL_VOCAB, _LARGE_VOCAB = 1 / 16, 2 / 5
_USUAL_UBATCH = 512
_OTHER_UBATCHES = (128, 2048)
_DEPTH, _GPU_DEPTH = 1024, 8192
_LEAST_PROMPT = 32
_NEEDED, _LAST = 2.0, 1.2
_SETTLING = 6


@dataclass(frozen=True)
class Slices:
    """The slices of a model.

    Attributes:
        moe: With layers of experts.
        bare: One dense layer.
        dense: Several dense layers.
        head: One dense layer and a larger vocabulary.
        expert_share: The part of the model's experts that ``moe`` has.
        holes: Whether experts are holes, for want of disk.
    """

    moe: Slice
    bare: Slice
    dense: Slice
    head: Slice
    expert_share: float
    holes: bool


@dataclass(frozen=True)
class Stage:
    """One call of llama-bench.

    Attributes:
        about: For the progress line.
        part: The slice.
        settings: How it runs.
        tests: What is measured.
        patience: When it must end, in times the budget: longer where there is no profile without it.
        settles: Whether samples must be of a second each, for what is measured takes seconds to settle.
    """

    about: str
    part: Slice
    settings: Settings
    tests: BenchTests
    patience: float = 1.0
    settles: bool = False


def choose_slices(
    model: Model,
    machine: Machine,
    *,
    disk_mib: float,
    cache_mib: float | None = None,
    max_mib: float | None = None,
) -> Slices:
    """Return slices that tell the parts of a model apart and find room here.

    A layer's experts must be far more than the last-level cache holds, or they would be read from there.

    Args:
        model: The model, from its header.
        machine: Where they run.
        disk_mib: What may be written.
        cache_mib: The last-level cache; that of this machine if not given.
        max_mib: The largest slice; by the machine's free memory if not given.

    Raises:
        UsageError: The model cannot be cut into slices (KNB843).
    """
    room = max_mib or _MEMORY_SHARE * machine.memory.available_mib
    if machine.usable_gpus and not machine.unified:
        room = min(room, 0.8 * min(gpu.free_mib for gpu in machine.usable_gpus))
    cache = _last_level_cache_mib() if cache_mib is None else cache_mib
    small, large = (max(round(model.vocab_size * part), 64) for part in (_SMALL_VOCAB, _LARGE_VOCAB))
    bare = Slice(n_dense=1, n_moe=0, n_expert=model.expert_count, n_vocab=small)
    one = Slice(n_dense=1, n_moe=1, n_expert=model.expert_count, n_vocab=small)
    groups = max(model.integer("expert_group_count", 1), 1)
    layer_mib = (slice_bytes(model, one) - slice_bytes(model, bare)) / _MIB / max(model.expert_count, 1)
    wanted = max(_EXPERTS_MIB, _CACHES * cache) / max(layer_mib, 1e-6)
    n_expert = min(model.expert_count, max(_whole(wanted, groups), 4 * model.expert_used_count))
    layers = min(_MOE_LAYERS, len(moe_layers(model)))
    moe = Slice(n_dense=1, n_moe=layers, n_expert=n_expert, n_vocab=small)
    while slice_bytes(model, moe) / _MIB > room and (moe.n_moe > 2 or moe.n_expert > 2 * moe_used(model)):  # noqa: PLR2004
        fewer = max(_whole(moe.n_expert / 2, groups), 2 * moe_used(model))
        moe = (
            Slice(n_dense=1, n_moe=2, n_expert=moe.n_expert, n_vocab=small)
            if moe.n_moe > 2  # noqa: PLR2004 - of two, one is computed in full while a prompt is read
            else Slice(n_dense=1, n_moe=2, n_expert=fewer, n_vocab=small)
        )
    return Slices(
        moe=moe,
        bare=bare,
        dense=Slice(n_dense=_DENSE_LAYERS, n_moe=0, n_expert=model.expert_count, n_vocab=small),
        head=Slice(n_dense=1, n_moe=0, n_expert=model.expert_count, n_vocab=large),
        expert_share=moe.n_expert / max(model.expert_count, 1),
        holes=slice_bytes(model, moe) / _MIB > _DISK_SHARE * disk_mib,
    )


def moe_used(model: Model) -> int:
    """Return how many experts a token uses, at least 1."""
    return max(model.expert_used_count, 1)


def stages(model: Model, machine: Machine, slices: Slices) -> list[Stage]:
    """Return what is measured, the most telling first."""
    cores = machine.cpu.usable_cores
    counts = (cores,) if cores == 1 else (cores, max(cores // 2, 1))
    gpu = bool(machine.usable_gpus)
    in_memory = model.data_bytes / _MIB < machine.gpu_mib + _IN_MEMORY * machine.memory.available_mib
    # A GPU fetches weights faster from memory of our own than from a mapped file, if they fit there.
    common: dict[str, object] = {"load_mode": "none"} if slices.holes or (gpu and in_memory) else {}
    if model.data_bytes / _MIB > machine.memory.total_mib:
        common["repack"] = False  # a copy of all weights finds no room, so the whole will run without
    ways = _ways(common, gpu=gpu)
    found: list[Stage] = []
    for about, settings in ways:
        found += _writing(about, slices, settings, cores, patience=_NEEDED, bare=settings is ways[0][1])
    for about, settings in ways[:1] if not gpu else [*ways, *_reading_ways(common)]:
        found += _reading(about, slices, settings, cores, _USUAL_UBATCH, bare=settings is ways[0][1])
    for threads in counts[1:]:
        found += _writing(ways[-1][0], slices, ways[-1][1], threads, bare=not gpu)
    found += _written_again(ways[-1], slices, counts[:1], "once more")
    found += _deep(slices, ways[0][1], cores)
    for ubatch in _OTHER_UBATCHES:
        for about, settings in ways[:1] if not gpu else [*ways[:1], *_reading_ways(common)]:
            found += _reading(about, slices, settings, cores, ubatch, bare=settings is ways[0][1])
    if not gpu:
        for threads in counts[1:]:
            found += _reading(ways[0][0], slices, ways[0][1], threads, _USUAL_UBATCH, bare=True)
    # As far from the others as can be: what else the machine does changes from minute to minute.
    return found + _written_again(ways[-1], slices, counts, "again")


def _ways(common: dict[str, object], *, gpu: bool) -> list[tuple[str, Settings]]:
    if not gpu:
        return [("on the processor", Settings.from_dict({**common, "n_gpu_layers": 0}))]
    whole = Settings.from_dict({**common, "n_gpu_layers": 999})
    split = whole.replace(cpu_moe=True, op_offload=False)
    return [("on the GPU", whole), ("with experts on the processor", split)]


def _reading_ways(common: dict[str, object]) -> list[tuple[str, Settings]]:
    return [
        (
            "with experts sent to the GPU",
            Settings.from_dict({**common, "n_gpu_layers": 999, "cpu_moe": True, "op_offload": True}),
        )
    ]


def _writing(
    about: str, slices: Slices, settings: Settings, threads: int, *, patience: float = 1.0, bare: bool
) -> list[Stage]:
    tests = BenchTests(threads=(threads,), writes=(8,), repetitions=5)
    told = f"writing {about}, {threads} threads"
    found = [Stage(told, slices.moe, settings, tests, patience)]
    return found + [
        Stage(told, part, settings, tests) for part in (slices.bare, slices.head, slices.dense) if bare
    ]


def _written_again(
    way: tuple[str, Settings], slices: Slices, counts: tuple[int, ...], time: str
) -> list[Stage]:
    """Write again, beside a GPU, with a program of its own.

    Programs started apart differ more than one does in itself: on virtual machines with an H200 the samples
    of one lay within 2 %, and what followed from them was up to 9 % off. With half of the threads, where two
    may share a core or not, a program takes time to settle: one began with 7.9 ms a layer and ended, ten
    seconds later, with 5.7.
    """
    about, settings = way
    if settings.n_gpu_layers == 0:
        return []
    found = []
    for threads in counts:
        for stage in _writing(about, slices, settings, threads, patience=_LAST, bare=False):
            again = replace(stage, about=f"{stage.about}, {time}")
            if threads != counts[0]:
                again = replace(again, tests=replace(again.tests, repetitions=_SETTLING), settles=True)
            found.append(again)
    return found


def _reading(
    about: str, slices: Slices, settings: Settings, threads: int, ubatch: int, *, bare: bool
) -> list[Stage]:
    """Read prompts of one step: so long that each of a slice's experts has as many tokens as in the model."""
    short = max(round(ubatch * slices.expert_share), _LEAST_PROMPT)
    at = settings.replace(batch_size=max(ubatch, short), ubatch_size=max(ubatch, short))
    times = 5 if settings.n_gpu_layers != 0 and settings.op_offload is not False else 3
    once = BenchTests(threads=(threads,), prompts=(short,), repetitions=times)
    # On a processor, dense layers take their time in proportion to the tokens: the short step tells enough.
    lengths = (short,) if settings.n_gpu_layers == 0 else tuple(dict.fromkeys((short, ubatch)))
    both = BenchTests(threads=(threads,), prompts=lengths, repetitions=times)
    more = [(slices.bare, both), (slices.dense, both)] if bare else []
    return [
        Stage(f"reading {about}, {tests.prompts[-1]} tokens", part, at, tests)
        for part, tests in [(slices.moe, once), *more]
    ]


def _deep(slices: Slices, settings: Settings, threads: int) -> list[Stage]:
    """Read and write with a filled cache; a GPU does so fast that only long steps tell it from noise."""
    gpu = settings.n_gpu_layers != 0
    prompts, depth, times = ((_USUAL_UBATCH,), _GPU_DEPTH, 5) if gpu else ((_LEAST_PROMPT,), _DEPTH, 3)
    tests = BenchTests(threads=(threads,), writes=(8,), prompts=prompts, depth=depth, repetitions=times)
    flat = BenchTests(threads=(threads,), prompts=prompts, repetitions=times)
    packed = settings.replace(cache_type_k="q8_0", cache_type_v="q8_0", flash_attn="on")
    return [
        Stage("with a filled cache", slices.dense, settings, tests),
        *([] if gpu else [Stage("the same without", slices.dense, settings, flat)]),
        Stage("with a filled q8_0 cache", slices.dense, packed, tests),
    ]


def _whole(number: float, groups: int) -> int:
    """Return a number of experts that the groups divide."""
    return max(-(-int(number) // groups) * groups, groups)


def _last_level_cache_mib() -> float:
    """Return the size of the processor's largest cache; a large one where the system does not say."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip() if os.access(path, os.R_OK) else ""
        if text[-1:] == "K" and text[:-1].isdigit():
            sizes.append(int(text[:-1]) / 1024)
    return max(sizes, default=_UNKNOWN_CACHE_MIB)
