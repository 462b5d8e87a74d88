"""A model's headers with holes for its weights: all that llama.cpp needs to say how much memory it takes.

llama.cpp wants each file to be as long as its tensors need, and reads no weight to size its buffers. In a
sparse file the missing bytes cost nothing: a model of 240 GB takes some megabytes of disk.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kimi_nb.errors import RehearsalError
from kimi_nb.model.gguf_faults import bytes_text
from kimi_nb.model.header_only import MARK
from kimi_nb.rehearse.private_folder import private_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kimi_nb.model import Model, Shard

__all__ = ["Ghost", "ghost_of"]

_PROBE_BYTES = 16 << 20
_BLOCK = 512  # what st_blocks counts in, whatever the filesystem's own blocks are
_FULL = {errno.ENOSPC, errno.EDQUOT}
_TOO_LONG = {errno.EFBIG, errno.EOVERFLOW, errno.EINVAL}
_ELSEWHERE = "set KIMI_NB_CACHE to a folder on another disk"


@dataclass(frozen=True)
class Ghost:
    """Files with a model's headers and no weights; :func:`kimi_nb.model.read_header` refuses them.

    Attributes:
        folder: Where they are.
        shards: The files, in order and under names by which llama.cpp finds them.
    """

    folder: Path
    shards: tuple[Path, ...]

    @property
    def first(self) -> Path:
        """The file to name to llama.cpp."""
        return self.shards[0]

    @property
    def apparent_bytes(self) -> int:
        """How long the files are."""
        return sum(path.stat().st_size for path in self.shards)

    @property
    def disk_bytes(self) -> int:
        """What they take on the disk."""
        return sum(path.stat().st_blocks * _BLOCK for path in self.shards)


@contextmanager
def ghost_of(model: Model, parent: Path | None = None) -> Iterator[Ghost]:
    """Make a model's ghost, for the time of a ``with`` block; nothing of it outlives this process for long.

    Args:
        model: The model, from its headers, wherever they were read.
        parent: The folder in which its private folder is made; one in our cache folder if not given.

    Raises:
        BuildError: There is no place for it (KNB840).
        RehearsalError: The filesystem keeps no holes (KNB861), is full (KNB862), takes no file that long
            (KNB863) or fails (KNB864).
    """
    with private_folder("ghost", parent) as folder:
        _require_holes(folder)
        paths = tuple(folder / name for name in _names(model))
        for index, (path, shard) in enumerate(zip(paths, model.shards, strict=True)):
            ends = [tensor.offset + tensor.n_bytes for tensor in model.tensors if tensor.shard == index]
            _write(path, shard, max(shard.size_bytes, *ends, 0))
        yield Ghost(folder, paths)


def _names(model: Model) -> list[str]:
    """Return a file name for each shard; those of a model read over HTTP may be anything."""
    first = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", model.shards[0].name, flags=re.IGNORECASE)
    stem = re.sub(r"[^\w.-]", "_", first, flags=re.ASCII).strip(".")[:120] or "model"
    count = len(model.shards)
    if count == 1:
        return [f"{stem}.gguf"]
    return [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def _require_holes(folder: Path) -> None:
    """Write a small file with a hole, and see what it takes: by its own account and by the disk's."""
    path = folder / "hole"
    free = shutil.disk_usage(folder).free
    with _disk_errors(folder, _PROBE_BYTES), path.open("xb") as file:
        file.truncate(_PROBE_BYTES)
        file.flush()
        os.fsync(file.fileno())
        taken = os.fstat(file.fileno()).st_blocks * _BLOCK
    gone = free - shutil.disk_usage(folder).free
    path.unlink()
    # Some drivers tell a file's length for its blocks, and some systems tell nothing of the disk.
    if min(taken, gone) > _PROBE_BYTES // 2:
        raise RehearsalError(
            "KNB861",
            f"a model's stand-in cannot be made in {folder.parent}",
            why="files with holes take their full size there, as on exFAT and on some network drives",
            fix=f"To use ext4, xfs, btrfs, tmpfs or APFS, {_ELSEWHERE}.",
        )


def _write(path: Path, shard: Shard, size: int) -> None:
    with _disk_errors(path.parent, size), path.open("xb") as file:
        file.write(shard.header)
        file.truncate(size)
        if size - len(shard.header) > len(MARK):
            file.seek(size - len(MARK))
            file.write(MARK)
        file.flush()
        # Some network drives notice only now that they are full.
        os.fsync(file.fileno())


@contextmanager
def _disk_errors(folder: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OverflowError as error:
        raise _too_long(folder, size) from error
    except OSError as error:
        if error.errno in _FULL:
            raise RehearsalError(
                "KNB862",
                f"a model's stand-in cannot be made in {folder.parent}",
                why="the disk or the quota there is full, and its headers need some megabytes",
                fix=f"Free some space, or {_ELSEWHERE}.",
            ) from error
        if error.errno in _TOO_LONG:
            raise _too_long(folder, size) from error
        raise RehearsalError(
            "KNB864",
            f"a model's stand-in cannot be made in {folder.parent}",
            why=error.strerror or str(error),
            fix=f"Look at that folder's permissions and disk, or {_ELSEWHERE}.",
        ) from error


def _too_long(folder: Path, size: int) -> RehearsalError:
    return RehearsalError(
        "KNB863",
        f"a model's stand-in cannot be made in {folder.parent}",
        why=f"a file of {bytes_text(size)} is longer than the filesystem, or ulimit -f, allows",
        fix=f"Raise the limit, or {_ELSEWHERE}.",
    )
