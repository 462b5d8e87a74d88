"""Files under one folder and nowhere else: no step up, no symbolic link, nothing hidden, plain files only.

Every folder and file is opened relative to the one before it and never through a link, so nothing can be
swapped between the check and the use.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kimi_nb.errors import UsageError
from kimi_nb.files import at_home

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Confined"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not make us wait
_HIDDEN = "."


class Confined:
    """The files a tool may see.

    Args:
        root: An existing folder. The way to it may hold links; below it none is followed.

    Raises:
        UsageError: ``KNB622``, there is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = at_home(root).absolute().resolve()
        if not self.root.is_dir():
            raise UsageError(
                "KNB622",
                f"{root} is no folder",
                why="a tool needs one to look into",
                fix="Give an existing folder.",
            )

    def read(self, path: str, most_bytes: int) -> bytes:
        """Return at most ``most_bytes`` of a file, given by its path relative to the root.

        Raises:
            ValueError: It is not a plain file under the root, in words that the model may read.
        """
        parts = PurePosixPath(path).parts
        if not parts or any(
            part == ".." or part.startswith(("/", _HIDDEN)) or "\0" in part for part in parts
        ):
            raise ValueError(f"{path!r} is not a path below the folder, or is hidden")
        with self._root() as top:
            folder = top
            opened: list[int] = []
            try:
                for part in parts[:-1]:
                    folder = os.open(part, _FOLDER, dir_fd=folder)
                    opened.append(folder)
                return _content(parts[-1], folder, most_bytes)
            except OSError as error:
                raise ValueError(f"cannot read {path!r}: {error.strerror} (links are not followed)") from None
            finally:
                for each in opened:
                    os.close(each)

    def files(self, most_bytes: int) -> Iterator[tuple[str, bytes]]:
        """Yield the path and content of every plain file of at most ``most_bytes``, in a stable order."""
        with self._root() as top:
            for folder, folders, names, handle in os.fwalk(".", dir_fd=top, follow_symlinks=False):
                folders[:] = sorted(name for name in folders if not name.startswith(_HIDDEN))
                for name in sorted(names):
                    if name.startswith(_HIDDEN):
                        continue
                    try:
                        data = _content(name, handle, most_bytes + 1)
                    except (OSError, ValueError):
                        continue
                    if len(data) <= most_bytes:
                        yield os.path.normpath(os.path.join(folder, name)), data  # noqa: PTH118 - a path inside the root

    @contextmanager
    def _root(self) -> Iterator[int]:
        handle = os.open(self.root, _FOLDER)
        try:
            yield handle
        finally:
            os.close(handle)


def _content(name: str, folder: int, most_bytes: int) -> bytes:
    handle = os.open(name, _FILE, dir_fd=folder)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError(f"{name!r} is not a plain file")
        return file.read(most_bytes)
