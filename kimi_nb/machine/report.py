"""A machine and a first look at it as lines for a person: what is healthy is said shortly or not at all."""

from __future__ import annotations

import textwrap
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kimi_nb.machine.machine import Gpu, Machine
    from kimi_nb.machine.verdict import FirstLook, QuantLook

__all__ = ["first_look_lines", "machine_lines"]

_GIB = 1024
_WIDTH = 79
_CAUTION = (
    "Context, compute buffers, the system and whatever else runs come on top, so leave room. What does not "
    "fit in memory can still run from disk, far more slowly. ~ marks a size that is published rounded."
)


def machine_lines(machine: Machine) -> list[str]:
    """Describe a machine in aligned lines, then its notes."""
    rows = []
    if machine.origin == "profile":
        rows = [("machine", machine.name), ("values", machine.about)]
    system = f"{machine.system} {machine.release}".strip()
    rows.append(("system", f"{system}, {machine.cpu.architecture}"))
    rows += _gpus(machine.gpus) or [("GPU", "none")]
    if machine.nvidia:
        cuda = f", runs CUDA up to {machine.nvidia.cuda}" if machine.nvidia.cuda else ""
        rows.append(("driver", f"NVIDIA {machine.nvidia.version}{cuda}"))
    memory = machine.memory
    limited = f", limited from {_gib(memory.physical_mib)}" if memory.limit_mib is not None else ""
    rows.append(("memory", f"{_gib(memory.total_mib)}, {_gib(memory.available_mib)} available{limited}"))
    if memory.swap_total_mib:
        rows.append(("swap", f"{_gib(memory.swap_total_mib)}, {_gib(memory.swap_free_mib)} free"))
    rows.append(("processor", _processor(machine)))
    rows.append(
        ("", f"with {' '.join(machine.cpu.features) or 'no instruction set that llama.cpp has code for'}")
    )
    if len(machine.numa) > 1:
        for node in machine.numa:
            rows.append((f"node {node.index}", f"{_gib(node.total_mib)}, processors {node.cpus or 'none'}"))
    if machine.disk:
        kind = {True: ", a spinning disk", False: "", None: ""}[machine.disk.rotational]
        room = f"{_gib(machine.disk.free_mib)} free of {_gib(machine.disk.total_mib)}"
        rows.append(("models", f"{machine.disk.path}: {room}, {machine.disk.filesystem}{kind}"))
    lines = []
    for label, text in rows:
        lines += _wrapped(text, f"  {label:<11}")
    for note in machine.notes:
        mark = "warning " if note.severity == "warning" else "note    "
        lines.append("")
        lines += _wrapped(str(note), f"  {mark} ")
    return lines


def first_look_lines(look: FirstLook) -> list[str]:
    """Say which quants could fit: the first publisher's one by one, the others' in a line each."""
    disk = "" if look.disk_free_mib is None else f", free disk {_gib(look.disk_free_mib)}"
    lines = [
        f"A rough first look at {look.model.name}, by file size alone",
        f"(GPU and main memory together {_gib(look.memory_mib)}{disk}):",
        "",
    ]
    for number, (_, group) in enumerate(groupby(look.quants, key=lambda one: one.quant.publisher)):
        by_size = sorted(group, key=lambda one: one.quant.bytes or 0)
        if number == 0:
            shown = [one for one in by_size if one.fits_memory]
            shown += [one for one in by_size if not one.fits_memory][:1]
            gpu = f"{'on GPUs alone':<24}" if look.gpu_mib else ""
            room = "" if look.disk_free_mib is None else "on disk"
            lines.append(f"  {'quant':<14}{'download':<26}{'in memory':<24}{gpu}{room}".rstrip())
            lines += [*map(_row, shown), ""]
        else:
            lines.append(f"  {by_size[0].quant.publisher} has {len(by_size)} more: {_summary(by_size)}.")
    if not any(one.fits_memory for one in look.quants):
        lines.append("  nano, the laptop-sized model of the same architecture, runs here: kimi-nb demo.")
    return lines + _wrapped(_CAUTION, "  ")


def _gib(mib: int) -> str:
    return f"{mib / _GIB:.1f} GiB"


def _wrapped(text: str, start: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _gpus(gpus: tuple[Gpu, ...]) -> list[tuple[str, str]]:
    """Describe GPUs, those that look alike in one line."""
    rows = []
    for (name, text), group in groupby(gpus, key=lambda gpu: (gpu.name, _gpu(gpu))):
        alike = list(group)
        last = "" if alike[0].index == alike[-1].index else f"-{alike[-1].index}"
        label = f"GPU {alike[0].index}{last}"
        rows.append((label, f"{len(alike)} x {name}, each {text}" if len(alike) > 1 else f"{name}, {text}"))
    return rows


def _gpu(gpu: Gpu) -> str:
    about = "about " if gpu.guess else ""
    parts = [f"{about}{_gib(gpu.total_mib)}, {_gib(gpu.free_mib)} free"]
    if gpu.compute_capability:
        parts.append(f"compute {gpu.compute_capability}")
    if gpu.pcie_generation_max and gpu.pcie_width:
        parts.append(f"PCIe {gpu.pcie_generation_max} x{gpu.pcie_width}")
    return ", ".join(parts)


def _processor(machine: Machine) -> str:
    cpu = machine.cpu
    sockets = f"{cpu.sockets} sockets, " if cpu.sockets > 1 else ""
    fast = f" ({cpu.performance_cores} fast)" if cpu.performance_cores else ""
    threads = f", {cpu.logical_cores} threads" if cpu.logical_cores != cpu.physical_cores else ""
    return f"{cpu.model}: {sockets}{cpu.physical_cores} cores{fast}{threads}"


def _row(look: QuantLook) -> str:
    size = f"{'' if look.quant.exact else '~'}{_gib((look.quant.bytes or 0) // 2**20)}"
    disk = "" if look.disk_spare_mib is None else _spare(look.disk_spare_mib)
    memory = _spare(look.memory_spare_mib)
    gpu = "" if look.gpu_spare_mib is None else f"{_spare(look.gpu_spare_mib):<24}"
    return f"  {look.quant.name:<14}{look.quant.size:<12}{size:<14}{memory:<24}{gpu}{disk}".rstrip()


def _spare(mib: int) -> str:
    return f"yes, {_gib(mib)} left" if mib >= 0 else f"no, {_gib(-mib)} short"


def _summary(by_size: list[QuantLook]) -> str:
    fitting = [look for look in by_size if look.fits_memory]
    if not fitting:
        return f"none fits in memory; the smallest, {by_size[0].quant.name}, has {by_size[0].quant.size}"
    most = fitting[-1].quant
    return f"{len(fitting)} fit in memory, the largest of them {most.name} with {most.size}"
