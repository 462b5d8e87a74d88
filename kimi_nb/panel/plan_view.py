"""What the plan panel shows for what was chosen: figures and texts, without any widget."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_nb.engine.server_command import command
from kimi_nb.panel import nodes as n
from kimi_nb.panel.words import and_so, gib, tokens
from kimi_nb.plan import Settings, forecast, memory_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.panel.nodes import Node, Tone
    from kimi_nb.plan import Forecast, MemoryReport
    from kimi_nb.plan.profile import Profile
    from kimi_nb.rehearse import Verified

__all__ = [
    "KNOBS",
    "Computed",
    "Subject",
    "bars",
    "command_text",
    "compute",
    "knobs",
    "knobs_of",
    "possible",
    "settings_of",
    "speed",
    "verdict",
    "verified",
    "whole",
]

_MIB = 1024 * 1024
_BATCH = 2048  # llama.cpp's own batch size
_CONTEXTS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 384, 512, 768, 1024, 2048, 4096)
_UBATCHES = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_SLOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_PROMPT_CACHES = (0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_KV_TYPES = {
    "f16": "f16: full, 16 bits",
    "bf16": "bf16: full, 16 bits",
    "q8_0": "q8_0: about half",
    "q5_1": "q5_1",
    "q5_0": "q5_0",
    "q4_1": "q4_1",
    "q4_0": "q4_0: about a quarter",
    "iq4_nl": "iq4_nl: about a quarter",
}
_BOUND = {
    "cpu": "the processor",
    "ram": "main memory's bandwidth",
    "pcie": "the link to the GPU",
    "gpu": "the GPU",
    "disk": "reading weights from disk",
}

KNOBS = (
    "ctx_size",
    "experts_on_gpu",
    "gpu_layers",
    "kv_type",
    "ubatch",
    "threads",
    "parallel",
    "prompt_cache",
)
"""The names of the choices that become settings."""


@dataclass(frozen=True)
class Subject:
    """What is planned: a model's header, and where its first file lies or would lie."""

    model: Model
    path: Path
    alias: str

    @property
    def expert_layers(self) -> int:
        """How many layers have experts to place."""
        model = self.model
        return max(model.block_count - model.nextn_predict_layers - model.leading_dense_block_count, 0)

    @property
    def layers(self) -> int:
        """What ``--n-gpu-layers`` counts: every layer, and the output."""
        return self.model.block_count - self.model.nextn_predict_layers + 1


@dataclass(frozen=True)
class Computed:
    """The figures for one choice."""

    settings: Settings
    report: MemoryReport
    forecast: Forecast | None
    staging_mib: tuple[int, ...]
    """Of each GPU's compute buffers, what holds experts that the GPU borrows while it reads a prompt."""


