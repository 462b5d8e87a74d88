"""Turn what a check found into as little fetching as possible.

Everything worth keeping becomes a part file with a journal of its good bytes: a shard cut short keeps its
beginning, one with a known bad piece keeps the rest, and two that were swapped become complete parts of each
other. From there on a repair is a download like any other, and as safe to interrupt.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kimi_nb.engine.fetch.check import Verdict
from kimi_nb.engine.fetch.part import PartFile, seed
from kimi_nb.engine.fetch.shelf import Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kimi_nb.engine.fetch.check import Checked
    from kimi_nb.engine.fetch.manifest import RemoteFile
    from kimi_nb.engine.fetch.shelf import Entry, Shelf

__all__ = ["link_copies", "part_path", "salvage"]


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
            _to_part(look, part_path(entry, file), file, ((0, file.size),))
        elif look.good and look.verdict in {Verdict.SHORT, Verdict.LONG, Verdict.DAMAGED}:
            _to_part(look, part_path(entry, look.file), look.file, look.good)


def _to_part(look: Checked, part: Path, file: RemoteFile, good: tuple[tuple[int, int], ...]) -> None:
    path, real = look.path, look.path.resolve()
    if real.exists() and real.stat().st_nlink > 1:
        return  # the same bytes are a file somewhere else, which is not ours to write into
    with PartFile(part, file.key, file.size) as locked:  # nobody else is at it, or this says Busy
        if locked.here() >= sum(stop - start for start, stop in good):
            return  # what came already is worth more
        if not real.exists() or Stamp.of(real) != look.stamp:
            return  # another process has repaired it meanwhile
        part.unlink()
        seed(part, file.key, file.size, good)
        real.rename(part)
    if path.is_symlink():
        path.unlink()


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
        path.unlink(missing_ok=True)  # a link that leads nowhere
        try:
            os.link(copy.resolve(), path)
        except OSError:  # another filesystem, or one without hard links
            path.symlink_to(copy.resolve())
    except OSError:
        return False
    return True
