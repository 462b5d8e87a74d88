"""Look at the machine this runs on."""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path
from typing import Any

from kimi_nb.files import models_home
from kimi_nb.machine.apple import read_apple
from kimi_nb.machine.cpu import read_cpu, read_cpu_macos
from kimi_nb.machine.disk import read_disk, read_shm
from kimi_nb.machine.jupyter import read_jupyter
from kimi_nb.machine.machine import Gpu, HostMemory, Machine, Note
from kimi_nb.machine.memory import read_host_memory, read_host_memory_macos
from kimi_nb.machine.numa import read_numa
from kimi_nb.machine.nvidia import read_nvidia
from kimi_nb.machine.pci import read_other_gpus
from kimi_nb.machine.read import text

__all__ = ["probe"]


def probe(
    *, root: Path = Path("/"), models: Path | None = None, nvml: Any = None, system: str | None = None
) -> Machine:
    """Look at this machine: GPUs, memory, processors, the models folder's disk, notebooks; change nothing.

    Args:
        root: Where ``proc``, ``sys`` and ``dev`` lie.
        models: The folder that models go to; :func:`kimi_nb.files.models_home` by default.
        nvml: The module to ask for NVIDIA GPUs; :mod:`pynvml` by default.
        system: ``Linux`` or ``Darwin``; this machine's own by default.

    Raises:
        KimiNbError: The machine's memory cannot be read (KNB125).
    """
    system = system or platform.system()
    mac = system == "Darwin"
    memory, notes = read_host_memory_macos() if mac else read_host_memory(root)
    cpu, found = read_cpu_macos() if mac else read_cpu(root)
    notes += found
    gpus: tuple[Gpu, ...]
    if mac:
        gpus, found = read_apple(memory)
        driver = None
    else:
        gpus, driver, found = read_nvidia(root, nvml=nvml)
        found += read_other_gpus(root)
    notes = found + notes
    numa, found = read_numa(root)
    notes += found
    disk, found = read_disk(models or models_home(), root)
    notes += found
    shm, found = read_shm(root, gpus=len(gpus))
    notes += found
    jupyter, found = read_jupyter()
    notes += found
    release = text(root / "proc/sys/kernel/osrelease") or platform.release()
    wsl = not mac and "microsoft" in release.lower()
    return Machine(
        name=_name(gpus, memory),
        origin="probe",
        about="Read from the running system.",
        system=system,
        release=release,
        wsl=wsl,
        gpus=gpus,
        nvidia=driver,
        memory=memory,
        cpu=cpu,
        numa=numa,
        disk=disk,
        shm_mib=shm,
        jupyter=jupyter,
        notes=(*notes, *([_WSL] if wsl else [])),
    )


_WSL = Note(
    id="KNB122",
    severity="info",
    what="this is WSL2, whose memory is only a part of Windows'",
    why="by default Windows lends it half",
    fix="Raise it with memory= under [wsl2] in the .wslconfig of your Windows user, then run wsl --shutdown.",
)


def _name(gpus: tuple[Gpu, ...], memory: HostMemory) -> str:
    counted = Counter(gpu.name for gpu in gpus)
    cards = ", ".join(f"{count} x {name}" for name, count in counted.items()) or "no GPU"
    return f"{cards}, {memory.total_mib / 1024:.0f} GiB memory"
