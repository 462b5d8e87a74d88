"""A lock between processes that the kernel frees when its holder ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

__all__ = ["Busy", "Lock", "is_held"]

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


class Busy(Exception):  # noqa: N818 - a state, told by the name
    """Another process holds the lock."""


class Lock:
    """Held from its making to its release.

    Args:
        path: A file for the lock alone, beside what it is for.

    Raises:
        Busy: Another process holds it.
        OSError: The file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = _locked(path)

    def release(self, *, remove: bool = False) -> None:
        """Let go of it; ``remove`` takes the file away too, which is safe only while the lock is held."""
        if self._fd >= 0:
            if remove:
                self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _locked(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise Busy(path) from error
        except OSError as error:
            # Some network filesystems have no locks; a person was warned about network mounts.
            if error.errno not in _NO_LOCKS:
                os.close(fd)
                raise
        try:
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)  # the holder before us took the file away: what we hold is a lock on nothing


def is_held(path: Path) -> bool:
    """Tell whether somebody holds the lock, without making its file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared, so that two who only ask do not take each other for a holder.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False
