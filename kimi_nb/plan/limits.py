"""What a plan must leave free, so that it still fits when something else wakes up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kimi_nb.plan.memory_verdict import Extras

if TYPE_CHECKING:
    from kimi_nb.machine import Machine
    from kimi_nb.plan.memory_verdict import MemoryReport

__all__ = ["Limits", "left_mib"]

_HOST_SHARE = 0.02


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Margins in MiB; each is taken off what is free before anything is placed.

    Attributes:
        gpu_keep_free_mib: On each GPU in use, beside the CUDA context.
        host_keep_free_mib: In main memory. What a system needs grows with its memory (:meth:`usual`).
        disk_keep_free_mib: On the disk that the model is to be downloaded to.
        cuda_context_mib: What CUDA itself takes on each GPU; llama.cpp does not count it. An assumption:
            400 to 700 are reported, by driver and GPU.
        mmproj_mib: The vision part, if it is wanted.
    """

    gpu_keep_free_mib: float = 300.0
    host_keep_free_mib: float = 1024.0
    disk_keep_free_mib: float = 2048.0
    cuda_context_mib: float = 700.0
    mmproj_mib: float = 0.0

    @classmethod
    def usual(cls, machine: Machine, **chosen: float | None) -> Limits:
        """Return the margins that a machine should be left, those that are ``chosen`` aside.

        In main memory that is 2 %, and no less than 1 GiB: for the system's own tables of so many pages, the
        program itself, and what else wakes up.

        Args:
            machine: The machine.
            chosen: Attributes; what is None is as usual.
        """
        usual = {"host_keep_free_mib": max(cls.host_keep_free_mib, _HOST_SHARE * machine.memory.total_mib)}
        return cls(**usual | {name: mib for name, mib in chosen.items() if mib is not None})

    @property
    def extras(self) -> Extras:
        """What llama.cpp does not count."""
        return Extras(cuda_context_mib=self.cuda_context_mib, mmproj_mib=self.mmproj_mib)


def left_mib(report: MemoryReport, limits: Limits) -> dict[str, float]:
    """Return what is left on each device beyond the margins; less than 0 is what lacks."""
    left = {gpu.name: gpu.free_mib - gpu.needed_mib - limits.gpu_keep_free_mib for gpu in report.gpus}
    host = report.host
    return left | {"Host": host.available_mib - host.needed_mib - limits.host_keep_free_mib}
