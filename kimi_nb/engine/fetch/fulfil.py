"""Make a set of files whole: look, keep what is good, fetch the rest, prove it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kimi_nb.engine.fetch import trouble
from kimi_nb.engine.fetch.adopt import hub_cache
from kimi_nb.engine.fetch.check import Checked, check
from kimi_nb.engine.fetch.job import FileProgress, Job, Options, Progress, State, stop_if
from kimi_nb.engine.fetch.part import bytes_in
from kimi_nb.engine.fetch.past import Past
from kimi_nb.engine.fetch.preflight import Need, Room, check_room
from kimi_nb.engine.fetch.remote import is_offline
from kimi_nb.engine.fetch.repair import link_copies, part_path, salvage, sweep
from kimi_nb.engine.fetch.shelf import Stamp
from kimi_nb.engine.fetch.transfer import Transfer
from kimi_nb.engine.fetch.xet import pick_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kimi_nb.engine.fetch.manifest import RemoteFile
    from kimi_nb.engine.fetch.remote import Hub
    from kimi_nb.engine.fetch.shelf import Entry, Shelf

__all__ = ["Fulfilled", "fulfil", "look_at", "needs_of"]


@dataclass(frozen=True)
class Fulfilled:
    """What it took.

    Args:
        checked: What was found before anything was changed.
        fetched: Bytes that came over the network.
        linked: Path in the repository to the place elsewhere that it was linked to.
        transfer: How bytes came, and why that way; empty when none had to.
    """

    checked: tuple[Checked, ...]
    fetched: int
    linked: dict[str, Path]
    transfer: str


def needs_of(entry: Entry, checked: list[Checked]) -> list[Need]:
    """Return what is to be written, and how much space of it is taken up already."""
    needs = []
    for look in checked:
        if look.ok:
            continue
        taken = _taken(part_path(entry, look.file))
        if look.good:
            taken = max(taken, _taken(look.path))
        needs.append(Need(look.file, look.path, taken))
    return needs


def _taken(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def fulfil(
    shelf: Shelf,
    entry: Entry,
    hub: Hub,
    *,
    options: Options,
    again: bool = False,
    progress: Callable[[Progress], None] | None = None,
    ready: Callable[[list[Checked], Room | None], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Fulfilled:
    """Make a set whole.

    Args:
        shelf: The models folder.
        entry: The set; it is written down before the first byte.
        hub: Where to fetch from.
        options: How to fetch.
        again: Hash files too that were proven before.
        progress: Called in this thread.
        ready: Called when it is known what there is to do, and that it can be done.
        cancelled: Asked now and then.

    Raises:
        DownloadError: Why it could not be made whole; what has come is kept.
        KeyboardInterrupt: It was cancelled; what has come is kept.
    """
    checked = look_at(
        shelf, entry, Past(hub, entry.manifest), again=again, progress=progress, cancelled=cancelled
    )
    linked = link_copies(shelf, entry, checked, None if entry.blobs else hub_cache())
    if linked:
        now = check(shelf, entry)
        checked = [new if old.file.path in linked else old for old, new in zip(checked, now, strict=True)]
    broken = [look for look in checked if not look.ok]
    room = check_room(needs_of(entry, checked), entry.blobs or entry.root) if broken else None
    if ready is not None:
        ready(checked, room)
    if not broken:
        sweep(shelf, entry)
        shelf.save(entry)
        return Fulfilled(tuple(checked), 0, linked, "")
    if is_offline():
        raise trouble.offline(broken[0].file.path)
    shelf.save(entry)
    try:
        salvage(entry, checked)
    except OSError as error:
        raise trouble.disk_error(error, entry.root) from error
    source, why = pick_source(entry.manifest, hub, options)
    jobs = [_job(shelf, entry, look.file) for look in broken]
    transfer = Transfer(
        entry.manifest,
        jobs,
        token=hub.token,
        options=options,
        settled=lambda job: shelf.is_proven(job.file, entry.path(job.file)),
        source=source,
    )
    whole = [_done(look.file) for look in checked if look.ok]
    try:
        transfer.run(None if progress is None else lambda now: progress(_with(now, whole)), cancelled)
    except OSError as error:
        raise trouble.disk_error(error, entry.root) from error
    sweep(shelf, entry)
    return Fulfilled(tuple(checked), sum(job.fetched for job in jobs), linked, why + source.afterword)


def _done(file: RemoteFile) -> FileProgress:
    return FileProgress(file.path, file.size, file.size, State.DONE)


def _with(now: Progress, whole: list[FileProgress]) -> Progress:
    """Add the files that were whole before."""
    size = sum(file.size for file in whole)
    files = tuple(sorted([*whole, *now.files], key=lambda file: file.path))
    return Progress(
        now.done_bytes + size, now.total_bytes + size, now.rate_bytes_s, now.left_s, files, now.note
    )


def look_at(
    shelf: Shelf,
    entry: Entry,
    past: Past | None,
    *,
    again: bool,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Checked]:
    """Check a set while this thread, which may touch widgets, shows how far that is; arguments as there."""
    hashed: dict[str, int] = {}
    stop, found, failed = threading.Event(), list[Checked](), list[BaseException]()

    def work() -> None:
        try:
            found.extend(check(shelf, entry, past=past, again=again, hashed=hashed.__setitem__, stop=stop))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=work, name="check", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
            stop_if(cancelled)
            if progress is not None and hashed:
                files = tuple(
                    FileProgress(file.path, file.size, hashed.get(file.path, 0), State.CHECKING)
                    for file in entry.manifest.files
                )
                done = sum(file.done for file in files)
                progress(Progress(done, entry.manifest.size, None, None, files, "checking what is here"))
    finally:
        stop.set()
        thread.join()
    if failed and isinstance(failed[0], OSError):
        raise trouble.disk_error(failed[0], entry.root) from failed[0]
    if failed:
        raise failed[0]
    return found


def _job(shelf: Shelf, entry: Entry, file: RemoteFile) -> Job:
    place, path = entry.place(file), entry.path(file)

    def prove(marks: list[str], stat: os.stat_result) -> None:
        if entry.blobs is not None and not path.exists():  # the Hub's cache: a link to the blob
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to(os.path.relpath(place, path.parent))
        shelf.prove(file, path, marks, Stamp.from_stat(stat))

    part = part_path(entry, file)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise trouble.disk_error(error, part.parent) from error
    kept = bytes_in(part, file.key, file.size)
    return Job(file, place, part, prove, known=shelf.marks(file), kept=kept)
