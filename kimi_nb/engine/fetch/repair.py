"""Turn what a check found into as little fetching as possible.

Everything worth keeping becomes a part file with a journal of its good bytes: a shard cut short keeps its
beginning, one with a known bad piece keeps the rest, and two that were swapped become complete parts of each
other. From there on a repair is a download like any other, and as safe to interrupt.
"""

from __future__ import annotations

import glob
import os
import random
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from kimi_nb.engine.fetch.check import Verdict
from kimi_nb.engine.fetch.lock import Busy, Lock
from kimi_nb.engine.fetch.part import PartFile, journal_of, lock_of, seed
from kimi_nb.engine.fetch.shelf import Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kimi_nb.engine.fetch.check import Checked
    from kimi_nb.engine.fetch.manifest import RemoteFile
    from kimi_nb.engine.fetch.shelf import Entry, Shelf

PATIENCE_S = 2.0

Good = tuple[tuple[int, int], ...]

__all__ = ["leftovers", "link_copies", "part_path", "salvage", "sweep"]


def part_path(entry: Entry, file: RemoteFile) -> Path:
    """Return where a file is collected: beside its place, so that giving it its name is one rename."""
    place = entry.place(file)
    return place.with_name(f".{place.name[:150]}.{file.key[:12]}.part")


def salvage(entry: Entry, checked: Iterable[Checked]) -> None:
    """Make parts of whatever a check found to be of use."""
    files = {file.path: file for file in entry.manifest.files}
    broken = {look.file.path for look in checked if not look.ok}
    for look in checked:
        if look.verdict is Verdict.MISPLACED and look.belongs in broken:
            file = files[look.belongs]
            _patiently(entry, look, file, ((0, file.size),))
        elif look.good and look.verdict in {Verdict.SHORT, Verdict.LONG, Verdict.DAMAGED}:
            _patiently(entry, look, look.file, look.good)


def _patiently(entry: Entry, look: Checked, file: RemoteFile, good: Good) -> None:
    """Wait a little for another process that salvages too; not for one that is fetching the file."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            _to_part(entry, look, file, good)
        except Busy:
            if time.monotonic() > until:
                return
            time.sleep(random.uniform(0.02, 0.1))  # noqa: S311 - so that two that block each other do not stay in step
        else:
            return


def _to_part(entry: Entry, look: Checked, file: RemoteFile, good: Good) -> None:
    """Make the file that a check looked at a part of ``file``, of which it holds the ranges ``good``."""
    part, own = part_path(entry, file), part_path(entry, look.file)
    with ExitStack() as held:
        if own != part:  # whoever gives the place a new file holds this one
            held.enter_context(Lock(lock_of(own)))
        locked = held.enter_context(PartFile(part, file.key, file.size))
        real = look.path.resolve()
        # Another process may have repaired it meanwhile; what is a file elsewhere too is not ours to write.
        ours = real.exists() and Stamp.of(real) == look.stamp and real.stat().st_nlink == 1
        if ours and locked.here() < sum(stop - start for start, stop in good):
            part.unlink()
            seed(part, file.key, file.size, good)
            real.rename(part)
            if look.path.is_symlink():
                look.path.unlink()
        elif not locked.here():
            locked.discard()


def leftovers(entry: Entry, file: RemoteFile) -> list[Path]:
    """Return what there is of a file's part: bytes, journal, journals half written, lock."""
    part = part_path(entry, file)
    journal = journal_of(part)
    torn = journal.parent.glob(glob.escape(f".{journal.name}.") + "*")  # as write_bytes names them
    return [*(path for path in (part, journal, lock_of(part)) if path.exists()), *torn]


def sweep(shelf: Shelf, entry: Entry) -> None:
    """Clear away what a process that was killed at the very end left beside files that are whole."""
    for file in entry.manifest.files:
        if leftovers(entry, file) and shelf.is_proven(file, entry.path(file)):
            with suppress(Busy, OSError):
                place = lock_of(part_path(entry, file))
                lock = Lock(place)
                for path in leftovers(entry, file):
                    if path != place:
                        path.unlink(missing_ok=True)
                lock.release(remove=True)


def link_copies(
    shelf: Shelf, entry: Entry, checked: Iterable[Checked], cache: Path | None
) -> dict[str, Path]:
    """Put links where the same content lies elsewhere: in another set, or in the Hub's cache.

    Returns:
        Path in the repository to the place it was linked to. A link into the cache is still to be checked.
    """
    linked: dict[str, Path] = {}
    for look in checked:
        if look.verdict is not Verdict.MISSING or look.file.sha256 is None:
            continue
        copies = [copy for copy in shelf.proven_copies(look.file) if copy != look.path]
        proven = bool(copies)
        if cache is not None and not proven:
            blob = cache / f"models--{entry.manifest.repo.replace('/', '--')}" / "blobs" / look.file.sha256
            copies = [blob] if blob.is_file() and blob.stat().st_size == look.file.size else []
        if copies and _link(copies[0], look.path):
            linked[look.file.path] = copies[0]
            if proven:
                shelf.prove(look.file, look.path, shelf.marks(look.file))
    return linked


def _link(copy: Path, path: Path) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() and not path.exists():
            path.unlink()  # a link that leads nowhere
        try:
            os.link(copy.resolve(), path)
        except FileExistsError:
            return False  # another process was faster
        except OSError:  # another filesystem, or one without hard links
            path.symlink_to(copy.resolve())
    except OSError:
        return False
    return True
