"""Whether a model fits a machine, and by how many MiB it does not.

Beside what llama.cpp counts (:mod:`kimi_nb.plan.memory`) stands what it leaves out: the CUDA context of
each GPU and what kernels borrow there, the server's prompt cache, the vision part, and which of the weights
in host memory are the system's to throw out and read again (mapped files) and which are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kimi_nb.plan.memory import MIB, GpuRoom, demands, step_of
from kimi_nb.plan.memory_placement import place
from kimi_nb.plan.memory_pool import pool_bytes
from kimi_nb.plan.memory_weights import weights_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.plan.memory import Demand
    from kimi_nb.plan.memory_placement import Placement
    from kimi_nb.plan.memory_weights import Entry, ModelWeights
    from kimi_nb.plan.settings import Settings

__all__ = ["Extras", "GpuMemory", "HostMemory", "MemoryReport", "memory_report", "rooms"]

_PROMPT_CACHE_MIB = 8192  # --cache-ram


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What llama.cpp does not count, beside what CUDA's kernels borrow (:mod:`kimi_nb.plan.memory_pool`).

    Attributes:
        cuda_context_mib: For each GPU in use. An assumption: others report 400 to 700, by driver and GPU.
        mmproj_mib: The vision part, on the first GPU unless ``mmproj_offload`` is off.
    """

    cuda_context_mib: float = 700.0
    mmproj_mib: float = 0.0


@dataclass(frozen=True, kw_only=True)
class GpuMemory:
    """One GPU's share in MiB; model, context and compute are rounded down as llama.cpp prints them.

    Attributes:
        name: ``GPU0`` and so on, whatever the backend.
        llama_cpp_name: llama.cpp's own name for it, such as ``CUDA0``.
        total_mib: Its memory.
        free_mib: What of it can be had now.
        model_mib: Weights.
        context_mib: Cache of keys and values.
        compute_mib: Compute buffers.
        extra_mib: What llama.cpp does not count: :class:`Extras`, and what kernels borrow.
        needed_mib: All of that, not rounded.
    """

    name: str
    llama_cpp_name: str
    total_mib: float
    free_mib: float
    model_mib: int
    context_mib: int
    compute_mib: int
    extra_mib: float
    needed_mib: float

    @property
    def short_mib(self) -> float:
        """How much is missing; 0 where it fits."""
        return max(self.needed_mib - self.free_mib, 0.0)


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """The host's share, in MiB.

    Attributes:
        total_mib: What this process can ever have.
        available_mib: What of it can be had now.
        model_mib: Weights in host memory.
        context_mib: Cache of keys and values in host memory.
        compute_mib: Compute buffers in host memory.
        evictable_mib: Weights that are pages of a file: the system may drop and read them again.
        prompt_cache_mib: What the server keeps of finished prompts, at most; None without a limit.
        extra_mib: The vision part, where it is in host memory.
        needed_mib: What must be there: everything but the evictable weights.
    """

    total_mib: float
    available_mib: float
    model_mib: int
    context_mib: int
    compute_mib: int
    evictable_mib: int
    prompt_cache_mib: float | None
    extra_mib: float
    needed_mib: float

    @property
    def short_mib(self) -> float:
        """How much is missing; 0 where it fits."""
        return max(self.needed_mib - self.available_mib, 0.0)

    @property
    def paged_mib(self) -> float:
        """How much of the evictable weights finds no room and is read from disk again and again."""
        room = max(self.available_mib - self.needed_mib, 0.0)
        return max(self.evictable_mib - room, 0.0)


