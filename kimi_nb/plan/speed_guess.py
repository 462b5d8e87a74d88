"""A forecast for a machine on which nothing was measured: a wide band from bandwidths and core counts.

Formulas of this kind are wrong by factors: a processor that unpacks 1 or 2 bits a weight reaches a small
part of its memory's bandwidth, and published results on like machines differ by two and more. So every
rate here is three: what bad luck, the middle and good luck look like among the runs we know of (they stand
as data in ``tests/speed_rows.py``, with their sources). A rehearsal replaces all of this by measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kimi_nb.plan.memory_placement import place
from kimi_nb.plan.memory_verdict import rooms
from kimi_nb.plan.memory_weights import weights_of
from kimi_nb.plan.speed import Band, Forecast
from kimi_nb.plan.speed_work import Work, work_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kimi_nb.machine import Gpu, Machine
    from kimi_nb.machine.machine import Disk
    from kimi_nb.model import Model
    from kimi_nb.plan.memory_verdict import MemoryReport
    from kimi_nb.plan.memory_weights import ModelWeights
    from kimi_nb.plan.settings import Settings

__all__ = ["guess"]

Three = tuple[float, float, float]
"""Low, expected and high of a rate: tokens per second rise with it."""

_GIGA = 1e9
#: Weights that one core unpacks and multiplies in a second while writing: 1 to 3 bits by codebook, others.
_PACKED: Three = (3.5e9, 6.5e9, 10e9)
_PLAIN: Three = (4e9, 10e9, 24e9)
#: Likewise while reading a prompt, where an unpacked weight serves several tokens.
_PROMPT: Three = (5e9, 25e9, 70e9)
_WITHOUT_VECTORS = 0.3
#: Seconds that a layer costs beside reading weights: starting kernels, waiting for the other side.
_GPU_LAYER: Three = (450e-6, 220e-6, 100e-6)
_CPU_LAYER: Three = (100e-6, 40e-6, 5e-6)
_HANDOVER: Three = (200e-6, 100e-6, 20e-6)
#: The part of a GPU's peak bandwidth that decoding reaches.
_GPU_SHARE: Three = (0.35, 0.65, 0.9)
_UNKNOWN_GPU: Three = (300.0, 700.0, 1800.0)
#: Multiplications a second while reading a prompt, for each byte/s of the GPU's memory bandwidth.
_GPU_MULTIPLIES: Three = (3.0, 9.0, 27.0)
#: The part of a PCIe link's peak at which weights in host memory reach the GPU, mapped file or pinned.
_PCIE_MAPPED: Three = (0.15, 0.4, 0.9)
_PCIE_PINNED: Three = (0.4, 0.7, 0.95)
_PCIE_LANE = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.97, 5: 3.94, 6: 7.56}
#: The part of the experts that a piece of a prompt touches, against what even routing would.
_TOUCHED: Three = (1.0, 1.0, 0.3)
#: GB/s; a mapped file is read in small pieces, so that a fast disk is not used to the full.
_NVME: Three = (0.5, 2.0, 6.0)
_SPINNING: Three = (0.03, 0.1, 0.2)
_NETWORK: Three = (0.02, 0.2, 1.5)
#: Of the reads that miss by size alone, how many really do: the system keeps what is used often.
_MISSES: Three = (1.0, 1.0, 0.45)
_OFFLOAD_FROM = 32  # tokens in a step from which the GPU is lent weights of the host (ggml-cuda.cu)
_DEFAULT_UBATCH = 512
_DEFAULT_BATCH = 2048
_DESKTOP_CORES, _MIDDLE_CORES = 10, 32
_LOW, _EXPECTED, _HIGH = range(3)

_LABEL = (
    "estimated from bandwidths and core counts, so within a wide band; `kimi-nb rehearse` measures instead"
)


@dataclass(frozen=True)
class _Here:
    """What the formulas need of model, machine and settings."""

    weights: ModelWeights
    works: list[Work]
    gpus: list[Gpu]
    machine: Machine
    threads: int
    batch_threads: int
    ubatch: int
    offload: bool
    pinned: bool
    missing: float

    @property
    def host(self) -> Work:
        return self.works[-1]


def guess(model: Model, settings: Settings, machine: Machine, report: MemoryReport) -> Forecast:
    """Return a forecast from what a machine has.

    Args:
        model: The model, from its header.
        settings: How it is run.
        machine: Where.
        report: What it takes there.

    Raises:
        ModelFileError: KNB371, the model is not covered.
        UsageError: KNB370 or KNB372, a setting cannot be used or is not covered.
    """
    here = _here(model, settings, machine, report)
    decode, decode_bound = _band(here, _decode_seconds, 1)
    prefill, prefill_bound = _band(here, _prefill_seconds, here.ubatch)
    return Forecast(decode, prefill, decode_bound, prefill_bound, "estimated", _notes(here))


def _here(model: Model, settings: Settings, machine: Machine, report: MemoryReport) -> _Here:
    weights = weights_of(model)
    listed = rooms(machine)
    placement = place(weights, settings, [(room.name, room.free_mib) for room in listed])
    by_name = dict(zip([room.name for room in listed], machine.usable_gpus, strict=True))
    context = settings.ctx_size or weights.context_length
    batch = min(context, settings.batch_size or _DEFAULT_BATCH)
    cores = machine.cpu.usable_cores
    threads = min(settings.threads or cores, cores)
    host = report.host
    return _Here(
        weights=weights,
        works=work_of(weights, placement),
        gpus=[by_name[name] for name in placement.names],
        machine=machine,
        threads=threads,
        batch_threads=min(settings.threads_batch or threads, cores),
        ubatch=max(min(batch, settings.ubatch_size or _DEFAULT_UBATCH), 1),
        offload=bool(placement.names) and settings.op_offload is not False,
        pinned=settings.load_mode in {"none", "dio", "mlock", "mmap+mlock"},
        missing=host.paged_mib / host.model_mib if host.model_mib else 0.0,
    )


def _band(here: _Here, seconds: Callable[[_Here, int], dict[str, float]], tokens: int) -> tuple[Band, str]:
    """Return tokens per second and what bounds them, of the seconds that ``tokens`` take."""
    parts = [seconds(here, luck) for luck in (_LOW, _EXPECTED, _HIGH)]
    low, expected, high = (tokens / max(sum(part.values()), 1e-9) for part in parts)
    return Band(low, expected, high), max(parts[_EXPECTED], key=lambda name: parts[_EXPECTED][name])


def _decode_seconds(here: _Here, luck: int) -> dict[str, float]:
    host = here.host
    seconds = dict(zip(("cpu", "ram"), _on_host(here, luck, host.read, 1), strict=True))
    on_gpus = [work for work in here.works[:-1] if work.weights]
    seconds["gpu"] = sum(
        work.read / (_gpu_bandwidth(gpu)[luck] * _GPU_SHARE[luck]) + work.layers * _GPU_LAYER[luck]
        for work, gpu in zip(here.works, here.gpus, strict=False)
    )
    both = bool(on_gpus) and host.weights > 0
    seconds["pcie"] = _handovers(here) * _HANDOVER[luck] if both else 0.0
    seconds["disk"] = _disk_seconds(here, luck, host.read)
    return seconds


def _prefill_seconds(here: _Here, luck: int) -> dict[str, float]:
    """Return what one piece of a long prompt takes; with good luck, copying and computing overlap."""
    host, tokens = here.host, here.ubatch
    used = here.weights.shape.n_expert_used / max(here.weights.shape.n_expert, 1)
    touched = (1 - (1 - used) ** tokens) * _TOUCHED[luck]
    reads = host.rest + max(host.experts * touched, host.expert_read if tokens == 1 else 0.0)
    on_gpu = sum(
        tokens * work.weights / (_gpu_bandwidth(gpu)[luck] * _GPU_MULTIPLIES[luck])
        + work.layers * _GPU_LAYER[luck]
        for work, gpu in zip(here.works, here.gpus, strict=False)
    )
    seconds = {"cpu": 0.0, "ram": 0.0, "gpu": on_gpu, "pcie": 0.0, "disk": _disk_seconds(here, luck, reads)}
    if here.offload and tokens >= _OFFLOAD_FROM:
        share = (_PCIE_PINNED if here.pinned else _PCIE_MAPPED)[luck]
        rate = _link(here.gpus[0]) * share
        if here.machine.unified:
            rate = _gpu_bandwidth(here.gpus[0])[luck]
        seconds["pcie"] = reads / rate
        seconds["gpu"] += tokens * host.weights / (_gpu_bandwidth(here.gpus[0])[luck] * _GPU_MULTIPLIES[luck])
        if luck == _HIGH:
            shorter = min(("pcie", "gpu"), key=lambda name: seconds[name])
            seconds[shorter] = 0.0
    else:
        seconds["cpu"], seconds["ram"] = _on_host(here, luck, reads, tokens)
    return seconds


def _on_host(here: _Here, luck: int, reads: float, tokens: int) -> tuple[float, float]:
    """Return the processor's seconds as computing or as reading, whichever takes longer."""
    host = here.host
    if not host.weights:
        return 0.0, 0.0
    vectors = {"avx2", "neon", "dotprod", "asimd"} & set(here.machine.cpu.features)
    slower = 1.0 if vectors else _WITHOUT_VECTORS
    if tokens == 1:
        cores = here.threads * slower
        work = host.packed / _PACKED[luck] + host.plain / _PLAIN[luck]
    else:
        cores = here.batch_threads * slower
        work = tokens * host.weights / _PROMPT[luck]
    computing = work / cores + host.layers * _CPU_LAYER[luck]
    reading = reads / _ram_bandwidth(here.machine)[luck]
    return (computing, 0.0) if computing >= reading else (0.0, reading)


