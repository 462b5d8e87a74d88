"""Look at files that are there already, and say of each what it is."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from kimi_nb.engine.fetch.running import MARK, PIECE, digest_of
from kimi_nb.engine.fetch.shelf import Stamp
from kimi_nb.files import sha256_file
from kimi_nb.model.header_only import is_header_only

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from kimi_nb.engine.fetch.manifest import RemoteFile
    from kimi_nb.engine.fetch.past import Past
    from kimi_nb.engine.fetch.shelf import Entry, Shelf

__all__ = ["Checked", "Verdict", "check", "trouble_of"]

AT_ONCE = 2


class Verdict(StrEnum):
    """What a file is, where it lies."""

    WHOLE = "whole"
    MISSING = "missing"
    SHORT = "cut short"
    LONG = "too long"
    DAMAGED = "damaged"
    MISPLACED = "another file of the set"
    OTHER = "another file"
    NO_GGUF = "no GGUF file"


@dataclass(frozen=True)
class Checked:
    """What was found at one place.

    Args:
        file: What should be there.
        path: Where.
        verdict: What is there.
        why: In words, for a person.
        good: Ranges of bytes that are as they should be, as far as that is known.
        belongs: For a misplaced file, the path in the repository that its content belongs to.
        stamp: What the file's stat showed before it was looked at.
    """

    file: RemoteFile
    path: Path
    verdict: Verdict
    why: str = ""
    good: tuple[tuple[int, int], ...] = ()
    belongs: str | None = None
    stamp: Stamp | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing needs to be done."""
        return self.verdict is Verdict.WHOLE

    def as_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        return {"file": self.file.path, "path": str(self.path), "state": self.verdict.value, "why": self.why}


def check(
    shelf: Shelf,
    entry: Entry,
    *,
    past: Past | None = None,
    again: bool = False,
    hashed: Callable[[str, int], None] | None = None,
    stop: threading.Event | None = None,
) -> list[Checked]:
    """Check every file of a set.

    Args:
        shelf: Knows what was proven before, and is told what is proven now.
        entry: The set.
        past: Names files of earlier commits.
        again: Hash files too whose proof still stands.
        hashed: Called with a path in the repository and how many of its bytes were hashed so far.
        stop: Ends the work early.
    """
    look = _Look(shelf, entry, past, again=again, hashed=hashed, stop=stop or threading.Event())
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="check") as pool:
        try:
            return list(pool.map(look.at, entry.manifest.files))
        except BaseException:
            look.stop.set()
            raise


@dataclass
class _Look:
    shelf: Shelf
    entry: Entry
    past: Past | None
    again: bool
    hashed: Callable[[str, int], None] | None
    stop: threading.Event

    def at(self, file: RemoteFile) -> Checked:
        path = self.entry.path(file)
        if not self.again and self.shelf.is_proven(file, path):
            return Checked(file, path, Verdict.WHOLE)
        try:
            stamp = Stamp.of(path)
            if not path.is_file():
                return Checked(file, path, Verdict.OTHER, "it is not a file")
            found = self._stranger(file, path)
            if found is None and stamp.size != file.size:
                found = self._other_size(file, path, stamp.size)
            return replace(found or self._same_size(file, path), stamp=stamp)
        except FileNotFoundError:  # now, or since: another process may be repairing it
            return Checked(file, path, Verdict.MISSING)

    def _stranger(self, file: RemoteFile, path: Path) -> Checked | None:
        """Notice at once what no GGUF file begins with."""
        with path.open("rb") as opened:
            head = opened.read(512)
        if is_header_only(path):
            return Checked(file, path, Verdict.NO_GGUF, "it is a stand-in that has no weights")
        if not file.path.endswith(".gguf") or head.startswith(b"GGUF") or not head:
            return None
        from kimi_nb.model.gguf_sniff import name_of_stranger

        return Checked(file, path, Verdict.NO_GGUF, name_of_stranger(head)[1])

    def _other_size(self, file: RemoteFile, path: Path, size: int) -> Checked:
        known, past = self._known(size), self._past(size)
        if known or past:
            digest = sha256_file(path)
            if digest in known:
                return self._named(file, path, known[digest])
            if digest in past:
                return Checked(file, path, Verdict.OTHER, f"it is {past[digest]}")
        if size < file.size:
            why = f"it has {size:,} of {file.size:,} bytes"
            return Checked(file, path, Verdict.SHORT, why, ((0, size),))
        why = f"it has {size - file.size:,} bytes too many"
        return Checked(file, path, Verdict.LONG, why, ((0, file.size),))

    def _same_size(self, file: RemoteFile, path: Path) -> Checked:
        marks, known = [], self.shelf.marks(file)
        digest, buffer, done = digest_of(file), memoryview(bytearray(PIECE)), 0
        bad: int | None = None
        with path.open("rb", buffering=0) as opened:
            before = Stamp.from_stat(os.fstat(opened.fileno()))
            while (count := opened.readinto(buffer)) and not self.stop.is_set():
                digest.update(buffer[:count])
                marks.append(digest.copy().hexdigest()[:MARK])
                done += count
                if bad is None and len(marks) <= len(known) and marks[-1] != known[len(marks) - 1]:
                    bad = len(marks) - 1
                if self.hashed is not None:
                    self.hashed(file.path, done)
            after = Stamp.from_stat(os.fstat(opened.fileno()))
        if before != after or self.stop.is_set():  # stopped: nobody waits for the answer
            return Checked(file, path, Verdict.DAMAGED, "something wrote to it while it was read")
        if digest.hexdigest() in {file.sha256, file.git_oid}:
            self.shelf.prove(file, path, marks, before)
            return Checked(file, path, Verdict.WHOLE)
        if named := self._known(file.size).get(digest.hexdigest()):
            return self._named(file, path, named)
        if named := self._past(file.size).get(digest.hexdigest()):
            return Checked(file, path, Verdict.OTHER, f"it is {named}")
        if bad is not None:
            why = f"its bytes differ from what they were from MiB {bad} on"
            start = bad * PIECE
            good = ((0, start), (min(start + PIECE, file.size), file.size))
            return Checked(file, path, Verdict.DAMAGED, why, good)
        return Checked(file, path, Verdict.DAMAGED, "its sha256 is not the one the Hub names")

    def _known(self, size: int) -> dict[str, str]:
        """Return the known contents of this size: sha256 to path in the repository."""
        manifest = self.entry.manifest
        here = {file.sha256: file.path for file in manifest.files if file.sha256 and file.size == size}
        return {sha: path for path, length, sha in manifest.others if length == size} | here

    def _past(self, size: int) -> dict[str, str]:
        return self.past.of_size(size) if self.past is not None else {}

    def _named(self, file: RemoteFile, path: Path, named: str) -> Checked:
        if any(other.path == named for other in self.entry.manifest.files):
            return Checked(file, path, Verdict.MISPLACED, f"it is {named}", belongs=named)
        return Checked(file, path, Verdict.OTHER, f"it is {named} of the same repository")


def trouble_of(checked: Sequence[Checked]) -> str:
    """Say in one line what is wrong with a set."""
    bad = [look for look in checked if not look.ok]
    said = [
        f"{look.file.path} is {look.verdict.value}" + (f" ({look.why})" if look.why else "") for look in bad
    ]
    return "; ".join(said)