def whole(value: Any, low: int, high: int, otherwise: int) -> int:
    """Return a whole number within bounds, whatever was chosen."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - NaN
        return otherwise
    return int(min(max(value, low), high))


def possible(chosen: Mapping[str, Any], subject: Subject, machine: Machine) -> dict[str, Any]:
    """Return the choices with every knob within its bounds, and with a usual value where there is none.

    To begin with the context is a usual one, and experts are in host memory.
    """
    slots = whole(chosen["parallel"], 1, 256, 1)
    knobs = {
        "ctx_size": whole(chosen["ctx_size"], 1, 2**24, min(32768, subject.model.context_length)),
        "experts_on_gpu": whole(chosen["experts_on_gpu"], 0, subject.expert_layers, 0),
        "gpu_layers": whole(chosen["gpu_layers"], 0, subject.layers, subject.layers),
        "kv_type": chosen["kv_type"] if chosen["kv_type"] in _KV_TYPES else "f16",
        "ubatch": whole(chosen["ubatch"], 1, 65536, 512),
        "threads": whole(chosen["threads"], 1, 512, machine.cpu.usable_cores),
        "parallel": slots,
        "prompt_cache": whole(chosen["prompt_cache"], 0, 2**20, 8192),
    }
    return {**chosen, **knobs}


def settings_of(chosen: Mapping[str, Any], subject: Subject, machine: Machine) -> Settings:
    """Return the settings that the choices stand for.

    Raises:
        UsageError: A choice cannot be used, or two exclude each other.
    """
    on_gpu: dict[str, Any] = {}
    if machine.usable_gpus:
        on_gpu["n_gpu_layers"] = chosen["gpu_layers"]
        kept = chosen["experts_on_gpu"]
        if subject.expert_layers and kept < subject.expert_layers:
            on_gpu["n_cpu_moe"] = subject.layers - 1 - kept
    ubatch = chosen["ubatch"]
    return Settings(
        ctx_size=chosen["ctx_size"],
        parallel=chosen["parallel"],
        cache_type_k=chosen["kv_type"],
        cache_type_v=chosen["kv_type"],
        batch_size=max(_BATCH, ubatch),
        ubatch_size=ubatch,
        threads=chosen["threads"],
        cache_ram=chosen["prompt_cache"],
        fit="off",  # or llama.cpp would start with something else than what is shown
        **on_gpu,
    )


def knobs_of(settings: Settings, subject: Subject) -> dict[str, Any]:
    """Return the choices that come nearest to settings; they may hold more than there are knobs for."""
    in_ram = subject.layers - 1 if settings.cpu_moe else settings.n_cpu_moe or 0
    layers = settings.n_gpu_layers
    known = {
        "ctx_size": settings.ctx_size,
        "experts_on_gpu": max(min(subject.layers - 1 - in_ram, subject.expert_layers), 0),
        "gpu_layers": min(layers, subject.layers) if isinstance(layers, int) else subject.layers,
        "kv_type": settings.cache_type_k or "f16",
        "ubatch": settings.ubatch_size,
        "threads": settings.threads,
        "parallel": settings.parallel,
        "prompt_cache": settings.cache_ram,
    }
    return {name: value for name, value in known.items() if value is not None}


def compute(settings: Settings, subject: Subject, machine: Machine, profile: Profile | None) -> Computed:
    """Return the figures for settings; ``profile`` is what was measured on the machine, if anything was.

    Raises:
        UsageError: A choice cannot be used.
        ModelFileError: The model is not covered.
    """
    report = memory_report(subject.model, settings, machine)
    staging = tuple(0 for _ in report.gpus)
    if report.gpus and settings.n_cpu_moe:
        without = memory_report(subject.model, replace(settings, op_offload=False), machine)
        staging = tuple(
            max(a.compute_mib - b.compute_mib, 0) for a, b in zip(report.gpus, without.gpus, strict=True)
        )
    return Computed(
        settings, report, forecast(subject.model, settings, machine, profile, report=report), staging
    )


def knobs(chosen: Mapping[str, Any], subject: Subject, machine: Machine) -> list[Node]:
    """Return the controls for the settings."""
    no_gpu = "" if machine.usable_gpus else "This machine has no GPU that llama.cpp can use."
    most = subject.model.context_length * chosen["parallel"]
    contexts = sorted({step * 1024 for step in _CONTEXTS if step * 1024 < most} | {most})
    kept, experts = chosen["experts_on_gpu"], subject.expert_layers
    where = f"{kept} of {experts} on the GPU" if kept else f"all {experts} in RAM"
    each = "" if chosen["parallel"] == 1 else f", {tokens(chosen['ctx_size'] // chosen['parallel'])} a slot"
    cores = machine.cpu.usable_cores
    return [
        n.group(
            "Context",
            [
                n.slider(
                    "ctx_size", "Context", chosen["ctx_size"], tokens(chosen["ctx_size"]) + each,
                    steps=contexts, exact=True,
                ),
                n.select("kv_type", "Cache of keys and values", chosen["kv_type"], list(_KV_TYPES.items())),
                n.slider(
                    "parallel", "Slots", chosen["parallel"],
                    f"{chosen['parallel']} at once", steps=_SLOTS,
                ),
            ],
        ),
        n.group(
            "Where it runs",
            [
                n.slider(
                    "experts_on_gpu", "Experts on the GPU, in layers", kept, "none" if no_gpu else where,
                    steps=range(experts + 1),
                    disabled=no_gpu or ("" if experts else "This model has no experts."),
                ),
                n.slider(
                    "gpu_layers", "Everything else on the GPU, in layers", chosen["gpu_layers"],
                    "none" if no_gpu else f"{chosen['gpu_layers']} of {subject.layers}",
                    steps=range(subject.layers + 1), disabled=no_gpu,
                ),
                n.slider(
                    "threads", "Threads", chosen["threads"],
                    f"{chosen['threads']} of {cores} core{'' if cores == 1 else 's'}",
                    steps=range(1, max(cores, chosen["threads"]) + 1),
                ),
            ],
        ),
        n.group(
            "Working memory",
            [
                n.slider(
                    "ubatch", "Tokens of a prompt at once (ubatch)", chosen["ubatch"],
                    tokens(chosen["ubatch"]), steps=_UBATCHES,
                ),
                n.slider(
                    "prompt_cache", "RAM for finished prompts", chosen["prompt_cache"],
                    gib(chosen["prompt_cache"]) if chosen["prompt_cache"] else "none", steps=_PROMPT_CACHES,
                ),
            ],
        ),
    ]  # fmt: skip


def verdict(report: MemoryReport) -> tuple[str, Tone]:
    """Return whether it fits, in words, with what lacks or is to spare."""
    if report.short_mib:
        lacks = [f"{gib(mib)} of {_place(name)} short" for name, mib in report.short_mib.items()]
        return f"Does not fit: {and_so(lacks)}.", "bad"
    host = report.host
    if host.paged_mib >= 1:
        paged = f"{gib(host.paged_mib)} of the weights find no room in RAM"
        return f"Runs, but slowly: {paged} and are read from disk again and again.", "warn"
    spare = [f"{gib(gpu.free_mib - gpu.needed_mib)} on {gpu.name}" for gpu in report.gpus]
    spare.append(f"{gib(host.available_mib - host.needed_mib - host.evictable_mib)} of RAM")
    return f"Fits. To spare: {and_so(spare)}.", "good"


def _place(name: str) -> str:
    return "RAM" if name == "Host" else f"{name}'s memory"


def bars(subject: Subject, machine: Machine, done: Computed) -> list[Node]:
    """Return what fills each GPU, main memory and the disk."""
    report = done.report
    gpus = [_gpu_bar(report, number, done.staging_mib[number]) for number in range(len(report.gpus))]
    return [*gpus, _host_bar(report), *_disk(subject, machine)]


def _part(kind: str, words: str, mib: float) -> tuple[str, str, float]:
    return kind, f"{words} {gib(mib)}", mib


def _gpu_bar(report: MemoryReport, number: int, staging: int) -> Node:
    gpu = report.gpus[number]
    parts = [
        _part("weights", "weights", gpu.model_mib),
        _part("context", "context", gpu.context_mib),
        _part("compute", "compute", gpu.compute_mib - staging),
        _part("staging", "staging of experts", staging),
        _part("system", "CUDA and vision", gpu.extra_mib),
        _part("others", "in use by others", gpu.total_mib - gpu.free_mib),
    ]
    said, tone = _state(gpu.needed_mib, gpu.free_mib, gpu.short_mib)
    return n.bar(gpu.name, [part for part in parts if part[2] > 0], gpu.total_mib, said, tone=tone)


def _host_bar(report: MemoryReport) -> Node:
    host = report.host
    resident = host.evictable_mib - host.paged_mib
    shared = sum(gpu.needed_mib for gpu in report.gpus) if not _apart(report) else 0.0
    parts = [
        _part("weights", "weights", host.model_mib - host.evictable_mib),
        _part("paged", "weights as pages of the file", resident),
        _part("context", "context", host.context_mib),
        _part("compute", "compute", host.compute_mib),
        _part("cache", "finished prompts, at most", host.prompt_cache_mib or 0.0),
        _part("system", "the GPU's share and vision", host.extra_mib + shared),
        _part("others", "in use by others", host.total_mib - host.available_mib),
    ]
    said, tone = _state(host.needed_mib + resident, host.available_mib, host.short_mib)
    if host.paged_mib >= 1 and not host.short_mib:
        said, tone = f"full; {gib(host.paged_mib)} of weights stay on disk", "warn"
    return n.bar("RAM", [part for part in parts if part[2] > 0], host.total_mib, said, tone=tone)


def _apart(report: MemoryReport) -> bool:
    """Whether GPUs have memory of their own: where not, the host's need holds theirs."""
    host = report.host
    own = host.model_mib - host.evictable_mib + host.context_mib + host.compute_mib
    known = own + (host.prompt_cache_mib or 0.0) + host.extra_mib
    return host.needed_mib - known < min((gpu.needed_mib for gpu in report.gpus), default=1.0)