def _handovers(here: _Here) -> int:
    """Return how many layers are computed by the processor and a GPU in turn."""
    used = here.weights.shape.n_expert_used / max(here.weights.shape.n_expert, 1)
    of_one = max(here.weights.sums, key=lambda sums: sums[1])[1] * used
    return min(round(here.host.expert_read / of_one), len(here.weights.layers)) if of_one else 0


def _disk_seconds(here: _Here, luck: int, reads: float) -> float:
    if not here.missing:
        return 0.0
    return reads * here.missing * _MISSES[luck] / (_disk(here.machine.disk)[luck] * _GIGA)


def _disk(disk: Disk | None) -> Three:
    if disk is not None and disk.network:
        return _NETWORK
    return _SPINNING if disk is not None and disk.rotational else _NVME


def _ram_bandwidth(machine: Machine) -> Three:
    """Return bytes per second that a whole machine's processors can hope for, by the number of cores."""
    if machine.unified:
        low, expected, high = (bandwidth / 2 for bandwidth in _gpu_bandwidth(machine.usable_gpus[0]))
        return low, expected, high
    sockets = max(machine.cpu.sockets, 1)
    cores = machine.cpu.physical_cores / sockets
    low, expected, high = (
        (25.0, 45.0, 90.0)
        if cores <= _DESKTOP_CORES
        else (35.0, 90.0, 400.0)
        if cores <= _MIDDLE_CORES
        else (100.0, 200.0, 420.0)
    )
    # llama.cpp does not place weights by memory node, so a second socket may bring nothing.
    return low * _GIGA, expected * _GIGA * (1 + 0.5 * (sockets - 1)), high * _GIGA * sockets


def _gpu_bandwidth(gpu: Gpu) -> Three:
    """Return a GPU's peak memory bandwidth in bytes per second."""
    if gpu.memory_bandwidth_gb_s is None:
        low, expected, high = _UNKNOWN_GPU
        return low * _GIGA, expected * _GIGA, high * _GIGA
    peak = gpu.memory_bandwidth_gb_s * _GIGA
    return peak, peak, peak


def _link(gpu: Gpu) -> float:
    """Return a GPU's PCIe link in bytes per second; where it is not known, that of a usual desktop."""
    generation = gpu.pcie_generation_max or gpu.pcie_generation or 4
    width = gpu.pcie_width_max or gpu.pcie_width or 16
    return _PCIE_LANE.get(generation, _PCIE_LANE[4]) * width * _GIGA


def _notes(here: _Here) -> tuple[str, ...]:
    notes = [_LABEL]
    if here.missing:
        notes.append(
            f"{100 * here.missing:.0f} % of the weights in main memory find no room there and are read from"
            " disk again and again"
        )
    if here.gpus and any(gpu.memory_bandwidth_gb_s is None for gpu in here.gpus):
        notes.append("the GPU's memory bandwidth is not known")
    return tuple(notes)
