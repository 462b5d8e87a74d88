"""NVIDIA GPUs, asked through NVML: what is there, what is free, and why nothing answers when nothing does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_nb.machine.machine import Gpu, Note, NvidiaDriver
from kimi_nb.machine.nvidia_notes import broken, hidden, mig_mode, narrow, no_answer, nothing, silent
from kimi_nb.machine.pci import nvidia_on_bus
from kimi_nb.machine.read import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["read_nvidia"]


@dataclass(frozen=True)
class _Found:
    """A GPU or MIG slice, with the names CUDA_VISIBLE_DEVICES can call it by."""

    gpu: Gpu
    uuid: str


def read_nvidia(
    root: Path = Path("/"), *, nvml: Any = None, visible: str | None = None
) -> tuple[tuple[Gpu, ...], NvidiaDriver | None, list[Note]]:
    """Ask NVML for every GPU this process may use.

    Args:
        root: Where ``sys`` lies, which tells of GPUs without a driver.
        nvml: The module to ask; :mod:`pynvml` by default.
        visible: What ``CUDA_VISIBLE_DEVICES`` says; this process's own by default.
    """
    import pynvml

    nvml = nvml or pynvml
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
    try:
        nvml.nvmlInit()
    except pynvml.NVMLError as error:
        return (), None, [no_answer(error, nvidia_on_bus(root))]
    try:
        found, notes = _devices(nvml)
        driver = NvidiaDriver(
            version=str(_ask(nvml.nvmlSystemGetDriverVersion) or "unknown"),
            cuda=_cuda(_ask(nvml.nvmlSystemGetCudaDriverVersion_v2)),
        )
    except pynvml.NVMLError as error:
        return (), None, [broken(f"NVML says {error}")]
    finally:
        _ask(nvml.nvmlShutdown)
    if not found and not notes:
        notes = [nothing()]
    chosen, more = _visible(found, visible)
    return tuple(one.gpu for one in chosen), driver, notes + more


def _ask(function: Callable[..., Any], *args: Any) -> Any:
    """Ask for what a GPU need not know; ``None`` where it does not."""
    import pynvml

    try:
        return function(*args)
    except pynvml.NVMLError:
        return None


def _devices(nvml: Any) -> tuple[list[_Found], list[Note]]:
    import pynvml

    found: list[_Found] = []
    notes: list[Note] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            mode = _ask(nvml.nvmlDeviceGetMigMode, handle)
            if mode and mode[0]:
                slices = _mig_slices(nvml, index, handle)
                notes.append(mig_mode(index, str(_ask(nvml.nvmlDeviceGetName, handle) or "GPU"), len(slices)))
                found += slices
            else:
                one = _device(nvml, index, handle, handle)
                found.append(one)
                notes += narrow(one.gpu)
        except pynvml.NVMLError as error:
            notes.append(silent(index, error))
    return found, notes


def _device(nvml: Any, index: int, handle: Any, parent: Any, *, mig: bool = False) -> _Found:
    """Describe the GPU or slice ``handle``; link and capability are those of ``parent``."""
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    capability = _ask(nvml.nvmlDeviceGetCudaComputeCapability, parent)
    bits = _ask(nvml.nvmlDeviceGetMemoryBusWidth, parent)
    clock_mhz = _ask(nvml.nvmlDeviceGetMaxClockInfo, parent, nvml.NVML_CLOCK_MEM)
    gpu = Gpu(
        index=index,
        kind="cuda",
        name=str(nvml.nvmlDeviceGetName(handle)),
        total_mib=int(memory.total) // MIB,
        free_mib=min(int(memory.free), int(memory.total)) // MIB,
        guess=False,
        mig=mig,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        pcie_generation=_ask(nvml.nvmlDeviceGetCurrPcieLinkGeneration, parent),
        pcie_generation_max=_ask(nvml.nvmlDeviceGetMaxPcieLinkGeneration, parent),
        pcie_width=_ask(nvml.nvmlDeviceGetCurrPcieLinkWidth, parent),
        pcie_width_max=_ask(nvml.nvmlDeviceGetMaxPcieLinkWidth, parent),
        # Memory moves data on both edges of its clock, hence twice.
        memory_bandwidth_gb_s=None
        if mig or not bits or not clock_mhz
        else round(2 * clock_mhz * bits / 8 / 1000, 1),
    )
    return _Found(gpu, str(_ask(nvml.nvmlDeviceGetUUID, handle) or ""))


def _mig_slices(nvml: Any, index: int, parent: Any) -> list[_Found]:
    slices = []
    for number in range(_ask(nvml.nvmlDeviceGetMaxMigDeviceCount, parent) or 0):
        handle = _ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, parent, number)
        if handle is not None:  # an empty place, or a slice given to another container
            slices.append(_device(nvml, index, handle, parent, mig=True))
    return slices


def _cuda(version: int | None) -> str | None:
    return f"{version // 1000}.{version % 1000 // 10}" if version else None


def _visible(found: list[_Found], visible: str | None) -> tuple[list[_Found], list[Note]]:
    """Leave out what ``CUDA_VISIBLE_DEVICES`` hides; as for CUDA, it ends at the first name of no GPU."""
    if visible is None:
        return found, []
    chosen: list[_Found] = []
    for name in (word.strip() for word in visible.split(",")):
        named = (
            [one for one in found if str(one.gpu.index) == name]
            if name.isdecimal()
            else [one for one in found if name and one.uuid.startswith(name)]
        )
        if not named or named[0] in chosen:
            break
        chosen += named
    if len(chosen) == len(found):
        return chosen, []
    return chosen, [hidden(visible, len(chosen), [one.gpu.name for one in found])]