def _state(needed: float, there: float, short: float) -> tuple[str, Tone]:
    if short > 0:
        return f"{gib(needed)} needed, {gib(there)} there: {gib(-(-short // 1))} short", "bad"
    return f"{gib(needed)} of {gib(there)}, {gib(there - needed)} free", "good"


def _disk(subject: Subject, machine: Machine) -> list[Node]:
    size = subject.model.file_bytes / _MIB
    if machine.disk is None:
        unknown = "of this machine's disk nothing is known"
        return [n.text(f"Disk: the files take {gib(size)}; {unknown}.", tone="quiet")]
    if subject.path.exists():
        return [n.text(f"Disk: the files are here and take {gib(size)}.", tone="quiet")]
    disk = machine.disk
    said, tone = _state(size, disk.free_mib, max(size - disk.free_mib, 0.0))
    parts = [_part("weights", "files", size), _part("others", "in use", disk.total_mib - disk.free_mib)]
    return [n.bar("Disk", parts, disk.total_mib, said, tone=tone)]


def speed(done: Computed) -> list[Node]:
    """Return the forecast in words."""
    said = done.forecast
    if said is None:
        return [n.group("Speed", [n.text("No forecast: it does not fit, so it will not run.")], key="speed")]
    sure = "measured on this machine" if said.source == "measured" else "a wide estimate, not a measurement"
    writes, reads = (_BOUND.get(name, name) for name in (said.decode_bound, said.prefill_bound))
    lines = [
        n.text(f"Writes {said.decode_tok_s} tokens/s; the limit is {writes}.", key="decode"),
        n.text(f"Reads a prompt at {said.prefill_tok_s} tokens/s; the limit is {reads}.", key="prefill"),
    ]
    lines += [n.text(f"{note[:1].upper()}{note[1:]}.", tone="quiet", key=note) for note in said.notes]
    return [n.group(f"Speed: {sure}", lines, key="speed")]


def verified(said: Verified) -> Node:
    """Return llama.cpp's own figures beside ours."""
    rows = [
        [one.name, *(f"{theirs:,} ({ours:,})" for theirs, ours in zip(one.llama_cpp, one.ours, strict=True))]
        for one in [*said.devices, said.host]
    ]
    head = ["MiB: llama.cpp (ours)", "weights", "context", "compute"]
    return n.table(f"llama.cpp's own answer, in {said.seconds:.1f} s", head, rows, key="verified")


def command_text(subject: Subject, settings: Settings) -> str:
    """Return the command that serves it, as the server panel starts it, for a shell."""
    words = command(
        Path("llama-server"), subject.path, alias=subject.alias, port=8080, settings=settings, extra_args=()
    )
    lines, line = [], [words[0]]
    for word in words[1:]:
        if word.startswith("--"):
            lines.append(shlex.join(line))
            line = []
        line.append(word)
    return " \\\n  ".join([*lines, shlex.join(line)])
