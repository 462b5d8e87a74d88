"""NUMA nodes: memory that is near some processors and farther from others."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from kimi_nb.machine.machine import Note, NumaNode
from kimi_nb.machine.read import MIB, cpu_list, key_values, text

__all__ = ["read_numa"]


def read_numa(root: Path = Path("/")) -> tuple[tuple[NumaNode, ...], list[Note]]:
    """Read Linux's NUMA nodes below ``root``; other systems show none."""
    nodes = []
    for index in sorted(cpu_list(text(root / "sys/devices/system/node/online"))):
        folder = root / f"sys/devices/system/node/node{index}"
        cpus = text(folder / "cpulist") or ""
        lines = text(folder / "meminfo") or ""
        sizes = {key: int(kib) // 1024 for key, kib in re.findall(r"Node \d+ (\w+):\s+(\d+) kB", lines)}
        total = sizes.get("MemTotal", 0)
        nodes.append(
            NumaNode(
                index=index,
                cpus=cpus,
                logical_cores=len(cpu_list(cpus)),
                total_mib=total,
                free_mib=min(sizes.get("MemFree", 0), total),
            )
        )
    if len(nodes) == 1:
        # All memory is the only node's. Its own count can lag where a host adds memory to a running guest.
        info = key_values(root / "proc/meminfo")
        total = info.get("MemTotal", 0) // MIB
        nodes = [replace(nodes[0], total_mib=total, free_mib=min(info.get("MemFree", 0) // MIB, total))]
    with_cpus = [node for node in nodes if node.logical_cores]
    if len(with_cpus) < 2:  # noqa: PLR2004 - one node is no NUMA
        return tuple(nodes), []
    return tuple(nodes), [
        Note(
            id="KNB121",
            severity="info",
            what=f"memory is spread over {len(with_cpus)} NUMA nodes",
            why="weights that lie on one node are slow to reach from the others",
            fix="Compare llama.cpp's --numa distribute with numactl --interleave=all and --numa numactl.",
        )
    ]
