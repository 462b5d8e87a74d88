"""Apple silicon: one memory for processor and GPU, of which Metal lends the GPU a part."""

from __future__ import annotations

from kimi_nb.machine.machine import Gpu, HostMemory, Note
from kimi_nb.machine.read import output

__all__ = ["read_apple"]

_SMALL_MIB = 32 * 1024


def read_apple(memory: HostMemory) -> tuple[tuple[Gpu, ...], list[Note]]:
    """Describe the GPU of an Apple-silicon Mac; an Intel Mac has none that llama.cpp is good on.

    What Metal lends (``recommendedMaxWorkingSetSize``) cannot be read without starting Metal. It is set by
    the owner (``iogpu.wired_limit_mb``), or guessed: llama.cpp's logs show two thirds of the memory on Macs
    of up to 32 GB (10,922 of 16,384 MiB; 21,845 of 32,768) and three quarters on larger ones (49,152 of
    65,536; 73,728 of 98,304).
    """
    if output(["sysctl", "-n", "hw.optional.arm64"]) != "1":
        return (), [
            Note(
                id="KNB101",
                severity="info",
                what="no GPU that llama.cpp uses",
                why="this is a Mac with an Intel processor",
                fix="llama.cpp will run on the processor; nothing needs to be done.",
            )
        ]
    name = output(["sysctl", "-n", "machdep.cpu.brand_string"]) or "Apple GPU"
    wired = output(["sysctl", "-n", "iogpu.wired_limit_mb"]) or ""
    limit = int(wired) if wired.isdecimal() else 0
    physical = memory.physical_mib
    lent = physical * 2 // 3 if physical <= _SMALL_MIB else physical * 3 // 4
    total = min(limit, physical) if limit else lent
    gpu = Gpu(
        index=0,
        kind="metal",
        name=name,
        total_mib=total,
        free_mib=min(total, memory.available_mib),
        guess=not limit,
        mig=False,
        compute_capability=None,
        pcie_generation=None,
        pcie_generation_max=None,
        pcie_width=None,
        pcie_width_max=None,
        memory_bandwidth_gb_s=None,
    )
    if limit:
        return (gpu,), []
    return (gpu,), [
        Note(
            id="KNB120",
            severity="info",
            what=f"the GPU may use about {total / 1024:.0f} of {physical / 1024:.0f} GiB",
            why="that share is a guess from other Macs; Metal tells it only to a program that uses it",
            fix="llama.cpp's log tells it (recommendedMaxWorkingSetSize); sudo sysctl iogpu.wired_limit_mb=N "
            "sets it.",
        )
    ]
