"""A file that is being fetched: its bytes, and a journal of which of them are here.

Two kinds of line in the journal, because two things can go wrong:

- ``w start stop``: written by this process. Good after ``kill -9``, since the kernel has the bytes, and
  worthless after a power loss; so a line of this kind counts only while the machine has not started anew.
- ``s start stop``: on the disk, because ``fdatasync`` came back before the line was written. Good after
  anything.

What is on its way, in memory or written but not yet synced never exceeds ``window`` bytes, which is therefore
the most that any end of the process or the machine can cost.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kimi_nb.engine.fetch.lock import Lock
from kimi_nb.engine.fetch.ranges import Ranges
from kimi_nb.files import write_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

__all__ = [
    "WINDOW",
    "Claim",
    "PartFile",
    "boot_id",
    "bytes_in",
    "flush",
    "journal_of",
    "lock_of",
    "seed",
    "sync_folder",
]

WINDOW = 8 * 1024 * 1024
"""The most bytes of a file that may have to be fetched again."""

_COMPACT_FROM = 256 * 1024


class Claim(NamedTuple):
    """Bytes that one connection has taken on."""

    start: int
    stop: int


@cache
def boot_id() -> str:
    """Return a name for the time since this machine was started; empty when there is none to be had."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    if sys.platform == "darwin":
        import subprocess

        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(
                ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=True
            ).stdout.strip()
    return ""


