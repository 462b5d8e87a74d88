"""What this package knows of a machine: plain records, probed on the spot or loaded from a file.

Sizes are in MiB (1,048,576 bytes), as NVML and llama.cpp give them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kimi_nb.errors import UsageError
from kimi_nb.files import write_json
from kimi_nb.records import RecordError, from_plain, read_json, to_plain, without_format

__all__ = [
    "Cpu",
    "Disk",
    "Gpu",
    "HostMemory",
    "JupyterFacts",
    "Machine",
    "Note",
    "NumaNode",
    "NvidiaDriver",
]

FORMAT = 1
"""The version of the JSON layout; it grows when a key is added, dropped or changes its meaning."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """One thing the probe found worth saying; its id is explained in the troubleshooting notebook."""

    id: str
    severity: Literal["info", "warning"]
    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        return " ".join(f"{self.id}: {self.what}: {self.why}. {self.fix}".split())


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, or one MIG slice of one.

    Args:
        index: As the driver counts (for a MIG slice, the GPU that it is cut from).
        kind: Whose interface reaches it.
        name: As the driver gives it.
        total_mib: All of its memory that programs can have.
        free_mib: What of that was free when it was probed.
        guess: The two sizes are an estimate, not what a driver reported.
        mig: It is a MIG slice.
        compute_capability: CUDA's, such as ``9.0``.
        pcie_generation: Of the link now; an idle GPU often falls back to a lower one.
        pcie_generation_max: The most that GPU and slot can do together.
        pcie_width: Lanes of the link now.
        pcie_width_max: The most lanes that GPU and slot can do together.
        memory_bandwidth_gb_s: Theoretical peak in 10^9 bytes/s: bus width times twice the highest memory
            clock, both as the driver gives them (in a profile, the maker's figure). Not a measurement.
    """

    index: int
    kind: Literal["cuda", "metal"]
    name: str
    total_mib: int
    free_mib: int
    guess: bool
    mig: bool
    compute_capability: str | None
    pcie_generation: int | None
    pcie_generation_max: int | None
    pcie_width: int | None
    pcie_width_max: int | None
    memory_bandwidth_gb_s: float | None


@dataclass(frozen=True, kw_only=True)
class NvidiaDriver:
    """The NVIDIA driver: its version, and the newest CUDA version it can run, such as ``13.0``."""

    version: str
    cuda: str | None


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """Main memory, as far as this process may use it.

    Args:
        total_mib: The most this process can ever have: the machine's memory, or a container's limit below it.
        available_mib: What of that could be had when it was probed, giving up cached files.
        physical_mib: The machine's memory, whatever the container.
        limit_mib: The tightest limit below that, if there is one.
        limit_source: Where that limit is set, such as ``cgroup v2 memory.max of /user.slice``.
        swap_total_mib: Swap this process may use, likewise limited.
        swap_free_mib: What of it was free.
    """

    total_mib: int
    available_mib: int
    physical_mib: int
    limit_mib: int | None
    limit_source: str | None
    swap_total_mib: int
    swap_free_mib: int


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """The processors, and what of them this process may use.

    Args:
        model: The name the system gives.
        architecture: ``x86_64``, ``aarch64`` (Linux) or ``arm64`` (macOS).
        sockets: Processor packages.
        physical_cores: Of the whole machine; llama.cpp's own default for ``--threads`` on most machines.
        logical_cores: Of the whole machine, hyper-threads counted.
        performance_cores: Where a processor has fast and slow cores, the fast ones.
        allowed_physical: Physical cores in this process's affinity and cpuset.
        allowed_logical: Logical ones.
        quota_cores: A container's processor time limit in cores, if there is one.
        features: Instruction sets that llama.cpp has code for, by the kernel's names; on ARM by llama.cpp's,
            such as ``neon`` and ``dotprod``.
    """

    model: str
    architecture: str
    sockets: int
    physical_cores: int
    logical_cores: int
    performance_cores: int | None
    allowed_physical: int
    allowed_logical: int
    quota_cores: float | None
    features: tuple[str, ...]

    @property
    def usable_cores(self) -> int:
        """How many cores can work for this process at once, at least 1: the bound for ``--threads``."""
        quota = self.allowed_physical if self.quota_cores is None else int(self.quota_cores)
        fast = self.performance_cores or self.allowed_physical
        return max(1, min(self.allowed_physical, quota, fast))


