"""What :class:`kimi_nb.nano.hub.LocalHub` keeps: files, commits, and the requests it saw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kimi_nb.files import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Blob", "Repo", "Seen", "blob_of"]

LFS_FROM_BYTES = 1024 * 1024
"""Files at least this large, and every .gguf, are treated as the Hub treats LFS files."""


@dataclass(frozen=True)
class Blob:
    """One file of one commit.

    Args:
        source: Where its bytes lie on this machine.
        size: Bytes.
        sha256: Of its content.
        git_oid: What git would call it; for an LFS file, the oid of its pointer.
        lfs: Whether it is served by redirect, with its sha256 as ETag.
        xet_hash: Its content's name in Xet storage, where the hub offers that.
    """

    source: Path
    size: int
    sha256: str
    git_oid: str
    lfs: bool
    xet_hash: str | None = None


@dataclass
class Seen:
    """One request as the server saw it; ``sent`` counts the bytes of the body."""

    host: str
    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@dataclass
class Repo:
    """Its commits, the newest last, and the branches and tags that point to them."""

    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


def blob_of(path: Path, xet_hash: str | None) -> Blob:
    """Describe a file as a commit holds it."""
    size = path.stat().st_size
    sha256 = sha256_file(path)
    lfs = size >= LFS_FROM_BYTES or path.suffix == ".gguf"
    content = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        if lfs
        else path.read_bytes()
    )
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return Blob(path, size, sha256, oid, lfs, xet_hash)
