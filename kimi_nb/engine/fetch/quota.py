"""What a disk quota leaves this user, where the kernel keeps one."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["left_by_quota"]

_GET_USER = (0x800007 << 8) | 0
_GET_GROUP = (0x800007 << 8) | 1
_HAS_LIMITS, _HAS_SPACE = 1, 2
_BLOCK = 1024


class _Quota(ctypes.Structure):
    """``struct if_dqblk`` of the Linux kernel; limits count 1 KiB blocks, use counts bytes."""

    _fields_ = (
        *(
            (name, ctypes.c_uint64)
            for name in ("hard", "soft", "used", "files_hard", "files_soft", "files_used")
        ),
        ("grace", ctypes.c_uint64),
        ("files_grace", ctypes.c_uint64),
        ("valid", ctypes.c_uint32),
    )


def _quotactl(command: int, device: bytes, owner: int, quota: ctypes.Structure) -> int:
    return int(ctypes.CDLL(None).quotactl(command, device, owner, ctypes.byref(quota)))


def left_by_quota(
    device: str, quotactl: Callable[[int, bytes, int, ctypes.Structure], int] = _quotactl
) -> int | None:
    """Return how many bytes the user's or the group's quota leaves on a device; ``None`` where there is none.

    Args:
        device: Such as ``/dev/sda1``. The quota of a network mount is known to its server only.
        quotactl: The system call.
    """
    if sys.platform != "linux" or not device.startswith("/dev/"):
        return None
    left = []
    for command, owner in ((_GET_USER, os.getuid()), (_GET_GROUP, os.getgid())):
        quota = _Quota()
        if quotactl(command, device.encode(), owner, quota) == 0 and quota.valid & _HAS_LIMITS:
            limit = (quota.hard or quota.soft) * _BLOCK
            if limit and quota.valid & _HAS_SPACE:
                left.append(max(0, limit - quota.used))
    return min(left, default=None)