@dataclass(frozen=True, kw_only=True)
class NumaNode:
    """One NUMA node: its logical processors as a list such as ``0-31,64-95``, and its memory."""

    index: int
    cpus: str
    logical_cores: int
    total_mib: int
    free_mib: int


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Where models go.

    Args:
        path: The folder that was asked for; it need not exist yet.
        filesystem: Its type, such as ``ext4``.
        total_mib: Size of the file system.
        free_mib: What an ordinary user can still write.
        network: It is reached over a network, or is a folder of another system (a virtual machine's host).
        sparse: Whether files can have holes; ``None`` if that depends on what is behind it.
        max_file_mib: The largest file it takes, where that is small enough to matter.
        rotational: Whether it is a spinning disk; ``None`` if the system does not say.
        writable: Whether this user can write there.
    """

    path: str
    filesystem: str
    total_mib: int
    free_mib: int
    network: bool
    sparse: bool | None
    max_file_mib: int | None
    rotational: bool | None
    writable: bool


@dataclass(frozen=True, kw_only=True)
class JupyterFacts:
    """Which Python a notebook would run, and the versions whose mismatch leaves widgets blank.

    Args:
        python: This process's interpreter.
        in_kernel: This process is a notebook's kernel.
        kernel: Name of the kernel that notebooks ask for.
        kernel_python: The interpreter that kernel starts, if the kernel exists.
        same_environment: Whether that is this environment's; ``None`` if there is no such kernel.
        jupyterlab: Version, or ``None`` if not installed; likewise the others.
        ipykernel: Version.
        ipywidgets: Version.
        jupyterlab_widgets: Version.
    """

    python: str
    in_kernel: bool
    kernel: str
    kernel_python: str | None
    same_environment: bool | None
    jupyterlab: str | None
    ipykernel: str | None
    ipywidgets: str | None
    jupyterlab_widgets: str | None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine: what it has, what this process may use of it, and what is worth saying about it.

    Args:
        name: A short label.
        origin: ``probe`` if it was looked at, ``profile`` if it holds typical values.
        about: Where the values come from.
        system: ``Linux`` or ``Darwin``.
        release: Of its kernel.
        wsl: It is Windows' subsystem for Linux.
        gpus: Every GPU this process may use.
        nvidia: The NVIDIA driver, if it answered.
        memory: Main memory.
        cpu: Processors.
        numa: NUMA nodes.
        disk: The models folder's file system; ``None`` in a profile.
        shm_mib: Size of ``/dev/shm``, if there is one.
        jupyter: Notebook facts; ``None`` in a profile.
        notes: What is worth saying.
    """

    name: str
    origin: Literal["probe", "profile"]
    about: str
    system: str
    release: str
    wsl: bool
    gpus: tuple[Gpu, ...]
    nvidia: NvidiaDriver | None
    memory: HostMemory
    cpu: Cpu
    numa: tuple[NumaNode, ...]
    disk: Disk | None
    shm_mib: int | None
    jupyter: JupyterFacts | None
    notes: tuple[Note, ...]

    @property
    def usable_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs one llama.cpp process can use: CUDA gives a process one MIG slice at most."""
        slices = [gpu for gpu in self.gpus if gpu.mig]
        return (slices[0],) if slices else self.gpus

    @property
    def unified(self) -> bool:
        """Whether GPU and processor share one memory, as on Apple silicon."""
        return any(gpu.kind == "metal" for gpu in self.gpus)

    @property
    def gpu_mib(self) -> int:
        """All memory of the usable GPUs; on Apple silicon the part of main memory that Metal lends them."""
        return sum(gpu.total_mib for gpu in self.usable_gpus)

    @property
    def capacity_mib(self) -> int:
        """All memory that weights could lie in: main memory and, where it is separate, the usable GPUs'."""
        return self.memory.total_mib + (0 if self.unified else self.gpu_mib)

    def to_json(self) -> dict[str, Any]:
        """Return the machine as a JSON object."""
        plain: dict[str, Any] = to_plain(self)
        return {"format": FORMAT, **plain}

    @classmethod
    def from_json(cls, value: Any, *, source: str = "the machine description") -> Machine:
        """Make a machine of a JSON object.

        Args:
            value: What :meth:`to_json` gave.
            source: What to call it in an error.

        Raises:
            UsageError: A key is missing, unknown, or holds what it must not (KNB132); the key is named.
        """
        try:
            return _checked(from_plain(cls, without_format(value, FORMAT)))
        except RecordError as error:
            raise UsageError(
                "KNB132",
                f"{source} is not a machine this version can read",
                why=f"{error.key or 'the whole'} {error.problem}",
                fix="Correct that key, or write the file anew with `kimi-nb check --save FILE`.",
            ) from None

    def save(self, path: Path) -> None:
        """Write the machine to ``path`` as JSON, whole or not at all.

        Raises:
            UsageError: The file cannot be written there (KNB134).
        """
        try:
            # A link is followed: /dev/stdout is one, and renaming would put our file in its place.
            write_json(Path(os.path.realpath(path)), self.to_json())
        except OSError as error:
            raise UsageError(
                "KNB134",
                f"the machine could not be saved to {path}",
                why=error.strerror or str(error),
                fix="Name a file in a folder you can write to.",
            ) from None

    @classmethod
    def load(cls, path: Path) -> Machine:
        """Read a machine that :meth:`save` wrote.

        Raises:
            UsageError: The file cannot be read or is not JSON (KNB131), or does not describe a machine
                (KNB132).
        """
        fix = "Name a file that `kimi-nb check --save FILE` wrote, or one of the profiles."
        value = read_json(path, "machine file", error_id="KNB131", fix=fix)
        return cls.from_json(value, source=str(path))


def _checked(machine: Machine) -> Machine:
    """Refuse what each number allows alone but not together."""
    for i, gpu in enumerate(machine.gpus):
        if gpu.free_mib > gpu.total_mib:
            raise RecordError(f"gpus[{i}].free_mib", f"is more than total_mib ({gpu.total_mib})")
    memory = machine.memory
    if memory.available_mib > memory.total_mib:
        raise RecordError("memory.available_mib", f"is more than total_mib ({memory.total_mib})")
    if memory.total_mib > memory.physical_mib:
        raise RecordError("memory.total_mib", f"is more than physical_mib ({memory.physical_mib})")
    if memory.swap_free_mib > memory.swap_total_mib:
        raise RecordError("memory.swap_free_mib", f"exceeds swap_total_mib ({memory.swap_total_mib})")
    for name in ("physical_cores", "logical_cores", "allowed_physical", "allowed_logical", "sockets"):
        if getattr(machine.cpu, name) < 1:
            raise RecordError(f"cpu.{name}", "must be at least 1")
    return machine
