"""The records of a transfer: what is to be done, how, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from kimi_nb.engine.fetch.part import WINDOW, PartFile
from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

    from kimi_nb.engine.fetch.manifest import RemoteFile
    from kimi_nb.errors import DownloadError

__all__ = ["FileProgress", "Job", "Options", "Progress", "State", "stop_if"]


SMALLEST_WINDOW = 256 * 1024


class State(StrEnum):
    """Where a file is on its way."""

    WAITING = "waiting"
    ELSEWHERE = "elsewhere"
    """Another process is fetching it."""
    CHECKING = "checking"
    FETCHING = "fetching"
    DONE = "done"
    FAILED = "failed"


ENDED = {State.DONE, State.FAILED}


@dataclass(frozen=True)
class Options:
    """How to transfer.

    Args:
        connections: Over all files together.
        limit_bytes_s: The most bytes a second; ``None`` for no limit.
        window: The most bytes of a file that any interruption can cost.
        timeout_s: Seconds without a byte after which a connection counts as dead.
        patience_s: For how long to keep trying while nothing at all comes.
        refusals: How often in a row a server may answer with something useless before a file is given up.
        backoff_s: Before the first retry; doubled, with jitter, for each one after.
        transfer: ``auto``, ``http`` or ``xet``.
    """

    connections: int = 8
    limit_bytes_s: float | None = None
    window: int = WINDOW
    timeout_s: float = 30.0
    patience_s: float = 2 * 3600.0
    refusals: int = 6
    backoff_s: float = 0.5
    transfer: str = "auto"

    def __post_init__(self) -> None:
        if self.connections < 1 or self.window < SMALLEST_WINDOW:
            raise UsageError(
                "KNB423",
                "these options cannot work",
                why=f"there must be a connection, and a window of {SMALLEST_WINDOW // 1024} KiB at least",
                fix="Leave them out: the defaults suit most lines.",
            )


@dataclass(frozen=True)
class FileProgress:
    """How far one file is."""

    path: str
    size: int
    done: int
    state: State


@dataclass(frozen=True)
class Progress:
    """How far the whole is.

    Args:
        done_bytes: Of ``total_bytes``, what was here before included.
        total_bytes: Of all files.
        rate_bytes_s: Over the last minute; ``None`` while it cannot be said.
        left_s: At that rate.
        files: One each.
        note: What is being waited for, if anything.
    """

    done_bytes: int
    total_bytes: int
    rate_bytes_s: float | None
    left_s: float | None
    files: tuple[FileProgress, ...]
    note: str = ""


@dataclass
class Job:
    """One file to bring: from the manifest to its final name.

    Args:
        file: What to bring.
        target: Where its bytes will lie.
        part_path: Where they are collected.
        prove: Told the marks and the stat of the file, whole and hashed, just before it gets its name.
        known: Marks from an earlier proof, by which bad pieces show at once.
        kept: Bytes that an earlier attempt left; they count from the start on.
    """

    file: RemoteFile
    target: Path
    part_path: Path
    prove: Callable[[list[str], os.stat_result], None]
    known: list[str] = field(default_factory=list)
    kept: int = 0
    state: State = State.WAITING
    part: PartFile | None = None
    connections: int = 0
    refusals: int = 0
    wrong: int = 0
    fetched: int = 0
    error: DownloadError | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDED

    @property
    def here(self) -> int:
        """How many of its bytes are here."""
        if self.state is State.DONE:
            return self.file.size
        part = self.part
        return part.here() if part is not None else self.kept


def stop_if(cancelled: Callable[[], bool] | None) -> None:
    """End the work as Ctrl-C would, once whoever asked for it no longer wants it."""
    if cancelled is not None and cancelled():
        raise KeyboardInterrupt
