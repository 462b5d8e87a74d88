"""Small readers for /proc and /sys: what is missing or odd is ``None``, never a traceback."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["KIB", "MIB", "Mount", "cpu_list", "key_values", "mounts", "number", "output", "text"]

KIB = 1024
MIB = 1024 * 1024

_OCTAL = re.compile(r"\\([0-7]{3})")


def text(path: Path) -> str | None:
    """Return what a file of /proc or /sys holds, without the last newline."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError:
        return None


def number(path: Path) -> int | None:
    """Return the whole number a file holds; ``max``, ``-1``, nothing or anything else is ``None``."""
    found = (text(path) or "").strip()
    return int(found) if re.fullmatch(r"\d{1,20}", found) else None


def key_values(path: Path) -> dict[str, int]:
    """Read lines such as ``MemTotal:  24684084 kB`` or ``inactive_file 4096`` into a table, in bytes."""
    found = {}
    for line in (text(path) or "").splitlines():
        match = re.fullmatch(r"([\w()]+):?\s+(\d{1,20})(\s+kB)?\s*", line)
        if match:
            found[match[1]] = int(match[2]) * (KIB if match[3] else 1)
    return found


def cpu_list(value: str | None) -> set[int]:
    """Read a kernel list such as ``0-3,8``; parts that are not of that form are left out."""
    found: set[int] = set()
    for part in (value or "").split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if match:
            found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found


@dataclass(frozen=True)
class Mount:
    """One line of ``/proc/self/mountinfo``."""

    device: str
    root: str
    point: str
    filesystem: str
    options: tuple[str, ...]


def mounts(root: Path) -> list[Mount]:
    """Read ``/proc/self/mountinfo`` below ``root``; a later mount lies over an earlier one."""
    found = []
    for line in (text(root / "proc/self/mountinfo") or "").splitlines():
        before, dash, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if dash and len(left) >= 6 and len(right) >= 3:  # noqa: PLR2004 - the columns proc(5) promises
            found.append(
                Mount(left[2], _plain(left[3]), _plain(left[4]), right[0], tuple(right[2].split(",")))
            )
    return found


def _plain(path: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), path)


def output(command: Sequence[str], *, timeout_s: float = 10.0) -> str | None:
    """Return what a small system program prints, or ``None`` if it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=True,
            text=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()
