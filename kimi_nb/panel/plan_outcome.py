"""What the plan panel shows of a choice's figures: texts and bars, without any widget."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.engine.server_command import command
from kimi_nb.panel import nodes as n
from kimi_nb.panel.words import and_so, gib
from kimi_nb.shell_words import by_option

if TYPE_CHECKING:
    from kimi_nb.machine import Machine
    from kimi_nb.panel.nodes import Node, Tone
    from kimi_nb.panel.plan_view import Computed, Subject
    from kimi_nb.plan import Band, MemoryReport, Plan, Settings
    from kimi_nb.rehearse import Verified

__all__ = ["bars", "command_text", "how_sure", "speed", "verdict", "verified", "why"]

_MIB = 1024 * 1024
_LINE = 72
_BOUND = {
    "cpu": "the processor",
    "ram": "main memory's bandwidth",
    "pcie": "the link to the GPU",
    "gpu": "the GPU",
    "disk": "reading weights from disk",
}


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


def how_sure(subject: Subject, done: Computed) -> str:
    """Return where the figures for memory come from."""
    if subject.approximate:
        return "estimated from the files' size, near but not exact"
    return "estimated, as llama.cpp counts it" if done.report.exact else "estimated, near llama.cpp's count"


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
        _part("free", "free", gpu.free_mib - gpu.needed_mib),
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
        _part("free", "free", host.available_mib - host.needed_mib - resident),
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
    parts = [
        _part("weights", "files", size),
        _part("others", "in use", disk.total_mib - disk.free_mib),
        _part("free", "free", disk.free_mib - size),
    ]
    return [n.bar("Disk", [part for part in parts if part[2] > 0], disk.total_mib, said, tone=tone)]


def speed(done: Computed) -> list[Node]:
    """Return the forecast in words."""
    said = done.forecast
    if said is None:
        return [n.group("Speed", [n.text("No forecast: it does not fit, so it will not run.")], key="speed")]
    sure = "measured on this machine" if said.source == "measured" else "a wide estimate, not a measurement"
    lines: list[Node] = [
        n.row([_speed("Writes", said.decode_tok_s, said.decode_bound),
               _speed("Reads a prompt", said.prefill_tok_s, said.prefill_bound)], key="speeds")
    ]  # fmt: skip
    lines += [
        n.text(_spoken(f"{note[:1].upper()}{note[1:]}."), tone="quiet", key=note) for note in said.notes
    ]
    return [n.group(f"Speed: {sure}", lines, key="speed")]


def _speed(verb: str, band: Band, bound: str) -> Node:
    expected, _, between = str(band).partition(" ")
    return n.fact(
        verb, f"{expected} tokens/s", f"{between.strip('()')}; the limit is {_BOUND.get(bound, bound)}"
    )


def why(plan: Plan) -> Node:
    """Return why a plan is so, and what to mind."""
    lines = [n.text(_spoken(line), key=f"why {i}") for i, line in enumerate(plan.reasons)]
    minded = [_spoken(f"Mind: {line}") for line in plan.warnings]
    lines += [n.text(line, tone="warn", key=f"mind {i}") for i, line in enumerate(minded)]
    return n.fold("Why this plan", lines, key="reasons", opened=True)


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
    program, *options = map(shlex.quote, words)
    lines = [program]
    for option in by_option(options):
        if len(lines) > 1 and len(lines[-1]) + len(option) < _LINE:
            lines[-1] += f" {option}"
        else:
            lines.append(option)
    return " \\\n  ".join(lines)


def _spoken(text: str) -> str:
    """Return a sentence whose commands are quoted as a person would: a panel is no Markdown."""
    return text.replace("`", '"')
