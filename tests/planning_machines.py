"""Machines of any size to plan for, made of a shipped profile."""

from __future__ import annotations

from dataclasses import replace

from kimi_nb.machine import Gpu, Machine, load_profile


def gpu(mib: int, gb_s: float | None = 1000.0, *, free: int | None = None, generation: int = 4) -> Gpu:
    return Gpu(
        index=0,
        kind="cuda",
        name="a GPU",
        total_mib=mib,
        free_mib=mib if free is None else free,
        guess=False,
        mig=False,
        compute_capability="9.0",
        pcie_generation=generation,
        pcie_generation_max=generation,
        pcie_width=16,
        pcie_width_max=16,
        memory_bandwidth_gb_s=gb_s,
    )


def machine(
    *gpus: Gpu,
    cores: int = 16,
    sockets: int = 1,
    ram_gib: float = 256,
    features: tuple[str, ...] | None = None,
) -> Machine:
    base = load_profile("cpu-512gb")
    mib = int(ram_gib * 1024)
    memory = replace(base.memory, total_mib=mib, available_mib=mib, physical_mib=mib)
    cpu = replace(
        base.cpu,
        sockets=sockets,
        physical_cores=cores,
        logical_cores=2 * cores,
        allowed_physical=cores,
        allowed_logical=2 * cores,
        features=base.cpu.features if features is None else features,
    )
    cards = tuple(replace(card, index=number) for number, card in enumerate(gpus))
    return replace(base, name="made up", gpus=cards, memory=memory, cpu=cpu, numa=())
