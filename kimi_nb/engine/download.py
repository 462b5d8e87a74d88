"""Downloads that can be trusted: pinned to a commit, resumable after anything, proven byte by byte."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kimi_nb.engine.fetch import adopt, preflight, remote
from kimi_nb.engine.fetch.check import Checked, trouble_of
from kimi_nb.engine.fetch.fulfil import Fulfilled, fulfil, look_at, needs_of
from kimi_nb.engine.fetch.job import FileProgress, Options, Progress
from kimi_nb.engine.fetch.outlook import outlook
from kimi_nb.engine.fetch.past import Past
from kimi_nb.engine.fetch.remote import Hub
from kimi_nb.engine.fetch.shelf import Entry, Shelf
from kimi_nb.engine.fetch.trust import Trust, trust
from kimi_nb.engine.fetch.xet import pick_source
from kimi_nb.errors import DownloadError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from kimi_nb.engine.fetch.manifest import Manifest

__all__ = [
    "DownloadPlan",
    "DownloadResult",
    "FileProgress",
    "Options",
    "Progress",
    "Trust",
    "download",
    "first_shard",
    "named",
    "plan_download",
    "trust",
    "verify",
]


@dataclass(frozen=True)
class DownloadResult:
    """What a download left on the disk.

    Args:
        first_shard: The file to give to llama-server; it finds the other shards itself.
        files: Every file of the set.
        manifest: What they were checked against.
        fetched_bytes: What came over the network in this call.
        repaired: What was wrong with files that were there, in words; empty if nothing was.
        linked: Files that lay elsewhere already and were linked, path in the repository to place.
        transfer: How bytes came, and why that way; empty when none had to.
    """

    first_shard: Path
    files: tuple[Path, ...]
    manifest: Manifest
    fetched_bytes: int = 0
    repaired: tuple[Checked, ...] = ()
    linked: tuple[tuple[str, Path], ...] = ()
    transfer: str = ""


@dataclass(frozen=True)
class DownloadPlan:
    """What a download would do.

    Args:
        manifest: The files, pinned to a commit.
        folder: Where they would lie.
        checked: What is there now.
        fetch_bytes: What would be fetched at most.
        transfer: How, and why that way.
        room: What there is where it would be written.
        warnings: What a person should know of the disk first.
        outlook: What they should know of this machine's memory first; empty if nothing speaks against it.
    """

    manifest: Manifest
    folder: Path
    checked: tuple[Checked, ...]
    fetch_bytes: int
    transfer: str
    room: preflight.Room
    warnings: tuple[str, ...]
    outlook: tuple[str, ...]


def download(  # noqa: PLR0913 - every argument but the first has a default
    model: str,
    quant: str | None = None,
    *,
    revision: str | None = None,
    folder: Path | None = None,
    patterns: Sequence[str] = (),
    endpoint: str | None = None,
    token: str | None = None,
    update: bool = False,
    check_fit: bool = True,
    options: Options | None = None,
    progress: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> DownloadResult:
    """Fetch one quant of a model and prove that every byte is right.

    Args:
        model: A key of the catalog, such as ``kimi-k2.5``, or a repository, ``namespace/name``.
        quant: Such as ``UD-TQ1_0``.
        revision: Branch, tag or commit; the catalog's pinned commit or ``main`` by default.
        folder: The models folder; :func:`kimi_nb.files.models_home` by default.
        patterns: Further files to bring, as shell patterns over the paths in the repository.
        endpoint: The Hub; ``HF_ENDPOINT`` or the public one by default.
        token: What huggingface_hub finds (``HF_TOKEN``, ``hf auth login``) by default; sent to that Hub only.
        update: Ask the Hub for a newer commit although a set of this name is here, whole or begun.
        check_fit: Say so if the model does not suit this machine; it is fetched all the same.
        options: Connections, limits and patience.
        progress: Called in this thread about ten times a second.
        notice: Called with a line a person should see before it starts: the licence, a warning.
        cancelled: Asked about ten times a second; once it says yes, all ends with ``KeyboardInterrupt``.

    Returns:
        Where the files are. When all of it is here already this costs a stat a file, and no network.

    Raises:
        DownloadError: What stopped it, KNB4xx; what has come is kept and the same call continues.
        UsageError: The call itself is wrong.
        KeyboardInterrupt: It was cancelled; what has come is kept and the same call continues.
    """
    shelf, hub, options = _start(folder, endpoint, token, options)
    entry = _entry(shelf, hub, model, quant, patterns, revision, update=update)
    if entry.complete and all(shelf.is_proven(file, entry.path(file)) for file in entry.manifest.files):
        return _result(entry)
    say = notice or (lambda _line: None)

    def ready(checked: list[Checked], room: preflight.Room | None) -> None:
        for line in _licence(shelf, entry.manifest):
            say(line)
        for look in checked:
            if look.why:
                say(_fault(look))
        for line in preflight.warnings_of(room) if room is not None else ():
            say(line)
        for line in outlook(entry.manifest) if check_fit and room is not None else ():
            say(line)

    done = fulfil(shelf, entry, hub, options=options, progress=progress, ready=ready, cancelled=cancelled)
    return _concluded(shelf, entry, done)


def plan_download(  # noqa: PLR0913 - as for download
    model: str,
    quant: str | None = None,
    *,
    revision: str | None = None,
    folder: Path | None = None,
    patterns: Sequence[str] = (),
    endpoint: str | None = None,
    token: str | None = None,
    update: bool = False,
    check_fit: bool = True,
    options: Options | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> DownloadPlan:
    """Say what :func:`download` would do, and do none of it; arguments as there.

    Raises:
        DownloadError: It could not be done: no space, no access and so on.
    """
    shelf, hub, options = _start(folder, endpoint, token, options)
    entry = _entry(shelf, hub, model, quant, patterns, revision, update=update)
    checked = look_at(shelf, entry, None, again=False, cancelled=cancelled)
    needs = needs_of(entry, checked)
    room = preflight.check_room(needs, entry.blobs or entry.root, create=False)
    return DownloadPlan(
        manifest=entry.manifest,
        folder=entry.root,
        checked=tuple(checked),
        fetch_bytes=sum(need.missing for need in needs),
        transfer=pick_source(entry.manifest, hub, options)[1],
        room=room,
        warnings=tuple(preflight.warnings_of(room)),
        outlook=tuple(outlook(entry.manifest)) if check_fit else (),
    )


def verify(  # noqa: PLR0913 - as for download
    where: Path | None = None,
    *,
    model: str | None = None,
    quant: str | None = None,
    revision: str | None = None,
    folder: Path | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    repair: bool = True,
    options: Options | None = None,
    progress: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> DownloadResult:
    """Hash every file of a set, adopt it if it is not known yet, and fetch again only what is broken.

    Args:
        where: A folder that ``hf download``, the Hub's cache or a person filled; without it, the set of this
            name in the models folder. Nothing is copied: the files stay where they are.
        model: As for :func:`download`; the Hub's cache tells it by itself.
        quant: As there; told by the files where there is only one.
        revision: As there; huggingface_hub's folders tell it by themselves.
        folder: The models folder, which remembers what was adopted.
        endpoint: The Hub.
        token: For the Hub.
        repair: Fetch what is broken; without it, nothing is changed.
        options: As for :func:`download`.
        progress: As for :func:`download`.
        notice: As for :func:`download`.
        cancelled: As for :func:`download`.

    Raises:
        DownloadError: Files are broken and ``repair`` is false (KNB416), or they could not be repaired.
        UsageError: It cannot be told which repository or quant this is (KNB416).
        KeyboardInterrupt: It was cancelled.
    """
    shelf, hub, options = _start(folder, endpoint, token, options)
    entry = _adopted(shelf, hub, where, model, quant, revision)
    if not repair:
        past = Past(hub, entry.manifest)
        checked = look_at(shelf, entry, past, again=True, progress=progress, cancelled=cancelled)
        if not all(look.ok for look in checked):
            raise DownloadError(
                "KNB416",
                f"{entry.manifest.name} is not whole",
                why=trouble_of(checked),
                fix="Run kimi-nb download --verify on it without --no-repair to fetch what is broken.",
            )
        return _concluded(shelf, entry, Fulfilled(tuple(checked), 0, {}, ""))

    def ready(checked: list[Checked], _room: preflight.Room | None) -> None:
        for look in checked:
            if notice is not None and not look.ok:
                notice(_fault(look))

    done = fulfil(
        shelf,
        entry,
        hub,
        options=options,
        again=True,
        progress=progress,
        ready=ready,
        cancelled=cancelled,
    )
    return _concluded(shelf, entry, done)


def named(
    model: str, quant: str | None = None, revision: str | None = None
) -> tuple[str, str | None, str | None]:
    """Return repository, quant and revision for a key of the catalog or a repository's name.

    Raises:
        UsageError: There is no such model or quant, it is made here, or several quants could be meant.
    """
    if "/" in model:
        return model, quant, revision
    from kimi_nb.model import catalog

    known = catalog().model(model)
    if not known.quants:
        raise UsageError(
            "KNB405",
            f"{known.name} is not to be downloaded",
            why="it is made on this machine",
            fix="Run kimi-nb nano.",
        )
    if quant is None:
        raise UsageError(
            "KNB405",
            f"no quant of {known.name} was named",
            why=f"there are {', '.join(dict.fromkeys(each.name for each in known.quants))}",
            fix="Choose one with --quant; kimi-nb check says which fit this machine.",
        )
    found = known.quant(quant)
    return found.repo, found.name, revision or found.revision


def _start(
    folder: Path | None, endpoint: str | None, token: str | None, options: Options | None
) -> tuple[Shelf, Hub, Options]:
    """Return what every call works with."""
    options = options or Options()
    hub = Hub(endpoint, token, timeout_s=options.timeout_s, backoff=options.backoff_s)
    return Shelf(folder), hub, options


def _fault(look: Checked) -> str:
    return f"{look.file.path} is {look.verdict.value}" + (f": {look.why}" if look.why else "")


def _entry(
    shelf: Shelf,
    hub: Hub,
    model: str,
    quant: str | None,
    patterns: Sequence[str],
    revision: str | None,
    *,
    update: bool,
) -> Entry:
    """Return the set as it is pinned here, or pin it now."""
    repo, quant, revision = named(model, quant, revision)
    known = shelf.find(repo, quant or " ".join(patterns))
    if (
        known is not None
        and not update
        and revision in {None, known.manifest.revision, known.manifest.commit}
        and tuple(patterns) == known.manifest.patterns
    ):
        return known if known.manifest.endpoint == hub.endpoint else _moved(known, hub)
    manifest = hub.manifest(repo, quant, patterns=patterns, revision=revision)
    if known is not None:
        return replace(known, manifest=manifest, complete=False)
    return Entry(manifest, shelf.root_of(repo))


def _moved(entry: Entry, hub: Hub) -> Entry:
    """Return a set with another Hub to fetch from: a commit is the same on every mirror."""
    return replace(entry, manifest=replace(entry.manifest, endpoint=hub.endpoint))


def _adopted(
    shelf: Shelf, hub: Hub, where: Path | None, model: str | None, quant: str | None, revision: str | None
) -> Entry:
    repo = None
    if model is not None:
        repo, quant, revision = (
            named(model, quant, revision) if quant or "/" in model else (model, None, revision)
        )
    if where is None:
        known = shelf.find(repo, quant) if repo is not None and quant is not None else None
        if known is None:
            raise UsageError(
                "KNB416",
                f"no set {repo or '?'}:{quant or '?'} is known in {shelf.folder}",
                why="nothing of that name was downloaded or adopted there",
                fix="Name the folder to verify, or see kimi-nb models for what there is.",
            )
        return known if known.manifest.endpoint == hub.endpoint else _moved(known, hub)
    found = adopt.recognise(where)
    repo, quant, revision = repo or found.repo, quant or found.quant, revision or found.commit
    if repo is None or quant is None:
        what = "the repository" if repo is None else "the quant"
        raise UsageError(
            "KNB416",
            f"{where} does not tell {what} it holds",
            why="only the Hub's cache writes that down"
            if repo is None
            else "it holds several quants, or none",
            fix=f"Name it with {'--model or --repo' if repo is None else '--quant'}.",
        )
    known = shelf.find(repo, quant)
    if (
        known is not None
        and known.root in {found.root, found.root.parent}
        and revision in {None, known.manifest.commit}
    ):
        return known
    if remote.is_offline():
        manifest = adopt.offline_manifest(found, repo, quant, hub.endpoint)
        if manifest is None:
            raise DownloadError(
                "KNB407",
                f"the hashes of {repo} are not on this machine",
                why="HF_HUB_OFFLINE is set, and only the Hub's cache holds them by itself",
                fix="Unset HF_HUB_OFFLINE for this check: it fetches a list, not the files.",
            )
    else:
        manifest = hub.manifest(repo, quant, revision=revision)
    return adopt.place(found, manifest)


def _concluded(shelf: Shelf, entry: Entry, done: Fulfilled) -> DownloadResult:
    """See that the shards fit together, and write down that the set is whole."""
    from kimi_nb.model import read_header

    for file in entry.manifest.files:
        first = "-of-" not in file.path or "-00001-of-" in file.path
        if file.path.endswith(".gguf") and first:
            read_header(entry.path(file))
    shelf.save(replace(entry, complete=True))
    repaired = tuple(look for look in done.checked if not look.ok and look.why)
    return replace(
        _result(entry),
        fetched_bytes=done.fetched,
        repaired=repaired,
        linked=tuple(sorted(done.linked.items())),
        transfer=done.transfer,
    )


def first_shard(entry: Entry) -> Path:
    """Return the file of a set to give to llama-server."""
    paths = [entry.path(file) for file in entry.manifest.files]
    ggufs = [path for path in paths if path.suffix == ".gguf" and not path.name.startswith("mmproj")]
    return min(ggufs or paths)


def _result(entry: Entry) -> DownloadResult:
    paths = tuple(entry.path(file) for file in entry.manifest.files)
    return DownloadResult(first_shard(entry), paths, entry.manifest)


def _licence(shelf: Shelf, manifest: Manifest) -> list[str]:
    """Return a line about the licence, the first time a repository is used on this shelf."""
    shown = shelf.state / "licences-shown"
    before = shown.read_text(encoding="utf-8").splitlines() if shown.is_file() else []
    if manifest.repo in before:
        return []
    with suppress(OSError):  # shown once more, then
        shelf.state.mkdir(parents=True, exist_ok=True)
        with shown.open("a", encoding="utf-8") as file:
            file.write(manifest.repo + "\n")
    if manifest.license is None:
        return [f"{manifest.repo} names no licence: see its page before you use it"]
    return [
        f"licence of {manifest.repo}: {manifest.license}"
        + (f" ({manifest.license_url})" if manifest.license_url else "")
    ]
