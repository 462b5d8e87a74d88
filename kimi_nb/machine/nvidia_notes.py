"""What the probe says about NVIDIA GPUs that do not answer, or not in full."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kimi_nb.machine.machine import Note

if TYPE_CHECKING:
    from kimi_nb.machine.machine import Gpu

__all__ = ["broken", "hidden", "mig_mode", "narrow", "no_answer", "nothing", "silent"]


def no_answer(error: Any, on_bus: int) -> Note:
    """Say why NVML did not start, with ``on_bus`` NVIDIA GPUs on the PCI bus."""
    import pynvml

    if error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return Note(
            id="KNB103",
            severity="warning",
            what="the NVIDIA driver does not answer",
            why="its library and its kernel module differ (Driver/library version mismatch), as after an "
            "update of the driver without a restart",
            fix="Restart the machine; for a container, the machine it runs on.",
        )
    if error.value == pynvml.NVML_ERROR_NO_PERMISSION:
        return Note(
            id="KNB104",
            severity="warning",
            what="the NVIDIA driver refuses this user",
            why="NVML says Insufficient Permissions",
            fix="Let this user read and write /dev/nvidia*, or start the container with access to the GPU.",
        )
    missing = {pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED}
    if error.value not in missing:
        return broken(f"NVML says {error}")
    if not on_bus and error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return Note(
            id="KNB101",
            severity="info",
            what="no NVIDIA GPU",
            why="there is no NVIDIA driver here, and no NVIDIA GPU shows on the PCI bus",
            fix="llama.cpp will run on the processor; nothing needs to be done.",
        )
    there = f"{on_bus} NVIDIA GPU(s) show on the PCI bus" if on_bus else "the driver's library is installed"
    lacking = (
        "the driver's library (libnvidia-ml.so.1) is missing"
        if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
        else "the driver's kernel module is not loaded"
    )
    return Note(
        id="KNB102",
        severity="warning",
        what="the NVIDIA driver does not work here",
        why=f"{there}, but {lacking}",
        fix="Install NVIDIA's driver and restart; start a container with access to the GPU "
        "(docker run --gpus all).",
    )


def broken(why: str) -> Note:
    """Say that NVML failed in a way that has no advice of its own."""
    return Note(
        id="KNB105",
        severity="warning",
        what="the NVIDIA driver answers with an error",
        why=why,
        fix="See what nvidia-smi says; restarting the machine often helps.",
    )


def nothing() -> Note:
    """Say that the driver works but shows no GPU."""
    return Note(
        id="KNB102",
        severity="warning",
        what="the NVIDIA driver shows no GPU",
        why="it answers, but none is there or none is given to this container or virtual machine",
        fix="Start a container with access to the GPU (docker run --gpus all); see what nvidia-smi says.",
    )


def silent(index: int, error: Any) -> Note:
    """Say why the GPU ``index`` is left out."""
    import pynvml

    why, fix = (
        f"NVML says {error}",
        "See what nvidia-smi says of it; a GPU that is lost comes back with a restart.",
    )
    if error.value == pynvml.NVML_ERROR_NO_PERMISSION:
        fix = "Ask for access to it where the container or job was started."
    elif error.value == pynvml.NVML_ERROR_NOT_SUPPORTED:
        why = "NVML does not tell its memory, as of a GPU that shares the machine's"
        fix = "To plan with it, save a machine file (kimi-nb check --save FILE) and write it in."
    return Note(
        id="KNB104" if error.value == pynvml.NVML_ERROR_NO_PERMISSION else "KNB105",
        severity="warning",
        what=f"GPU {index} is left out",
        why=why,
        fix=fix,
    )


def hidden(visible: str, left: int, names: list[str]) -> Note:
    """Say that ``CUDA_VISIBLE_DEVICES`` leaves ``left`` of the GPUs called ``names``."""
    why = f"CUDA_VISIBLE_DEVICES is {visible!r}"
    if len(set(names)) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        why += " (unlike GPUs are numbered by speed unless CUDA_DEVICE_ORDER=PCI_BUS_ID is set)"
    return Note(
        id="KNB109",
        severity="info",
        what=f"{left} of {len(names)} GPUs are visible to this process",
        why=why,
        fix="Unset it to use them all.",
    )


def mig_mode(index: int, name: str, slices: int) -> Note:
    """Say what MIG mode means for the GPU ``index``."""
    if not slices:
        return Note(
            id="KNB107",
            severity="warning",
            what=f"GPU {index} ({name}) cannot be used",
            why="it is in MIG mode, and no slice of it is given to this process",
            fix="Make a slice (nvidia-smi mig -cgi 0 -C), or turn MIG mode off (nvidia-smi -mig 0).",
        )
    return Note(
        id="KNB106",
        severity="info",
        what=f"GPU {index} ({name}) is cut into {slices} MIG slice(s) here",
        why="CUDA gives a process one slice at most, so only the first is reckoned with",
        fix="Name another slice with CUDA_VISIBLE_DEVICES=MIG-..., or use the GPU whole.",
    )


def narrow(gpu: Gpu) -> list[Note]:
    """Say where a GPU has fewer PCIe lanes than it could have; they do not change when it idles."""
    if not gpu.pcie_width or not gpu.pcie_width_max or gpu.pcie_width >= gpu.pcie_width_max:
        return []
    return [
        Note(
            id="KNB108",
            severity="info",
            what=f"GPU {gpu.index} has {gpu.pcie_width} of {gpu.pcie_width_max} PCIe lanes",
            why="the slot has no more, shares them, or the card sits badly, and prompts are read more slowly "
            "where experts lie in main memory",
            fix="Move the card to a slot with more lanes.",
        )
    ]
