"""What can be known to go wrong before the first byte is fetched."""

from __future__ import annotations

import resource
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.engine.fetch.trouble import disk_error, too_large
from kimi_nb.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.engine.fetch.manifest import RemoteFile

__all__ = ["Disk", "Need", "check_space", "disk_of", "warnings_of"]

NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afpfs",
    "ceph",
    "glusterfs",
    "lustre",
    "webdav",
    "drvfs",
}
FAT = {"vfat", "msdos", "fat", "fat32"}
FAT_MOST = 4 * 1024**3 - 1
RESERVE = 256 * 1024 * 1024
"""Left free, for journals, manifests and everybody else."""

LARGE = 2 * 1024**3
"""Models below this are not worth looking at the machine for, which takes a second."""


@dataclass(frozen=True)
class Disk:
    """The filesystem a folder is on.

    Args:
        mount: Where it is mounted.
        kind: ``ext4``, ``nfs`` and so on; empty when it cannot be told.
        free: Bytes that may still be written by this user.
    """

    mount: Path
    kind: str
    free: int


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


def disk_of(folder: Path) -> Disk:
    """Find out which filesystem a folder is on, or will be."""
    import psutil

    there = existing(folder).resolve()
    mount, kind = Path("/"), ""
    for part in psutil.disk_partitions(all=True):
        where = Path(part.mountpoint)
        if there.is_relative_to(where) and len(where.parts) >= len(mount.parts):
            mount, kind = where, part.fstype.lower()
    return Disk(mount, kind, shutil.disk_usage(there).free)


def check_space(needs: Sequence[Need], folder: Path, *, create: bool = True) -> Disk:
    """See that the files fit where they are to go.

    Raises:
        DownloadError: No space (KNB408), a file too large for the filesystem (KNB411), no permission
            (KNB410).
    """
    _check_writable(folder if create else existing(folder))
    disk = disk_of(folder)
    largest = max((need.file.size for need in needs), default=0)
    if disk.kind in FAT and largest > FAT_MOST:
        raise too_large(folder, largest, f"{disk.mount} is FAT32, whose files end at 4 GiB")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and largest > limit:
        raise too_large(
            folder, largest, f"ulimit -f lets this process write files of {limit / 1e9:.2f} GB at most"
        )
    missing = sum(need.missing for need in needs)
    if missing and missing + RESERVE > disk.free:
        raise DownloadError(
            "KNB408",
            f"{missing / 1e9:.1f} GB do not fit on the disk of {folder}",
            why=f"{disk.free / 1e9:.1f} GB are free on {disk.mount} (what is here already was counted)",
            fix="Make space, choose another disk with --folder, or a smaller quant.",
        )
    return disk


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise disk_error(OSError(0, "it is not a folder"), folder) from error
    except OSError as error:
        raise disk_error(error, folder) from error


def warnings_of(disk: Disk, files: Sequence[RemoteFile]) -> list[str]:
    """Return what a person should know before they start, though it forbids nothing."""
    found = []
    total = sum(file.size for file in files if file.path.endswith(".gguf"))
    if disk.kind in NETWORK or disk.kind.startswith("fuse.ssh"):
        found.append(
            f"{disk.mount} is a network mount ({disk.kind}): llama.cpp reads the model through it at every start, "
            "and memory-mapped weights that do not fit in RAM are read through it for every token"
        )
    if disk.kind in {"tmpfs", "ramfs"}:
        found.append(
            f"{disk.mount} is memory ({disk.kind}): the model is gone after a reboot and takes RAM until then"
        )
    if disk.kind == "exfat":
        found.append(
            f"{disk.mount} is exFAT: it has no links and forgets file identities, so files are verified anew"
        )
    if total > LARGE and total > (memory := _memory()):
        found.append(
            f"{total / 1e9:.0f} GB of weights are more than this machine's {memory / 1e9:.0f} GB of memory: llama.cpp "
            "will read weights from the disk for every token, which is slow (kimi-nb plan says how slow)"
        )
    return found


def _memory() -> int:
    """Return the bytes of host and GPU memory together."""
    from kimi_nb.machine import probe

    return probe().capacity_mib * 1024 * 1024
