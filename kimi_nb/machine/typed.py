"""A machine that a person describes with a few numbers: what they think of buying or renting."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kimi_nb.machine.machine import Gpu

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.machine.machine import Machine

__all__ = ["typed_machine", "with_gpus"]


def with_gpus(machine: Machine, sizes_mib: Sequence[int]) -> Machine:
    """Return ``machine`` with CUDA GPUs of these sizes, all of them free, instead of its own."""
    unknown = dict.fromkeys(
        ("compute_capability", "pcie_generation", "pcie_generation_max", "pcie_width", "pcie_width_max")
    )
    gpus = tuple(
        Gpu(
            index=number,
            kind="cuda",
            name=f"a GPU of {size} MiB",
            total_mib=size,
            free_mib=size,
            guess=True,
            mig=False,
            memory_bandwidth_gb_s=None,
            **unknown,
        )
        for number, size in enumerate(sizes_mib)
    )
    return replace(machine, gpus=gpus)


def typed_machine(like: Machine, *, gpus_mib: Sequence[int], ram_mib: int, cores: int) -> Machine:
    """Return a machine with these figures, of which nothing else is known.

    Args:
        like: A profile for the kind of processor, which decides whether weights are repacked.
        gpus_mib: The memory of each GPU.
        ram_mib: Main memory, all of it free.
        cores: Physical cores, at least 1.
    """
    return replace(
        with_gpus(like, gpus_mib),
        name="typed in",
        origin="profile",
        about="Typed in by a person; free memory is set to the total, so take off what else runs.",
        memory=replace(
            like.memory,
            total_mib=ram_mib,
            available_mib=ram_mib,
            physical_mib=ram_mib,
            limit_mib=None,
            limit_source=None,
            swap_total_mib=0,
            swap_free_mib=0,
        ),
        cpu=replace(
            like.cpu,
            sockets=1,
            physical_cores=cores,
            logical_cores=cores,
            performance_cores=None,
            allowed_physical=cores,
            allowed_logical=cores,
            quota_cores=None,
        ),
        numa=(),
        disk=None,
        jupyter=None,
        notes=(),
    )
