"""Main memory and swap, with every container limit that binds this process."""

from __future__ import annotations

import re
from pathlib import Path

from kimi_nb.errors import KimiNbError
from kimi_nb.machine.cgroup import memory_levels
from kimi_nb.machine.machine import HostMemory, Note
from kimi_nb.machine.read import MIB, key_values, output

__all__ = ["read_host_memory", "read_host_memory_macos"]


def read_host_memory(root: Path = Path("/")) -> tuple[HostMemory, list[Note]]:
    """Read Linux's memory below ``root``.

    Raises:
        KimiNbError: ``/proc/meminfo`` is missing or empty (KNB125).
    """
    info = key_values(root / "proc/meminfo")
    if not info.get("MemTotal"):
        raise _unreadable(f"{root / 'proc/meminfo'} does not give MemTotal")
    physical = info["MemTotal"] // MIB
    # Before Linux 3.14 there is no MemAvailable; free memory and the file cache come near it.
    cached = info.get("MemFree", 0) + info.get("Buffers", 0) + info.get("Cached", 0)
    available = min(physical, info.get("MemAvailable", cached) // MIB)
    swap_total, swap_free = info.get("SwapTotal", 0) // MIB, info.get("SwapFree", 0) // MIB
    total, source = physical, None
    for level in memory_levels(root):
        for limit in level.limits:
            if limit.mib < total:
                total, source = limit.mib, limit.source
            available = min(available, max(0, limit.mib - level.used_mib))
        if level.swap_limit_mib is not None:
            swap_total = min(swap_total, level.swap_limit_mib)
            swap_free = min(swap_free, max(0, level.swap_limit_mib - level.swap_used_mib))
    memory = HostMemory(
        total_mib=total,
        available_mib=min(available, total),
        physical_mib=physical,
        limit_mib=None if source is None else total,
        limit_source=source,
        swap_total_mib=swap_total,
        swap_free_mib=min(swap_free, swap_total),
    )
    if source is None:
        return memory, []
    return memory, [
        Note(
            id="KNB110",
            severity="warning",
            what=f"only {total / 1024:.1f} GiB of the machine's {physical / 1024:.1f} GiB memory may be used",
            why=f"{source} limits it",
            fix="Everything here is reckoned with it; raise it where the container or job was started.",
        )
    ]


def read_host_memory_macos() -> tuple[HostMemory, list[Note]]:
    """Read macOS's memory with ``sysctl`` and ``vm_stat``.

    Raises:
        KimiNbError: ``sysctl hw.memsize`` gives no number (KNB125).
    """
    size = output(["sysctl", "-n", "hw.memsize"])
    if size is None or not size.isdecimal() or not int(size):
        raise _unreadable("sysctl hw.memsize gives no number")
    total = int(size) // MIB
    stat = output(["vm_stat"]) or ""
    page = re.search(r"page size of (\d+) bytes", stat)
    if page is None:
        raise _unreadable("vm_stat gives no page size")
    pages = {
        name: int(count) for name, count in re.findall(r"^Pages ([\w ]+):\s+(\d+)\.", stat, re.MULTILINE)
    }
    free = sum(pages.get(name, 0) for name in ("free", "inactive", "speculative"))
    swap = output(["sysctl", "-n", "vm.swapusage"]) or ""
    swap_mib = {name: int(float(mib)) for name, mib in re.findall(r"(total|free) = ([\d.]+)M", swap)}
    return HostMemory(
        total_mib=total,
        available_mib=min(total, free * int(page[1]) // MIB),
        physical_mib=total,
        limit_mib=None,
        limit_source=None,
        swap_total_mib=swap_mib.get("total", 0),
        swap_free_mib=min(swap_mib.get("free", 0), swap_mib.get("total", 0)),
    ), []


def _unreadable(why: str) -> KimiNbError:
    return KimiNbError(
        "KNB125",
        "this machine's memory could not be read",
        why=why,
        fix="Give a machine file or profile instead: kimi-nb check --machine FILE.",
    )