class PartFile:
    """The beginnings of a file, beside the place it will have.

    Args:
        path: The part file; the journal lies next to it.
        key: The name of the content; a part of other content is thrown away.
        size: Bytes of the whole file.
        window: See the module's words.

    Opening takes a lock that the kernel frees when the process ends, however it ends.

    Raises:
        Busy: Another process holds the lock.
        OSError: The folder cannot be written, the disk is full and so on.
    """

    def __init__(self, path: Path, key: str, size: int, *, window: int = WINDOW) -> None:
        self.path, self.key, self.size, self.window = path, key, size, window
        self.journal_path = journal_of(path)
        self.done = Ranges()
        self.synced = Ranges()
        self.fetched = 0
        self._claimed = Ranges()
        self._open: set[Claim] = set()
        self._forgets = 0
        self._over = False
        self._changed = threading.Condition()
        self._journal_kept = threading.Lock()
        self._lock = Lock(lock_of(path))
        self._fd = self._journal = -1
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._recover()
        except BaseException:
            self.close()
            raise

    def _recover(self) -> None:
        length = os.fstat(self._fd).st_size
        good = _good(self.journal_path, self.key, self.size, length)
        if good is not None:
            self.done = good
            if length > self.size:
                os.ftruncate(self._fd, self.size)
            flush(self._fd)
        else:
            os.ftruncate(self._fd, 0)
        self.synced = Ranges(self.done)
        self._rewrite()
        sync_folder(self.path.parent)

    def _rewrite(self) -> None:
        header = {"format": 1, "key": self.key, "size": self.size, "boot": boot_id()}
        lines = [json.dumps(header), *(f"s {start} {stop}" for start, stop in self.synced)]
        lines += (f"w {start} {stop}" for start, stop in self.done)
        write_bytes(self.journal_path, ("\n".join(lines) + "\n").encode())
        with self._journal_kept:
            if self._journal >= 0:
                os.close(self._journal)
            self._journal = os.open(self.journal_path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _note(self, kind: str, start: int, stop: int) -> None:
        line = f"{kind} {start} {stop}\n".encode()
        if os.write(self._journal, line) != len(line):  # a full disk: the torn line is no line
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.journal_path))

    # ---- for connections

    def claim(self, limit: int) -> Claim | None:
        """Take on the next missing bytes, at most ``limit``; ``None`` when there is no room or none left."""
        with self._changed:
            room = self.window - self._claimed.total() - (self.done.total() - self.synced.total())
            gap = Ranges([*self.done, *self._claimed]).gap(0, self.size)
            if gap is None or room < min(limit, gap[1] - gap[0]):
                return None
            claim = Claim(gap[0], min(gap[1], gap[0] + limit))
            return self._opened(claim)

    def claim_rest(self) -> Claim | None:
        """Take on everything that is missing, for a server that cannot start in the middle of a file."""
        with self._changed:
            gap = self.done.gap(0, self.size)
            if gap is None or self._claimed:
                return None
            return self._opened(Claim(gap[0], self.size))

    def _opened(self, claim: Claim) -> Claim:
        self._claimed.add(*claim)
        self._open.add(claim)
        return claim

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put fetched bytes in their place; they count only once they are committed."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fd, view, offset)
            view, offset = view[count:], offset + count

    def commit(self, start: int, stop: int) -> None:
        """Enter written bytes into the journal."""
        with self._changed:
            self._note("w", start, stop)
            self.done.add(start, stop)
            self._claimed.remove(start, stop)
            self.fetched += stop - start
            self._changed.notify_all()

    def give_back(self, claim: Claim) -> None:
        """End a claim, freeing those of its bytes that did not come; to be called once."""
        with self._changed:
            self._open.discard(claim)
            self._claimed.remove(*claim)
            self._changed.notify_all()

    # ---- for the thread that syncs, and for the one that hashes

    def sync(self) -> None:
        """Make everything written so far safe from a power loss, then say so in the journal."""
        with self._changed:
            fresh, forgets = Ranges(self.done), self._forgets
            for start, stop in self.synced:
                fresh.remove(start, stop)
            if not fresh:
                return
        flush(self._fd)
        with self._changed:
            if forgets != self._forgets:
                return  # some of it was declared bad meanwhile: the next sync sorts it out
            for start, stop in fresh:
                self._note("s", start, stop)
        with self._journal_kept:
            flush(self._journal)  # a note that a power loss takes along is none
        with self._changed:
            if forgets != self._forgets:
                return
            for start, stop in fresh:
                self.synced.add(start, stop)
            if os.fstat(self._journal).st_size > _COMPACT_FROM:
                self._rewrite()
            self._changed.notify_all()

    def here(self) -> int:
        """Return how many bytes are here."""
        with self._changed:
            return self.done.total()

    @property
    def starved(self) -> bool:
        """Whether bytes that only need a sync are in the way of new claims."""
        with self._changed:
            return not self._open and self.done.total() > self.synced.total()

    def unsynced(self) -> int:
        """Return how many written bytes a power loss would take."""
        with self._changed:
            return self.done.total() - self.synced.total()

    def prefix(self) -> int:
        """Return how many bytes from the start on are here."""
        with self._changed:
            return self.done.prefix()

    def wait(self, timeout: float) -> None:
        """Wait until something changed, or ``timeout`` seconds."""
        with self._changed:
            self._changed.wait(timeout)

    def wake(self) -> None:
        """End every :meth:`wait`."""
        with self._changed:
            self._changed.notify_all()

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Read bytes that are here; return how many."""
        return os.preadv(self._fd, [buffer], start)

    def forget(self, start: int, stop: int) -> None:
        """Declare bytes bad, so that they are fetched again."""
        with self._changed:
            self._forgets += 1
            self.done.remove(start, stop)
            self.synced.remove(start, stop)
            self._rewrite()

    # ---- the end

    def seal(self) -> os.stat_result:
        """Bring the complete file to the disk; return its stat, which giving it its name does not change."""
        flush(self._fd)
        return os.fstat(self._fd)

    def finish(self, target: Path) -> None:
        """Give the complete, proven file its final name, durably."""
        self.path.replace(target)
        sync_folder(target.parent)
        self.discard()

    def discard(self) -> None:
        """Throw the part and its journal away; the lock's file goes when the lock is let go."""
        self.path.unlink(missing_ok=True)
        self.journal_path.unlink(missing_ok=True)
        self._over = True

    def close(self) -> None:
        """Let go of the file; what is in the journal is kept."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._lock.release(remove=self._over)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def seed(path: Path, key: str, size: int, good: Iterable[tuple[int, int]]) -> None:
    """Write the journal for a part that is about to be moved into place with these bytes good."""
    header = json.dumps({"format": 1, "key": key, "size": size, "boot": ""})
    lines = [header, *(f"s {start} {stop}" for start, stop in good)]
    write_bytes(journal_of(path), ("\n".join(lines) + "\n").encode())


def lock_of(path: Path) -> Path:
    """Return the lock's path for a part's."""
    return path.with_name(path.name + ".lock")


def journal_of(path: Path) -> Path:
    """Return the journal's path for a part's."""
    return path.with_name(path.name + ".journal")


def flush(fd: int) -> None:
    """Bring a file's bytes to the disk itself, past the drive's own cache on macOS too."""
    if sys.platform == "darwin":
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
        os.fsync(fd)
    else:
        os.fdatasync(fd)


def sync_folder(folder: Path) -> None:
    """Make names in a folder safe from a power loss, where the filesystem can."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def bytes_in(path: Path, key: str, size: int) -> int:
    """Return how many bytes the next one to open a part will find in it; nothing is opened or changed."""
    try:
        good = _good(journal_of(path), key, size, path.stat().st_size)
    except OSError:
        return 0
    return good.total() if good is not None else 0


def _good(journal: Path, key: str, size: int, length: int) -> Ranges | None:
    """Return which bytes of a part of this length can be relied on; None if it is of other content."""
    header, written, synced = _read_journal(journal)
    if header.get("key") != key or header.get("size") != size:
        return None
    good = [*synced, *(written if header.get("boot") == boot_id() != "" else ())]
    return Ranges((start, min(stop, length)) for start, stop in good)


def _read_journal(path: Path) -> tuple[dict[str, object], list[tuple[int, int]], list[tuple[int, int]]]:
    """Return header, written ranges and synced ranges; lines that a crash tore are passed over."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
        header = json.loads(lines[0])
    except (OSError, ValueError, IndexError):
        return {}, [], []
    found: dict[bytes, list[tuple[int, int]]] = {b"w": [], b"s": []}
    for line in lines[1:]:
        words = line.split(b" ")
        if len(words) == 3 and words[0] in found and words[1].isdigit() and words[2].isdigit():  # noqa: PLR2004
            found[words[0]].append((int(words[1]), int(words[2])))
    return (header if isinstance(header, dict) else {}), found[b"w"], found[b"s"]
