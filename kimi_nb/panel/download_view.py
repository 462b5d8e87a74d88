"""What the download panel says: of a plan, of a transfer, of the models that are here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.engine.fetch.background import Phase, Task
from kimi_nb.engine.fetch.job import Progress, State
from kimi_nb.engine.fetch.outlook import LARGE
from kimi_nb.errors import troubles
from kimi_nb.panel import nodes as n
from kimi_nb.panel.words import gb, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.engine.download import DownloadPlan
    from kimi_nb.engine.fetch.background import Work
    from kimi_nb.engine.fetch.job import FileProgress
    from kimi_nb.engine.fetch.stock import Removal, Stock
    from kimi_nb.errors import KimiNbError
    from kimi_nb.panel.nodes import Node, Tone

__all__ = ["facts", "file_bars", "models_table", "pace", "removal", "state", "sum_of", "trouble", "work_bar"]

_FILE_STATES = {
    State.WAITING: "waiting",
    State.ELSEWHERE: "another process is fetching it",
    State.CHECKING: "being checked",
    State.FETCHING: "coming",
    State.DONE: "verified",
    State.FAILED: "failed",
}
_SET_STATES = {
    "verified": "verified, every byte",
    "incomplete": "not finished",
    "changed": "changed since it was verified",
    "missing": "its files are gone",
}


# ---- before the first byte


def facts(plan: DownloadPlan) -> list[Node]:
    """Return what would be fetched, and what speaks for and against it."""
    manifest, room = plan.manifest, plan.room
    files = f"{_files(len(manifest.files))}, {gb(manifest.size)} in all"
    to_fetch = gb(plan.fetch_bytes) if plan.fetch_bytes else "nothing"
    after = f"of {gb(room.free_bytes)} free now" if plan.fetch_bytes else "nothing more is needed"
    memory = "fits" if not plan.outlook else "see below"
    row = [
        n.fact("To fetch", to_fetch, files),
        n.fact("Free afterwards", gb(max(0, room.free_bytes - plan.fetch_bytes)), after),
    ]
    if plan.outlook or manifest.size >= LARGE:
        row.append(n.fact("This machine's memory", memory, "estimated by its size"))
    lines: list[Node] = [n.row(row, key="figures"), *_disk(plan)]
    lines += [n.text(_sentence(line), tone="warn", key=line) for line in (*plan.warnings, *plan.outlook)]
    lines.append(n.text(_licence(manifest.license, manifest.license_url), key="licence"))
    pinned = f"Pinned to commit {manifest.commit[:12]} of {manifest.repo}."
    how = f" By {plan.transfer}." if plan.fetch_bytes else ""
    lines.append(n.text(pinned + how, tone="quiet", key="how"))
    return lines


def _disk(plan: DownloadPlan) -> list[Node]:
    room = plan.room
    if room.total_bytes <= 0:
        return []
    used = max(0, room.total_bytes - room.free_bytes)
    parts = [("others", f"in use {gb(used)}", float(used))]
    parts.append(("weights", f"to fetch {gb(plan.fetch_bytes)}", float(plan.fetch_bytes)))
    shown = [part for part in parts if part[2] > 0]
    label, said = f"Disk {room.mount} ({room.filesystem})", f"{gb(room.free_bytes)} free"
    return [n.bar(label, shown, float(room.total_bytes), said, tone="good")]


def _licence(name: str | None, url: str | None) -> str:
    if name is None:
        return "Licence: the repository names none; see its page before you use it."
    return f"Licence: {name}" + (f", see {url}" if url else "") + "."


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."


# ---- while it goes on, and after


def sum_of(files: Sequence[FileProgress]) -> Progress:
    """Return how far the whole is, from its files as they are on the disk."""
    done, total = sum(file.done for file in files), sum(file.size for file in files)
    return Progress(done, total, None, None, tuple(files))


def state(work: Work | None, now: Progress | None) -> tuple[str, Tone]:
    """Return in a sentence where a download stands, and how that is meant.

    Args:
        work: What goes on for the set in this process, or did last.
        now: How far it is; None where nothing is known yet.
    """
    if work is not None and work.active:
        doing = "Pausing" if work.phase is Phase.PAUSING else _DOING[work.task]
        return f"{doing} ...", "plain"  # how far it is says the bar: this line is read out when it changes
    if now is None or not now.total_bytes:
        return "Not begun.", "plain"
    if all(file.state is State.DONE for file in now.files):
        return "Whole: every byte of every file was verified.", "good"
    if any(file.state is State.ELSEWHERE for file in now.files):
        return "Another process is fetching it.", "plain"
    return _stopped(work, now)


def _stopped(work: Work | None, now: Progress) -> tuple[str, Tone]:
    failed = work is not None and work.phase is Phase.FAILED and work.task is not Task.VERIFY
    if not now.done_bytes:
        return ("It failed before anything came.", "bad") if failed else ("Not begun.", "plain")
    percent = f"{int(100 * now.done_bytes / now.total_bytes)}%"
    if failed:
        return f"Stopped at {percent}; what has come is kept.", "bad"
    paused = "Paused" if work is not None and work.phase is Phase.PAUSED else "Not finished"
    return f"{paused} at {percent}; what has come is kept.", "warn"


_DOING = {Task.DOWNLOAD: "Downloading", Task.VERIFY: "Verifying", Task.REPAIR: "Verifying and mending"}


def work_bar(label: str, now: Progress | None) -> list[Node]:
    """Return a bar for the whole, and what is being waited for."""
    if now is None:
        return [n.progress(label, None, "it begins", key="whole")]
    fraction = now.done_bytes / now.total_bytes if now.total_bytes else 0.0
    said = f"{gb(now.done_bytes)} of {gb(now.total_bytes)}, {int(100 * fraction)}%"
    found = [n.progress(label, fraction, said, key="whole")]
    if now.note and now.note != "checking what is here":
        found.append(n.text(_sentence(now.note), tone="quiet", key="note"))
    return found


def pace(now: Progress | None) -> list[Node]:
    """Return speed and time left, where they can be said."""
    if now is None or now.rate_bytes_s is None:
        return []
    whole = sum(file.state is State.DONE for file in now.files)
    left = "unknown" if now.left_s is None else seconds(now.left_s)
    row = [
        n.fact("Speed", f"{gb(now.rate_bytes_s)}/s", "over the last minute"),
        n.fact("Time left", left, "at that speed"),
        n.fact("Verified", f"{whole} of {_files(len(now.files))}", "every byte of them"),
    ]
    return [n.row(row, key="pace")]


def file_bars(files: Sequence[FileProgress], *, going: bool) -> Node:
    """Return a bar for each file."""
    bars = []
    for file in files:
        said = _FILE_STATES[file.state]
        if file.state is State.WAITING and not going:
            said = "not finished" if file.done else "not begun"
        if file.state is not State.DONE:
            said = f"{gb(file.done)} of {gb(file.size)}, {said}"
        else:
            said = f"{gb(file.size)}, {said}"
        name = file.path.rsplit("/", 1)[-1]
        bars.append(n.progress(name, file.done / max(1, file.size), said, key=file.path))
    whole = sum(file.state is State.DONE for file in files)
    label = f"Files: {whole} of {len(files)} verified"
    return n.fold(label, bars, key="files", opened=True)


def trouble(error: KimiNbError) -> list[Node]:
    """Return what went wrong, what to do, and more for those who want to know."""
    known = troubles().get(error.id)
    found = [n.text(str(error), tone="bad", live=True, key="trouble")]
    if known is not None:
        words = " ".join(known.explanation.split())
        found.append(n.fold(f"More about {error.id}", [n.text(words)], key=f"more-{error.id}"))
    return found


# ---- what is here


def models_table(sets: Sequence[Stock], folder: str) -> Node:
    """Return the sets of a models folder."""
    rows = []
    for one in sets:
        manifest = one.entry.manifest
        whole = "" if one.whole == len(manifest.files) else f", {one.whole} of {len(manifest.files)} files"
        adopted = f"; adopted from {one.entry.root}" if one.entry.adopted else ""
        part = "" if one.state == "verified" else f"{gb(one.here_bytes)} of "
        rows.append([manifest.name, part + gb(manifest.size), f"{_SET_STATES[one.state]}{whole}{adopted}"])
    return n.table(f"In {folder}", ["model", "on the disk", "state"], rows, key="models")


def removal(plan: Removal) -> str:
    """Return in words what would be deleted."""
    name = plan.entry.manifest.name
    if plan.entry.adopted and not plan.files:
        return f"{name} was adopted: only our record of it goes, and its {len(plan.kept)} files stay."
    words = f"Removing {name} deletes {_files(len(plan.files))} and frees {gb(plan.freed_bytes)}."
    if plan.kept:
        words += f" {len(plan.kept)} more stay, for another set has them too."
    return f"{words} It cannot be undone."
