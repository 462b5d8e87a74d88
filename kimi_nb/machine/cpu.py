"""Processors: cores, what of them this process may use, and the instruction sets llama.cpp has code for."""

from __future__ import annotations

import math
import platform
import re
from pathlib import Path

from kimi_nb.machine.cgroup import cpu_quota
from kimi_nb.machine.machine import Cpu, Note
from kimi_nb.machine.read import cpu_list, output, text

__all__ = ["read_cpu", "read_cpu_macos"]

_X86 = (
    "ssse3",
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "bmi2",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512vbmi",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
)
_ARM = {
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
_APPLE = {
    "hw.optional.neon": "neon",
    "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
}
_NEEDED = {"x86_64": {"avx2", "fma", "f16c"}, "aarch64": {"dotprod"}, "arm64": {"dotprod"}}


def read_cpu(root: Path = Path("/"), *, architecture: str | None = None) -> tuple[Cpu, list[Note]]:
    """Read Linux's processors below ``root``; ``architecture`` is this machine's own by default."""
    architecture = architecture or platform.machine()
    folder = root / "sys/devices/system/cpu"
    info = _cpuinfo(root)
    online = cpu_list(text(folder / "online")) or set(range(max(1, len(info))))
    allowed = _allowed(root) & online or online
    siblings = {cpu: _siblings(folder, cpu) for cpu in online}
    packages = {text(folder / f"cpu{cpu}/topology/physical_package_id") for cpu in online}
    fast = cpu_list(text(root / "sys/devices/cpu_core/cpus")) & online
    quota = cpu_quota(root)
    cpu = Cpu(
        model=_model(info[0] if info else {}),
        architecture=architecture,
        sockets=max(1, len(packages - {None, "-1"})),
        physical_cores=len(set(siblings.values())),
        logical_cores=len(online),
        performance_cores=len({siblings[cpu] for cpu in fast}) if fast and fast != online else None,
        allowed_physical=len({siblings[cpu] for cpu in allowed}),
        allowed_logical=len(allowed),
        quota_cores=quota[0] if quota and quota[0] < len(online) else None,
        features=_features(info[0] if info else {}),
    )
    return cpu, _notes(cpu, quota[1] if quota else "")


def read_cpu_macos() -> tuple[Cpu, list[Note]]:
    """Read macOS's processors with ``sysctl``; macOS limits no process to some of them."""
    architecture = platform.machine()
    physical = _sysctl_number("hw.physicalcpu") or 1
    logical = _sysctl_number("hw.logicalcpu") or physical
    fast = _sysctl_number("hw.perflevel0.physicalcpu")
    words = f"{_sysctl('machdep.cpu.features')} {_sysctl('machdep.cpu.leaf7_features')}".lower().split()
    intel = {"avx1.0": "avx", "sse4.2": "sse4_2"}
    flags = {intel.get(word, word) for word in words}
    features = [name for name in _X86 if name in flags]
    features += [name for key, name in _APPLE.items() if _sysctl_number(key)]
    cpu = Cpu(
        model=_sysctl("machdep.cpu.brand_string") or "unknown",
        architecture=architecture,
        sockets=_sysctl_number("hw.packages") or 1,
        physical_cores=physical,
        logical_cores=logical,
        performance_cores=fast if fast and fast != physical else None,
        allowed_physical=physical,
        allowed_logical=logical,
        quota_cores=None,
        features=tuple(features),
    )
    return cpu, _notes(cpu, "")


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    blocks = (text(root / "proc/cpuinfo") or "").split("\n\n")
    parsed = [dict(re.findall(r"^([^\t:]+?)\s*:[ \t]*(.*)$", block, re.MULTILINE)) for block in blocks]
    return [block for block in parsed if "processor" in block]


def _model(info: dict[str, str]) -> str:
    part = f"ARM processor (implementer {info.get('CPU implementer')}, part {info.get('CPU part')})"
    return info.get("model name") or info.get("Model") or (part if "CPU part" in info else "unknown")


def _features(info: dict[str, str]) -> tuple[str, ...]:
    if "Features" in info:
        words = info["Features"].split()
        return tuple(name for word, name in _ARM.items() if word in words)
    words = info.get("flags", "").split()
    return tuple(name for name in _X86 if name in words)


def _allowed(root: Path) -> set[int]:
    """Return this process's affinity, which a cpuset narrows too."""
    match = re.search(r"^Cpus_allowed_list:\s*(\S+)", text(root / "proc/self/status") or "", re.MULTILINE)
    return cpu_list(match[1]) if match else set()


def _siblings(folder: Path, cpu: int) -> tuple[int, ...]:
    """Return the logical processors that share this one's core."""
    return tuple(sorted(cpu_list(text(folder / f"cpu{cpu}/topology/thread_siblings_list")) or {cpu}))


def _notes(cpu: Cpu, quota_source: str) -> list[Note]:
    notes = []
    quota = math.inf if cpu.quota_cores is None else cpu.quota_cores
    if min(cpu.allowed_physical, quota) < cpu.physical_cores:
        by_quota = quota < cpu.allowed_physical
        limited = f"{quota_source} limits it" if by_quota else "its affinity or cpuset limits it"
        notes.append(
            Note(
                id="KNB111",
                severity="warning",
                what=f"{cpu.usable_cores} of {cpu.physical_cores} cores can work for this process",
                why=f"{limited}, and llama.cpp by itself starts a thread for each of the machine's cores",
                fix=f"Pass --threads {cpu.usable_cores}.",
            )
        )
    lacking = sorted(_NEEDED.get(cpu.architecture, set()) - set(cpu.features))
    if lacking:
        notes.append(
            Note(
                id="KNB112",
                severity="warning",
                what=f"the processor shows no {', '.join(lacking)}",
                why="it is too old, or a virtual machine hides it, and llama.cpp is much slower without",
                fix="In a virtual machine, pass the host's processor type through (QEMU: -cpu host).",
            )
        )
    return notes


def _sysctl(name: str) -> str:
    return output(["sysctl", "-n", name]) or ""


def _sysctl_number(name: str) -> int | None:
    found = _sysctl(name)
    return int(found) if found.isdecimal() else None
