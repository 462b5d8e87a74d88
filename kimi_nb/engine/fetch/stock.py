"""What lies in a models folder, in what state, and how to remove it without taking anything else along."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_nb.engine.fetch.job import FileProgress, State
from kimi_nb.engine.fetch.lock import is_held
from kimi_nb.engine.fetch.part import bytes_in, lock_of
from kimi_nb.engine.fetch.repair import leftovers, part_path
from kimi_nb.errors import DownloadError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kimi_nb.engine.fetch.manifest import RemoteFile
    from kimi_nb.engine.fetch.shelf import Entry, Shelf

__all__ = ["Removal", "Stock", "files_of", "find", "plan_removal", "remove", "stock"]


@dataclass(frozen=True)
class Stock:
    """One set on the shelf.

    Args:
        entry: Its manifest and place.
        state: ``verified``, ``incomplete``, ``changed`` (files differ from what was proven) or ``missing``.
        here_bytes: What it takes on the disk, unfinished files included.
        whole: How many of its files are proven and unchanged.
    """

    entry: Entry
    state: str
    here_bytes: int
    whole: int

    def as_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        manifest = self.entry.manifest
        return {
            "name": manifest.name,
            "repo": manifest.repo,
            "quant": manifest.quant,
            "commit": manifest.commit,
            "folder": str(self.entry.root),
            "state": self.state,
            "adopted": self.entry.adopted,
            "total_bytes": manifest.size,
            "here_bytes": self.here_bytes,
            "files": len(manifest.files),
            "files_whole": self.whole,
        }


def stock(shelf: Shelf) -> list[Stock]:
    """Look at every set; costs a stat a file."""
    return [_look(shelf, entry) for entry in shelf.entries()]


def _look(shelf: Shelf, entry: Entry) -> Stock:
    paths = [(file, entry.path(file)) for file in entry.manifest.files]
    whole = sum(shelf.is_proven(file, path) for file, path in paths)
    there = [path for _, path in paths if path.exists()]
    left = [path for file in entry.manifest.files for path in leftovers(entry, file)]
    here = sum(_taken(path) for path in (*there, *left))
    if whole == len(paths):
        state = "verified" if entry.complete else "incomplete"
    elif entry.complete and len(there) == len(paths):
        state = "changed"
    else:
        state = "incomplete" if there or left else "missing"
    return Stock(entry, state, here, whole)


def _taken(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:  # gone since: a download that goes on changes its journals
        return 0


def files_of(shelf: Shelf, entry: Entry) -> tuple[FileProgress, ...]:
    """Return how far each file of a set is, as the disk tells it; costs a stat a file, and no network."""
    return tuple(_file(shelf, entry, file) for file in entry.manifest.files)


def _file(shelf: Shelf, entry: Entry, file: RemoteFile) -> FileProgress:
    path, part = entry.path(file), part_path(entry, file)
    if shelf.is_proven(file, path):
        return FileProgress(file.path, file.size, file.size, State.DONE)
    if path.exists():  # not proven, or changed since: whoever downloads next looks at it first
        return FileProgress(file.path, file.size, 0, State.WAITING)
    state = State.ELSEWHERE if is_held(lock_of(part)) else State.WAITING
    return FileProgress(file.path, file.size, bytes_in(part, file.key, file.size), state)


def find(shelf: Shelf, name: str) -> Entry:
    """Return the set that a name stands for: ``namespace/name:quant``, or any part of it that fits only one.

    Raises:
        UsageError: None fits, or several do (KNB418).
    """
    entries = list(shelf.entries())
    exact = [entry for entry in entries if entry.manifest.name == name]
    fitting = exact or [entry for entry in entries if name.lower() in entry.manifest.name.lower()]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(entry.manifest.name for entry in fitting or entries) or "nothing"
    raise UsageError(
        "KNB418",
        f"{name!r} names {'several sets' if fitting else 'no set'} in {shelf.folder}",
        why=f"{'these fit' if fitting else 'there is'}: {known}",
        fix="Give the whole name, as kimi-nb models prints it.",
    )


@dataclass(frozen=True)
class Removal:
    """What removing a set would take away.

    Args:
        entry: The set.
        files: Files and unfinished parts that would be deleted.
        kept: Files that another set has too, which stay.
        freed_bytes: Space that would become free.
    """

    entry: Entry
    files: tuple[Path, ...]
    kept: tuple[Path, ...]
    freed_bytes: int


def plan_removal(shelf: Shelf, entry: Entry, *, adopted_too: bool = False) -> Removal:
    """Say what would be deleted: only files of this set's manifest, and only those no other set has.

    An adopted set's files were not put there by us: they stay unless ``adopted_too`` is true.
    """
    others = {
        os.path.realpath(other.path(file))
        for other in shelf.entries()
        if other.manifest.name != entry.manifest.name
        for file in other.manifest.files
    }
    mine = [path for file in entry.manifest.files if os.path.lexists(path := entry.path(file))]
    if entry.blobs is not None:
        mine += [entry.place(file) for file in entry.manifest.files if entry.place(file).exists()]
    if entry.adopted and not adopted_too:
        return Removal(entry, (), tuple(mine), 0)
    kept = tuple(path for path in mine if os.path.realpath(path) in others)
    left = [path for file in entry.manifest.files for path in leftovers(entry, file)]
    files = (*(path for path in mine if path not in kept), *left)
    freed = sum(
        path.stat().st_blocks * 512 for path in files if not path.is_symlink() and path.stat().st_nlink == 1
    )
    return Removal(entry, files, kept, freed)


def remove(shelf: Shelf, removal: Removal) -> None:
    """Carry out a removal.

    Raises:
        DownloadError: A process uses one of the files (KNB418), or one cannot be deleted (KNB410).
    """
    used = _users(removal.files)
    if used:
        name, user = next(iter(used.items()))
        raise DownloadError(
            "KNB418",
            f"{removal.entry.manifest.name} is in use",
            why=f"{user} has {Path(name).name} open",
            fix="Stop it first, then remove the model.",
        )
    try:
        for path in removal.files:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise DownloadError(
            "KNB410",
            f"cannot delete {error.filename}",
            why=(error.strerror or str(error)).lower(),
            fix="Check the folder's permissions, then run the same command again.",
        ) from error
    shelf.forget(removal.entry)
    if not removal.entry.adopted:
        for folder in sorted({path.parent for path in removal.files}, reverse=True):
            while folder != shelf.folder and folder.is_relative_to(shelf.folder):
                with suppress(OSError):
                    folder.rmdir()  # only when empty
                folder = folder.parent  # noqa: PLW2901 - upwards


def _users(files: Iterable[Path]) -> dict[str, str]:
    """Return which of the files some process of this user has open or mapped, and which process that is."""
    import psutil

    wanted = {os.path.realpath(path) for path in files}
    found: dict[str, str] = {}
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error, OSError):
            own = process.pid == os.getpid()
            for path in wanted & _open_files(process):
                found[path] = "this process" if own else f"{process.info['name']} (process {process.pid})"
    return found


def _open_files(process: Any) -> set[str]:
    opened = {file.path for file in process.open_files()}
    if sys.platform != "linux":
        return opened
    # Not psutil's memory_maps: it reads each mapping's statistics, which takes a second for a large model.
    with Path(f"/proc/{process.pid}/maps").open(encoding="utf-8", errors="replace") as maps:
        return opened | {line.split(maxsplit=5)[5].strip() for line in maps if "/" in line}
