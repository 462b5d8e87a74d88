"""A folder for files that look like a model and are none: private, unmistakable by name, gone afterwards.

llama-server would load such a file and answer rubbish. So the folder's name ends in ``.header-only``, which
no code of ours takes a model from, nobody else may look into it, and whoever makes the next one removes those
whose owner died.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.errors import BuildError
from kimi_nb.files import cache_home
from kimi_nb.model.header_only import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from filelock import FileLock

__all__ = ["private_folder", "rehearse_home", "sweep"]

_LOCK = ".lock"


def rehearse_home() -> Path:
    """Return the folder that holds the private folders and the saved profiles."""
    return cache_home() / "rehearse"


@contextmanager
def private_folder(purpose: str, parent: Path | None = None) -> Iterator[Path]:
    """Make an empty folder with mode 0700, hold its lock, and remove it with everything in it afterwards.

    A process that is killed cannot remove it; the kernel lets go of its lock, and the next call here removes
    what it left.

    Args:
        purpose: The start of its name, such as ``ghost``.
        parent: Where it lies; in our cache folder if not given.

    Raises:
        BuildError: It cannot be made there (KNB840).
    """
    home = parent or rehearse_home()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _lock(home / _LOCK):  # so that nobody sweeps it away before it is locked
            _sweep(home)
            folder = Path(tempfile.mkdtemp(prefix=f"{purpose}-", suffix=SUFFIX, dir=home))
            held = _lock(folder / _LOCK)
            held.acquire()
    except OSError as error:
        raise BuildError(
            "KNB840",
            f"no private folder can be made in {home}",
            why=error.strerror or str(error),
            fix="Make that folder writable, or set KIMI_NB_CACHE to one that is.",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        held.release()


def sweep(parent: Path | None = None) -> None:
    """Remove the private folders whose owner died; where nothing can be removed, nothing is."""
    home = parent or rehearse_home()
    if not home.is_dir():
        return
    try:
        with _lock(home / _LOCK):
            _sweep(home)
    except OSError:
        return  # such as a read-only disk


def _lock(path: Path) -> FileLock:
    from filelock import FileLock

    # Not shared among a process's calls: the second must find the first one's folder locked.
    return FileLock(path, is_singleton=False)


def _sweep(home: Path) -> None:
    from filelock import Timeout

    for folder in home.glob(f"*{SUFFIX}"):
        if folder.is_symlink() or not folder.is_dir():
            continue
        lock = _lock(folder / _LOCK)
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):
            continue  # in use, or not ours