@dataclass(frozen=True, kw_only=True)
class MemoryReport:
    """What each device must hold, and the verdict.

    Attributes:
        gpus: The GPUs in use.
        host: The host.
        exact: Whether the figures are llama.cpp's to the MiB; on GPUs other than CUDA's they are near.
    """

    gpus: tuple[GpuMemory, ...]
    host: HostMemory
    exact: bool

    @property
    def fits(self) -> bool:
        """Whether it will run, though perhaps with weights read from disk again and again."""
        return not self.short_mib

    @property
    def short_mib(self) -> dict[str, int]:
        """What is missing where, rounded up; empty where it fits."""
        short = {gpu.name: gpu.short_mib for gpu in self.gpus} | {"Host": self.host.short_mib}
        return {name: -int(-mib // 1) for name, mib in short.items() if mib > 0}

    def as_dict(self) -> dict[str, Any]:
        """Return the report as ``--json`` prints it."""
        return {
            "devices": [
                {
                    "name": gpu.name,
                    "llama_cpp_name": gpu.llama_cpp_name,
                    "total_mib": gpu.total_mib,
                    "model_mib": gpu.model_mib,
                    "context_mib": gpu.context_mib,
                    "compute_mib": gpu.compute_mib,
                    "extra_mib": gpu.extra_mib,
                    "free_mib": gpu.free_mib,
                    "needed_mib": round(gpu.needed_mib, 1),
                }
                for gpu in self.gpus
            ],
            "host": {
                "total_mib": self.host.total_mib,
                "model_mib": self.host.model_mib,
                "context_mib": self.host.context_mib,
                "compute_mib": self.host.compute_mib,
                "evictable_mib": self.host.evictable_mib,
                "prompt_cache_mib": self.host.prompt_cache_mib,
                "extra_mib": self.host.extra_mib,
                "available_mib": self.host.available_mib,
                "needed_mib": round(self.host.needed_mib, 1),
            },
            "fits": self.fits,
            "short_mib": self.short_mib,
        }


def rooms(machine: Machine) -> list[GpuRoom]:
    """Return a machine's GPUs under llama.cpp's names."""
    letters = {"cuda": "CUDA", "metal": "MTL"}
    return [
        GpuRoom(f"{letters[gpu.kind]}{number}", gpu.total_mib, gpu.free_mib)
        for number, gpu in enumerate(machine.usable_gpus)
    ]


def memory_report(
    model: Model,
    settings: Settings,
    machine: Machine,
    *,
    extras: Extras | None = None,
    outputs: int | None = None,
) -> MemoryReport:
    """Return what a model needs on a machine, and whether it fits.

    Args:
        model: The model, from its header.
        settings: How it is run.
        machine: Where.
        extras: What llama.cpp does not count.
        outputs: As for :func:`kimi_nb.plan.memory.demands`.

    Raises:
        ModelFileError: KNB371, the model is not covered.
        UsageError: KNB370 or KNB372, a setting cannot be used or is not covered.
    """
    extras = extras or Extras()
    gpus = rooms(machine)
    placement = place(weights_of(model), settings, [(gpu.name, gpu.free_mib) for gpu in gpus])
    *on_gpus, on_host = demands(model, settings, gpus, outputs=outputs)
    vision_on_gpu = bool(on_gpus) and settings.mmproj_offload is not False
    by_name = {gpu.name: (number, gpu) for number, gpu in enumerate(gpus)}
    parts = tuple(
        _gpu_memory(
            demand,
            *by_name[demand.name],
            extras.cuda_context_mib + pool / MIB + (extras.mmproj_mib if first and vision_on_gpu else 0),
        )
        for first, demand, pool in zip(
            [True, *[False] * len(on_gpus)],
            on_gpus,
            _pools(model, settings, machine, placement),
            strict=False,
        )
    )
    shared = sum(part.needed_mib for part in parts) if machine.unified else 0.0
    host = _host_memory(
        on_host,
        machine,
        evictable=_evictable(model, settings, machine, placement, on_host),
        prompt_cache=_prompt_cache(settings),
        extra=0.0 if vision_on_gpu else extras.mmproj_mib,
        shared=shared,
    )
    return MemoryReport(gpus=parts, host=host, exact=all(gpu.kind == "cuda" for gpu in machine.usable_gpus))


def _pools(model: Model, settings: Settings, machine: Machine, placement: Placement) -> list[int]:
    """Return what kernels borrow on each GPU in use, in bytes; nothing is known of other GPUs than CUDA's."""
    weights = weights_of(model)
    known = dict(zip([gpu.name for gpu in rooms(machine)], machine.usable_gpus, strict=True))
    used = [known[name] for name in placement.names]
    if any(gpu.kind != "cuda" for gpu in used):
        return [0] * len(used)
    return pool_bytes(
        weights,
        placement,
        step_of(weights, placement, settings),
        [float(gpu.compute_capability) if gpu.compute_capability else None for gpu in used],
    )


def _gpu_memory(demand: Demand, number: int, room: GpuRoom, extra: float) -> GpuMemory:
    return GpuMemory(
        name=f"GPU{number}",
        llama_cpp_name=demand.name,
        total_mib=room.total_mib,
        free_mib=room.free_mib,
        model_mib=demand.model_mib,
        context_mib=demand.context_mib,
        compute_mib=demand.compute_mib,
        extra_mib=extra,
        needed_mib=demand.total / MIB + extra,
    )


def _host_memory(
    demand: Demand,
    machine: Machine,
    *,
    evictable: int,
    prompt_cache: float | None,
    extra: float,
    shared: float,
) -> HostMemory:
    return HostMemory(
        total_mib=machine.memory.total_mib,
        available_mib=machine.memory.available_mib,
        model_mib=demand.model_mib,
        context_mib=demand.context_mib,
        compute_mib=demand.compute_mib,
        evictable_mib=evictable // MIB,
        prompt_cache_mib=prompt_cache,
        extra_mib=extra,
        needed_mib=(demand.total - evictable) / MIB + (prompt_cache or 0.0) + extra + shared,
    )


def _prompt_cache(settings: Settings) -> float | None:
    if settings.cache_ram is None:
        return float(_PROMPT_CACHE_MIB)
    return None if settings.cache_ram < 0 else float(settings.cache_ram)


def _evictable(model: Model, settings: Settings, machine: Machine, placement: Placement, host: Demand) -> int:
    """Return the bytes of host weights that stay pages of the file."""
    if settings.load_mode not in {None, "auto", "mmap"}:
        return 0
    weights = weights_of(model)
    # With a GPU, weights on the host stay mapped; only without one are they repacked.
    if settings.repack is False or (placement.n_gpus and not settings.no_host):
        return host.model
    features = frozenset(machine.cpu.features)
    copied = (
        entry.on_host
        for layer, entries in enumerate(_repacked(weights, features))
        for entry in entries
        if placement.device_of(entry, layer) == placement.n_gpus
    )
    output = weights.ends["output"]
    more = output.on_host if placement.output == placement.n_gpus and _is_repacked(output, features) else 0
    return max(host.model - sum(copied) - more, 0)


@lru_cache(maxsize=16)
def _repacked(weights: ModelWeights, features: frozenset[str]) -> tuple[tuple[Entry, ...], ...]:
    """Return each layer's weights that are copied if they are on the host."""
    return tuple(
        tuple(entry for entry in entries if _is_repacked(entry, features)) for entries in weights.layers
    )


def _is_repacked(entry: Entry, features: Iterable[str]) -> bool:
    """Whether llama.cpp copies a weight into an order that suits the processor (``ggml-cpu/repack.cpp``)."""
    if len(entry.ne) != (3 if entry.is_expert else 2):
        return False
    has = set(features)
    if "avx2" in has:
        kinds = {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"} | ({"Q2_K"} if "avx512f" in has else set())
        return entry.kind in kinds and entry.ne[1] % 8 == 0
    if "dotprod" in has:
        by_four = {"Q4_0", "IQ4_NL", "MXFP4", "Q8_0", "Q1_0"}
        by_eight = {"Q4_K", "Q5_K", "Q6_K"}
        return (entry.kind in by_four and entry.ne[1] % 4 == 0) or (
            entry.kind in by_eight and entry.ne[1] % 8 == 0
        )
    return False
