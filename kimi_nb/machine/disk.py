"""The file system of the models folder, where hundreds of GB are to lie."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path

from kimi_nb.machine.machine import Disk, Note
from kimi_nb.machine.read import MIB, Mount, mounts, number

__all__ = ["read_disk", "read_shm"]

_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afpfs", "webdav", "davfs", "afs"),
    *("ceph", "lustre", "gpfs", "beegfs", "orangefs", "glusterfs"),
    *(
        "9p",
        "virtiofs",
        "vboxsf",
        "prl_fs",
        "vmhgfs",
        "fuse.vmhgfs-fuse",
    ),  # folders of a virtual machine's host
    *("fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.blobfuse", "fuse.juicefs"),
    *("fuse.glusterfs", "fuse.goofys", "fuse.geesefs", "fuse.davfs"),
}
_SPARSE = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "f2fs", "bcachefs", "apfs", "overlay"}
_NOT_SPARSE = {"vfat", "msdos", "exfat", "hfs"}
_MAX_FILE_MIB = {"vfat": 4095, "msdos": 4095}
_SHARD_MIB = 50_000_000_000 // MIB
"""Publishers cut large models into files of at most about 50 GB."""

_SMALL_SHM_MIB = 1024
"""Docker gives 64 MiB by default; what several GPUs exchange through /dev/shm (NCCL, in vLLM) needs more."""


def read_disk(folder: Path, root: Path = Path("/")) -> tuple[Disk | None, list[Note]]:
    """Look at the file system that ``folder`` is or will be on; nothing is written.

    Where the file system does not answer (a network one that went away, say), there is a note and no disk.

    Args:
        folder: The models folder; it need not exist yet.
        root: Where ``proc`` and ``sys`` lie.
    """
    real = Path(os.path.realpath(folder))
    # Not Path.exists, which raises where a folder above may not be entered.
    there = next((path for path in (real, *real.parents) if os.path.exists(path)), Path("/"))  # noqa: PTH110
    try:
        room = os.statvfs(there)
    except OSError as error:
        return None, [
            _unwritable(f"the models folder {folder} cannot be looked at", error.strerror or str(error))
        ]
    mount = _mount_of(there, root)
    limit = _max_file_mib(mount.filesystem)
    disk = Disk(
        path=str(folder),
        filesystem=mount.filesystem,
        total_mib=room.f_blocks * room.f_frsize // MIB,
        free_mib=room.f_bavail * room.f_frsize // MIB,
        network=mount.filesystem in _NETWORK,
        sparse=mount.filesystem in _SPARSE if mount.filesystem in _SPARSE | _NOT_SPARSE else None,
        max_file_mib=limit,
        rotational=_rotational(root, mount.device),
        writable=os.access(there, os.W_OK | os.X_OK) and there.is_dir() and not room.f_flag & os.ST_RDONLY,
    )
    return disk, _notes(disk)


def read_shm(root: Path = Path("/"), *, gpus: int = 0) -> tuple[int | None, list[Note]]:
    """Return the size of ``/dev/shm`` in MiB, with a note where it is small and there are several GPUs."""
    try:
        room = os.statvfs(root / "dev/shm")
    except OSError:
        return None, []
    size = room.f_blocks * room.f_frsize // MIB
    if gpus < 2 or size >= _SMALL_SHM_MIB:  # noqa: PLR2004 - one GPU exchanges nothing
        return size, []
    return size, [
        Note(
            id="KNB116",
            severity="warning",
            what=f"shared memory (/dev/shm) holds only {size} MiB",
            why="vLLM lets several GPUs exchange data through it, and Docker makes it small",
            fix="For vLLM, start the container with --ipc=host or --shm-size=16g; llama.cpp needs none.",
        )
    ]


def _mount_of(path: Path, root: Path) -> Mount:
    if platform.system() == "Darwin":
        return _mount_of_macos(path)
    found = Mount("", "/", "/", "unknown", ())
    for mount in mounts(root):
        if path.is_relative_to(mount.point) and len(mount.point) >= len(found.point):
            found = mount
    return found


def _mount_of_macos(path: Path) -> Mount:
    import psutil

    parts = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    best = max(parts, key=lambda part: len(part.mountpoint), default=None)
    return Mount("", "/", best.mountpoint if best else "/", best.fstype if best else "unknown", ())


def _max_file_mib(filesystem: str) -> int | None:
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    limits = [_MAX_FILE_MIB[filesystem]] if filesystem in _MAX_FILE_MIB else []
    return min([*limits, *([allowed // MIB] if allowed != resource.RLIM_INFINITY else [])], default=None)


def _rotational(root: Path, device: str) -> bool | None:
    block = Path(os.path.realpath(root / "sys/dev/block" / (device or "none")))
    for folder in (block, block.parent):  # a partition has its disk above it
        found = number(folder / "queue/rotational")
        if found is not None:
            # A virtual machine's disks are called spinning whatever they are.
            virtual = any(sign in str(block) for sign in ("/virtio", "/vbd-", "/VMBUS:"))
            return None if found and virtual else bool(found)
    return None


def _unwritable(what: str, why: str) -> Note:
    fix = "Name another folder with KIMI_NB_MODELS."
    return Note(id="KNB115", severity="warning", what=what, why=why, fix=fix)


def _notes(disk: Disk) -> list[Note]:
    notes = []
    if not disk.writable:
        why = "it is not ours to write to, is no folder, or its file system is mounted read-only"
        notes.append(_unwritable(f"nothing can be written to {disk.path}", why))
    if disk.network:
        notes.append(
            Note(
                id="KNB113",
                severity="warning",
                what=f"the models folder is on {disk.filesystem}, a network or shared file system",
                why="loading hundreds of GB from it, or paging weights in from it, is slow",
                fix="Name a folder on a local disk with KIMI_NB_MODELS.",
            )
        )
    if disk.max_file_mib is not None and disk.max_file_mib < _SHARD_MIB:
        notes.append(
            Note(
                id="KNB114",
                severity="warning",
                what=f"files in the models folder cannot be larger than {disk.max_file_mib} MiB",
                why=f"{disk.filesystem} or a limit of this session (ulimit -f) sets that, and a model's "
                "files have up to 50 GB",
                fix="Name a folder on another file system with KIMI_NB_MODELS, or lift the limit.",
            )
        )
    return notes
