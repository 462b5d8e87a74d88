"""What a models folder remembers: which sets of files belong together, and which files were proven whole.

Everything is below ``<folder>/.kimi-nb``::

    sets/<namespace>--<name>--<quant>.json   a manifest, and where its files lie
    verified/<key>.json                      a file's sha256, and the stat it had when that was computed
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_nb.engine.fetch.manifest import Manifest, RemoteFile
from kimi_nb.engine.fetch.running import MARK
from kimi_nb.engine.fetch.trouble import disk_error
from kimi_nb.errors import DownloadError
from kimi_nb.files import at_home, models_home, write_json

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

__all__ = ["Entry", "Shelf", "Stamp"]


@dataclass(frozen=True)
class Stamp:
    """What must not have changed for a file to count as the one that was hashed."""

    size: int
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Take a file's stamp; links are followed."""
        return cls.from_stat(path.stat())

    @classmethod
    def from_stat(cls, stat: os.stat_result) -> Stamp:
        """Take the stamp that a stat shows."""
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)

    def same(self, other: Stamp) -> bool:
        """Compare, leaving out the device number, which a reboot may change."""
        return (self.size, self.mtime_ns, self.inode) == (other.size, other.mtime_ns, other.inode)


@dataclass(frozen=True)
class Entry:
    """One set of files: a manifest and the folder its paths are relative to.

    Args:
        manifest: What it should hold.
        root: The folder of the files.
        adopted: Whether the folder was there before us; its files are never removed without being asked.
        flat: Whether the files lie in the folder itself, without the repository's sub-folders.
        blobs: In the Hub's cache, where the bytes are; the paths are links to them.
        complete: Whether every file was there and proven, and their headers fitted together, when this was
            written.
    """

    manifest: Manifest
    root: Path
    adopted: bool = False
    flat: bool = False
    blobs: Path | None = None
    complete: bool = False

    def path(self, file: RemoteFile) -> Path:
        """Return where a file of the set lies, or will; in the Hub's cache that is a link."""
        return self.root / (file.path.rsplit("/", 1)[-1] if self.flat else file.path)

    def place(self, file: RemoteFile) -> Path:
        """Return where the bytes of a file lie, or will: in the Hub's cache a blob, else :meth:`path`."""
        path = self.path(file)
        if self.blobs is None:
            return path.resolve() if path.is_symlink() and path.exists() else path
        return self.blobs / (file.sha256 or file.git_oid)


class Shelf:
    """A models folder.

    Args:
        folder: :func:`kimi_nb.files.models_home` by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = at_home(folder or models_home()).absolute()
        self.state = self.folder / ".kimi-nb"

    # ---- sets

    def _set_path(self, repo: str, quant: str) -> Path:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "--", f"{repo}--{quant}")
        return self.state / "sets" / f"{plain[:200]}.json"

    def root_of(self, repo: str) -> Path:
        """Return the folder for a repository's files."""
        return self.folder.joinpath(*repo.split("/"))

    def find(self, repo: str, quant: str) -> Entry | None:
        """Return the set of this name, or ``None``."""
        path = self._set_path(repo, quant)
        return _entry(path) if path.is_file() else None

    def save(self, entry: Entry) -> Path:
        """Write a set down, and return where."""
        path = self._set_path(entry.manifest.repo, entry.manifest.quant)
        value = {
            "manifest": entry.manifest.as_dict(),
            "root": str(entry.root),
            "adopted": entry.adopted,
            "flat": entry.flat,
            "blobs": str(entry.blobs) if entry.blobs else None,
            "complete": entry.complete,
        }
        self._write(path, value)
        return path

    def _write(self, path: Path, value: dict[str, Any]) -> None:
        try:
            write_json(path, value)
        except OSError as error:
            raise disk_error(error, self.state) from error

    def forget(self, entry: Entry) -> None:
        """Remove a set's record, not its files."""
        self._set_path(entry.manifest.repo, entry.manifest.quant).unlink(missing_ok=True)

    def entries(self) -> Iterator[Entry]:
        """Return every set, by name."""
        for path in sorted((self.state / "sets").glob("*.json")):
            yield _entry(path)

    # ---- proofs

    def _proof_path(self, file: RemoteFile) -> Path:
        return self.state / "verified" / f"{file.key}.json"

    def _proof(self, file: RemoteFile) -> dict[str, Any]:
        try:
            value = json.loads(self._proof_path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def prove(self, file: RemoteFile, path: Path, marks: Sequence[str], stamp: Stamp | None = None) -> None:
        """Write down that a file was hashed and is what it should be.

        Args:
            file: What it is.
            path: Where it lies.
            marks: For each MiB, the first 8 digits of the sha256 of everything up to its end. Free to
                compute, they tell later where a bit flipped.
            stamp: The file's stamp when it was read; taken now by default.
        """
        places = {
            str(place): stamp
            for place, stamp in self._proof(file).get("files", {}).items()
            if Path(place).exists()
        }
        stamp = stamp or Stamp.of(path)
        places[str(path)] = [stamp.size, stamp.mtime_ns, stamp.inode, stamp.device]
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        value = {"key": file.key, "size": file.size, "at": at, "files": places, "marks": "".join(marks)}
        self._write(self._proof_path(file), value)

    def is_proven(self, file: RemoteFile, path: Path) -> bool:
        """Tell whether ``path`` was hashed and has not changed since; costs one stat."""
        try:
            stamp = Stamp.of(path)
        except OSError:
            return False
        known = self._proof(file).get("files", {}).get(str(path))
        return known is not None and Stamp(*known).same(stamp) and stamp.size == file.size

    def marks(self, file: RemoteFile) -> list[str]:
        """Return the marks of a file that was ever proven here, else none."""
        text = str(self._proof(file).get("marks", ""))
        return [text[at : at + MARK] for at in range(0, len(text), MARK)]

    def proven_copies(self, file: RemoteFile) -> list[Path]:
        """Return every unchanged place where this content was proven."""
        return [
            Path(place) for place in self._proof(file).get("files", {}) if self.is_proven(file, Path(place))
        ]


def _entry(path: Path) -> Entry:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return Entry(
            manifest=Manifest.from_dict(value["manifest"]),
            root=Path(value["root"]),
            adopted=bool(value["adopted"]),
            flat=bool(value["flat"]),
            blobs=Path(value["blobs"]) if value["blobs"] else None,
            complete=bool(value["complete"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DownloadError(
            "KNB420",
            f"cannot read {path}",
            why=f"it is damaged or written by a later version ({type(error).__name__})",
            fix="Delete it and run the same command again: files that are already there are found and kept.",
        ) from error
