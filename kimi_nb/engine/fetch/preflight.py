"""What can be known to go wrong before the first byte is fetched."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.engine.fetch.quota import left_by_quota
from kimi_nb.engine.fetch.trouble import disk_error, too_large
from kimi_nb.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.engine.fetch.manifest import RemoteFile

__all__ = ["Need", "Room", "check_room", "room_of", "warnings_of"]

MIB = 1024 * 1024
RESERVE = 256 * MIB
"""Left free, for journals, manifests and everybody else."""


@dataclass(frozen=True)
class Room:
    """What a folder's filesystem has room for.

    Args:
        mount: Where it is mounted.
        filesystem: ``ext4``, ``nfs`` and so on.
        free_bytes: What this user may still write, a quota counted.
        largest_bytes: The largest file it takes, where that is small enough to matter.
        notes: What a person should know of it.
        total_bytes: Its size; 0 if that is not known.
    """

    mount: str
    filesystem: str
    free_bytes: int
    largest_bytes: int | None
    notes: tuple[str, ...] = ()
    total_bytes: int = 0


@dataclass(frozen=True)
class Need:
    """A file that is to be written, and what of it takes up space already."""

    file: RemoteFile
    path: Path
    allocated: int

    @property
    def missing(self) -> int:
        """Bytes of space still to be taken up."""
        return max(0, self.file.size - self.allocated)


def existing(folder: Path) -> Path:
    """Return the nearest folder above that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def room_of(folder: Path) -> Room:
    """Find out what there is room for where a folder is, or will be."""
    from kimi_nb.machine.disk import read_disk

    disk, notes = read_disk(folder)
    mount, device = _mounted(existing(folder).resolve())
    if disk is None:
        return Room(mount, "unknown", 0, None, tuple(map(str, notes)))
    quota = left_by_quota(device)
    free = disk.free_mib * MIB
    return Room(
        mount=mount,
        filesystem=disk.filesystem,
        free_bytes=free if quota is None else min(free, quota),
        largest_bytes=disk.max_file_mib * MIB if disk.max_file_mib is not None else None,
        notes=tuple(str(note) for note in notes if disk.network),
        total_bytes=disk.total_mib * MIB,
    )


def _mounted(folder: Path) -> tuple[str, str]:
    """Return where the filesystem of a folder is mounted, and its device's path if it has one.

    psutil would tell too; importing it takes longer than everything else here.
    """
    from kimi_nb.machine.read import mounts, text

    above = [mount for mount in mounts(Path("/")) if folder.is_relative_to(mount.point)]
    if not above:
        point = next(part for part in (folder, *folder.parents) if part.is_mount())
        return str(point), ""
    best = max(above, key=lambda mount: len(mount.point))
    lines = (text(Path(f"/sys/dev/block/{best.device}/uevent")) or "").splitlines()
    name = next((line.removeprefix("DEVNAME=") for line in lines if line.startswith("DEVNAME=")), "")
    return best.point, f"/dev/{name}" if name else ""


def check_room(needs: Sequence[Need], folder: Path, *, create: bool = True) -> Room:
    """See that the files fit where they are to go.

    Args:
        needs: What is to be written.
        folder: Where.
        create: Make the folder; without it nothing is left behind.

    Raises:
        DownloadError: No space (KNB408), a file too large (KNB411), no permission (KNB410).
    """
    _check_writable(folder, create=create)
    room = room_of(folder)
    largest = max((need.file.size for need in needs), default=0)
    if room.largest_bytes is not None and largest > room.largest_bytes:
        most = f"{room.largest_bytes / 1e9:.2f} GB is the most"
        limit = f"{most} for its filesystem ({room.filesystem}) or for ulimit -f"
        raise too_large(folder, largest, limit)
    missing = sum(need.missing for need in needs)
    if missing and missing + RESERVE > room.free_bytes:
        raise DownloadError(
            "KNB408",
            f"{missing / 1e9:.1f} GB do not fit on the disk of {folder}",
            why=f"{room.free_bytes / 1e9:.1f} GB are free on {room.mount} (what is here already was counted)",
            fix="Make space, choose another disk with --folder, or a smaller quant.",
        )
    return room


def _check_writable(folder: Path, *, create: bool) -> None:
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder if create else existing(folder)):
            pass
    except FileExistsError as error:
        raise disk_error(OSError(0, "there is a file of that name"), folder) from error
    except OSError as error:
        raise disk_error(error, folder) from error


def warnings_of(room: Room) -> list[str]:
    """Return what a person should know of the disk before they start, though it forbids nothing."""
    found = list(room.notes)
    if room.filesystem in {"tmpfs", "ramfs"}:
        found.append(
            f"{room.mount} is memory ({room.filesystem}): the model takes RAM, and a reboot takes the model"
        )
    if room.filesystem in {"exfat", "vfat", "msdos"}:
        found.append(
            f"{room.mount} is {room.filesystem}, which forgets file identities: "
            "files are hashed again after every mount"
        )
    return found
