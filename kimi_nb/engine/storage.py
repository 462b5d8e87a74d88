"""The engine's part of the cache folder, and what to say when it cannot be written."""

from __future__ import annotations

import errno
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kimi_nb.errors import BuildError
from kimi_nb.files import cache_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Progress = Callable[[str, float | None], None]
    """Called with a line of text, and with the fraction done (0 to 1) where there is one."""

__all__ = ["check_space", "disk_full", "engine_home", "require_folder", "storage_errors"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ELSEWHERE = "set KIMI_NB_CACHE to a folder on another disk"


def engine_home() -> Path:
    """Return the folder that holds sources, tools, builds and logs."""
    return cache_home() / "engine"


def free_mib(folder: Path) -> int:
    """Return the free space, in MiB, where ``folder`` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free >> 20


def check_space(folder: Path, need_mib: int) -> None:
    """Raise BuildError unless ``need_mib`` MiB are free where ``folder`` is or will be."""
    free = free_mib(folder)
    if free < need_mib:
        raise BuildError(
            "KNB208",
            f"not enough disk space to build llama.cpp in {folder}",
            why=f"{need_mib} MiB are needed and {free} MiB are free",
            fix=f"Free {need_mib - free} MiB there, or {_ELSEWHERE}.",
        )


def disk_full(folder: Path, need_mib: int | None = None) -> BuildError:
    """Return the error for a disk that filled up during the work."""
    need = f", and the rest needs up to {need_mib} MiB" if need_mib else ""
    return BuildError(
        "KNB208",
        f"the disk filled up during the build in {folder}",
        why=f"{free_mib(folder)} MiB are free there now{need}",
        fix=f"Free some space and run the same command, which continues; or {_ELSEWHERE}.",
    )


def _cannot_write(folder: Path, error: OSError) -> BuildError:
    return BuildError(
        "KNB220",
        f"cannot write in {folder}",
        why=f"{error.strerror}: {error.filename or folder}",
        fix=f"Make that folder writable, or {_ELSEWHERE} that you may write to.",
    )


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn a full or unwritable disk, met while writing in ``folder``, into a BuildError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(folder) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise _cannot_write(folder, error) from error
        raise


def require_folder(folder: Path) -> Path:
    """Make ``folder`` if it is missing, and return it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # of any kind: a file is in the way, a filesystem takes no folders, ...
        raise (disk_full(folder) if error.errno in _FULL else _cannot_write(folder, error)) from error
    return folder
