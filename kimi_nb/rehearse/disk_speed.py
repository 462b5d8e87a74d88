"""How fast a disk reads what is not in memory: what decides the speed where weights exceed it."""

from __future__ import annotations

import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from kimi_nb.plan.profile import Cost

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["disk_read_mib_s"]

_MIB = 1 << 20
_READERS = 4


def disk_read_mib_s(folder: Path, *, size_mib: int = 256, seconds: float = 3.0) -> Cost | None:
    """Write a file, read it past the system's cache, and return MiB per second; higher is faster.

    The low figure is one reader with small pieces, as when a mapped file is read page by page; the middle one
    reader with large pieces; the high one several readers at once.

    Args:
        folder: Where; the file is removed again.
        size_mib: Size of the file.
        seconds: Time for the three measurements together.

    Returns:
        None where the file cannot be written there, or the system reads it from memory all the same.
    """
    path = folder / "disk-speed"
    try:
        piece = os.urandom(4 * _MIB)
        with path.open("xb") as file:
            for _ in range(size_mib // 4):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        each = seconds / 3
        rates = [
            _read(path, size_mib, 128 << 10, 1, each),
            _read(path, size_mib, 4 * _MIB, 1, each),
            _read(path, size_mib, 4 * _MIB, _READERS, each),
        ]
    except OSError:  # a full disk, or one that cannot be read without the cache
        return None
    finally:
        path.unlink(missing_ok=True)
    low, middle, high = sorted(rates)
    return Cost(low=low, expected=middle, high=high)


def _read(path: Path, size_mib: int, piece: int, readers: int, seconds: float) -> float:
    """Return MiB/s of reading parts of a file, each reader its own, for at most so long."""
    deadline = time.monotonic() + seconds
    part = size_mib * _MIB // readers
    start = time.monotonic()
    with ThreadPoolExecutor(readers) as pool:
        done = sum(pool.map(lambda n: _read_part(path, n * part, part, piece, deadline), range(readers)))
    return done / _MIB / max(time.monotonic() - start, 1e-6)


def _read_part(path: Path, start: int, length: int, piece: int, deadline: float) -> int:
    handle = _open_uncached(path)
    try:
        with mmap.mmap(-1, piece) as buffer:  # aligned to pages, as reading past the cache demands
            done = 0
            while done + piece <= length and time.monotonic() < deadline:
                got = os.preadv(handle, [buffer], start + done)
                if got <= 0:
                    break
                done += got
            return done
    finally:
        os.close(handle)


def _open_uncached(path: Path) -> int:
    """Open a file so that reads come from the disk: directly, or after asking for its pages to be dropped."""
    with suppress(OSError, AttributeError):
        return os.open(path, os.O_RDONLY | os.O_DIRECT)
    handle = os.open(path, os.O_RDONLY)
    with suppress(OSError, AttributeError):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    with suppress(OSError, ImportError, AttributeError):
        import fcntl

        fcntl.fcntl(handle, getattr(fcntl, "F_NOCACHE"), 1)  # noqa: B009 - macOS only
    return handle
