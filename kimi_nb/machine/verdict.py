"""A first look, by file size alone: which quants could lie in this machine's memory and on its disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kimi_nb.machine.read import MIB

if TYPE_CHECKING:
    from kimi_nb.machine.machine import Machine
    from kimi_nb.model.catalog_records import CatalogModel, Quant

__all__ = ["FirstLook", "QuantLook", "first_look"]


@dataclass(frozen=True)
class QuantLook:
    """How one quant's files compare with the machine.

    Args:
        quant: The quant.
        memory_spare_mib: Memory left beside its weights, for context, compute buffers, the system and all
            else that runs; less than 0 is what lacks.
        gpu_spare_mib: Likewise of the GPUs' memory alone; ``None`` without GPUs.
        disk_spare_mib: Likewise the models folder's disk; ``None`` if that is not known.
    """

    quant: Quant
    memory_spare_mib: int
    gpu_spare_mib: int | None
    disk_spare_mib: int | None

    @property
    def fits_memory(self) -> bool:
        """Whether its weights are no larger than all memory together."""
        return self.memory_spare_mib >= 0

    @property
    def fits_gpu(self) -> bool | None:
        """Whether its weights are no larger than the GPUs' memory alone; ``None`` without GPUs."""
        return None if self.gpu_spare_mib is None else self.gpu_spare_mib >= 0

    @property
    def fits_disk(self) -> bool | None:
        """Whether it can be downloaded; ``None`` if the disk is not known."""
        return None if self.disk_spare_mib is None else self.disk_spare_mib >= 0


@dataclass(frozen=True)
class FirstLook:
    """A rough comparison of file sizes with memory and disk; not an estimate of what llama.cpp will use."""

    model: CatalogModel
    memory_mib: int
    gpu_mib: int
    disk_free_mib: int | None
    quants: tuple[QuantLook, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the look as a JSON object."""
        return {
            "model": self.model.key,
            "method": "file size against all GPU and main memory; rough, without context and buffers",
            "memory_mib": self.memory_mib,
            "gpu_mib": self.gpu_mib,
            "disk_free_mib": self.disk_free_mib,
            "quants": [
                {
                    "quant": look.quant.name,
                    "publisher": look.quant.publisher,
                    "bytes": look.quant.bytes,
                    "bytes_exact": look.quant.exact,
                    "fits_memory": look.fits_memory,
                    "memory_spare_mib": look.memory_spare_mib,
                    "fits_gpu": look.fits_gpu,
                    "gpu_spare_mib": look.gpu_spare_mib,
                    "fits_disk": look.fits_disk,
                    "disk_spare_mib": look.disk_spare_mib,
                }
                for look in self.quants
            ],
        }


def first_look(machine: Machine, model: CatalogModel) -> FirstLook:
    """Compare the quants of ``model`` whose size is known with ``machine``'s memory and disk.

    Memory is the total of main memory and usable GPUs (on Apple silicon they share one), free or not.
    """
    disk = None if machine.disk is None else machine.disk.free_mib
    looks = []
    for quant in model.quants:
        if quant.bytes is not None:
            size = -(-quant.bytes // MIB)
            looks.append(
                QuantLook(
                    quant,
                    machine.capacity_mib - size,
                    machine.gpu_mib - size if machine.gpus else None,
                    None if disk is None else disk - size,
                )
            )
    return FirstLook(model, machine.capacity_mib, machine.gpu_mib, disk, tuple(looks))
