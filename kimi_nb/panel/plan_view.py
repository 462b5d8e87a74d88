"""The plan panel's choices: the controls for them, and the settings and figures that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kimi_nb.panel import nodes as n
from kimi_nb.panel.words import gib, tokens
from kimi_nb.plan import Settings, forecast, memory_report

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.panel.nodes import Node
    from kimi_nb.plan import Forecast, MemoryReport
    from kimi_nb.plan.profile import Profile

__all__ = [
    "KNOBS",
    "Computed",
    "Subject",
    "compute",
    "knobs",
    "knobs_of",
    "possible",
    "settings_of",
    "whole",
]

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
    """What is planned.

    Attributes:
        model: Its header.
        path: Where its first file lies or would lie.
        alias: What a server calls it.
        approximate: Whether the header is a stand-in of its size, not read.
        note: Why its own header could not be read, where that was tried.
    """

    model: Model
    path: Path
    alias: str
    approximate: bool = False
    note: str = ""

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


def settings_of(
    chosen: Mapping[str, Any], subject: Subject, machine: Machine, planned: Settings | None = None
) -> Settings:
    """Return the settings that the choices stand for.

    Args:
        chosen: The choices.
        subject: The model.
        machine: The machine.
        planned: What was planned before for both: what no control is for stays as it was there.

    Raises:
        UsageError: A choice cannot be used, or two exclude each other.
    """
    base = planned or Settings(fit="off")  # or llama.cpp would start with something else than what is shown
    moved: dict[str, Any] = {
        "ctx_size": chosen["ctx_size"],
        "parallel": chosen["parallel"],
        "cache_type_k": chosen["kv_type"],
        "cache_type_v": chosen["kv_type"],
        "batch_size": max(base.batch_size or _BATCH, chosen["ubatch"]),
        "ubatch_size": chosen["ubatch"],
        "threads": chosen["threads"],
        "threads_batch": base.threads_batch and chosen["threads"],
        "cache_ram": chosen["prompt_cache"],
    }
    if machine.usable_gpus and base.device != "none":
        kept = chosen["experts_on_gpu"]
        in_ram = subject.layers - 1 - kept if kept < subject.expert_layers else None
        moved |= {"n_gpu_layers": chosen["gpu_layers"], "n_cpu_moe": in_ram, "cpu_moe": None}
        if (in_ram, chosen["gpu_layers"]) != (base.n_cpu_moe, base.n_gpu_layers):
            moved["override_tensor"] = None  # it stands for the layers as they were
    return base.replace(**moved)


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
            "Context and slots",
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
