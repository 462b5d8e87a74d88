"""The hash of a file that is still growing, and what it tells of single pieces."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kimi_nb.engine.fetch.manifest import RemoteFile

__all__ = ["MARK", "PIECE", "RunningHash", "digest_of"]

PIECE = 1024 * 1024
"""Files are hashed, and marked, in pieces of this size."""

MARK = 8
"""Digits of a mark."""


def digest_of(file: RemoteFile) -> hashlib._Hash:
    """Return a fresh hash of the kind that a file's key is in."""
    if file.sha256 is not None:
        return hashlib.sha256()
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(b"blob %d\0" % file.size)
    return digest


class RunningHash:
    """Fed one piece after another, in order.

    Args:
        file: Whose hash to compare with in the end.
        known: Marks from an earlier proof: for each piece the first digits of the hash up to its end. A piece
            that went bad on the disk shows by them at once.
    """

    def __init__(self, file: RemoteFile, known: list[str]) -> None:
        self._file, self._known = file, known
        self._digest = digest_of(file)
        self._again: set[int] = set()
        self._run = 1
        self.marks: list[str] = []

    def feed(self, piece: memoryview) -> int:
        """Take the next piece, or refuse it.

        Returns:
            0 when it was taken; else how many pieces from this one on have to come anew. That doubles with
            each bad piece in a row, for then what follows is likely to be bad as well.
        """
        digest, number = self._digest.copy(), len(self.marks)
        digest.update(piece)
        mark = digest.copy().hexdigest()[:MARK]
        if number < len(self._known) and mark != self._known[number]:
            if number in self._again:
                self._known = []  # it came anew and is the same: the marks are of something else
            else:
                self._run = self._run * 2 if number - 1 in self._again else 1
                self._again.update(range(number, number + self._run))
                return self._run
        self._digest = digest
        self.marks.append(mark)
        return 0

    @property
    def right(self) -> bool:
        """Whether what was fed is the whole file as it should be."""
        return self._digest.hexdigest() in {self._file.sha256, self._file.git_oid}
