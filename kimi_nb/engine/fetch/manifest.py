"""What a download is to bring: written before the first byte, and read by every later step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from kimi_nb.errors import DownloadError

__all__ = ["Manifest", "RemoteFile", "safe_name"]

FORMAT = 1


@dataclass(frozen=True)
class RemoteFile:
    """One file as the Hub describes it at a commit.

    Args:
        path: Its name in the repository, with forward slashes.
        size: Bytes.
        git_oid: What git calls it; for an LFS file, the oid of its pointer.
        sha256: Of its content; known for LFS files, which every GGUF is.
        xet_hash: Its name in Xet storage, where the repository offers that.
    """

    path: str
    size: int
    git_oid: str
    sha256: str | None = None
    xet_hash: str | None = None

    @property
    def key(self) -> str:
        """The content's name: its sha256, or git's name for a small file."""
        return self.sha256 or f"git-{self.git_oid}"


@dataclass(frozen=True)
class Manifest:
    """The files of one quant of one repository at one commit.

    Args:
        repo: ``namespace/name``.
        quant: The quant's name, or the patterns that chose the files.
        revision: What was asked for: a branch, a tag or a commit.
        commit: The commit hash it stood for.
        files: In the order of their names.
        endpoint: The Hub they come from.
        patterns: The shell patterns that chose files beside the quant's.
        others: Path, size and sha256 of the repository's other large files, to name a file that is in the
            wrong place.
        license: The licence the repository names, if any.
        license_url: Where its text is, if the repository says.
    """

    repo: str
    quant: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    endpoint: str
    patterns: tuple[str, ...] = ()
    others: tuple[tuple[str, int, str], ...] = ()
    license: str | None = None
    license_url: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def name(self) -> str:
        """How people and ``kimi-nb models`` name it: ``namespace/name:quant``."""
        return f"{self.repo}:{self.quant}"

    def as_dict(self) -> dict[str, Any]:
        """Return what is written down. No token is ever part of it."""
        return {"format": FORMAT, **asdict(self), "files": [asdict(file) for file in self.files]}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Manifest:
        """Build a manifest from what :meth:`as_dict` gives."""
        if value["format"] != FORMAT:
            raise ValueError(value["format"])
        files = tuple(RemoteFile(**file) for file in value["files"])
        for file in files:
            safe_name(file.path)
        plain = {field.name for field in fields(cls)} - {"files", "patterns", "others"}
        return cls(
            files=files,
            patterns=tuple(value["patterns"]),
            others=tuple((str(path), int(size), str(sha256)) for path, size, sha256 in value["others"]),
            **{name: value[name] for name in plain},
        )


def safe_name(path: str) -> str:
    """Return ``path`` if it stays inside the folder it will be joined to.

    Raises:
        DownloadError: A repository that names a file outside of it is broken or hostile (KNB422).
    """
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    parts = path.replace("\\", "/").split("/")
    if (
        not path
        or posix.is_absolute()
        or windows.drive
        or windows.root
        or any(part in {"", ".", ".."} for part in parts)
        or any(ord(letter) < 32 for letter in path)  # noqa: PLR2004 - control characters
        or parts[0] == ".kimi-nb"
    ):
        raise DownloadError(
            "KNB422",
            f"the repository names a file {path!r}",
            why="that is no plain path inside the download folder",
            fix="Do not use this repository; tell its owner.",
        )
    return path
