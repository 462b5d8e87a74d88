"""Where a header's bytes come from."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Protocol, Self

from kimi_nb.errors import UsageError
from kimi_nb.model.gguf_faults import fault

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ["ByteSource", "FileSource"]


class ByteSource(Protocol):
    """Bytes of one file, wherever they are."""

    label: str
    """The file's name, for messages."""

    size: int
    """Bytes of the whole file."""

    def read_at(self, offset: int, n: int) -> bytes:
        """Return up to ``n`` bytes from ``offset``; fewer only at the end of the file."""
        ...


class FileSource:
    """A file on a disk, to be used as a context manager.

    It is read, not mapped into memory: a mapped file that somebody shortens kills the process that looks.

    Raises:
        UsageError: KNB330, there is no such file, or it is a folder.
        ModelFileError: KNB332, the file cannot be opened or read.
    """

    def __init__(self, path: Path) -> None:
        self.label = path.name
        try:
            # Never wait for the other end of a pipe that somebody named .gguf.
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            raise UsageError(
                "KNB330", f"{path} cannot be read", why="there is no such file", fix="Check the path."
            ) from error
        except OSError as error:
            raise fault("KNB332", self.label, f"{error.strerror or error}") from error
        try:
            self.size = self._size_of_regular(path)
        except BaseException:
            os.close(self._fd)
            raise

    def _size_of_regular(self, path: Path) -> int:
        info = os.fstat(self._fd)
        if stat.S_ISREG(info.st_mode):
            return info.st_size
        if not stat.S_ISDIR(info.st_mode):
            why = "it is a pipe, a socket or a device, not a file"
            raise fault("KNB332", self.label, why, fix="Name the .gguf file itself.")
        first = min((found.name for found in path.rglob("*.gguf")), default=None)
        fix = f"Name the file in it, such as {first}." if first else "Name a .gguf file; there is none in it."
        raise UsageError("KNB330", f"{path} cannot be read", why="it is a folder", fix=fix)

    def read_at(self, offset: int, n: int) -> bytes:
        """Return up to ``n`` bytes from ``offset``."""
        pieces = []
        try:
            while n > 0:
                piece = os.pread(self._fd, n, offset)
                if not piece:
                    break
                pieces.append(piece)
                offset += len(piece)
                n -= len(piece)
        except OSError as error:
            raise fault("KNB332", self.label, f"{error.strerror or error}") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
