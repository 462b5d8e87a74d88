"""Recognise a folder that something else filled: ``hf download``, the Hub's cache, a copy by hand."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.engine.fetch.manifest import Manifest, RemoteFile
from kimi_nb.engine.fetch.remote import quant_of
from kimi_nb.engine.fetch.shelf import Entry
from kimi_nb.errors import UsageError
from kimi_nb.files import at_home
from kimi_nb.model.header_only import refuse_header_only

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Found", "hub_cache", "offline_manifest", "place", "recognise"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Found:
    """What a folder shows of itself.

    Args:
        root: The folder that paths in the repository are relative to, as far as that can be seen.
        repo: The repository, where the folder tells it.
        commit: The commit, where the folder tells it.
        blobs: In the Hub's cache, the folder of the bytes.
        quant: The quant, where there is only one.
    """

    root: Path
    repo: str | None = None
    commit: str | None = None
    blobs: Path | None = None
    quant: str | None = None


def hub_cache() -> Path:
    """Return huggingface_hub's cache folder, by its own rules."""
    base = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or Path(base, "hub")
    return at_home(os.path.expandvars(named))


def recognise(folder: Path) -> Found:
    """Look at a folder, and above it, for the marks that huggingface_hub leaves.

    Raises:
        UsageError: There is no such folder (KNB416).
        ModelFileError: It holds no weights (KNB323).
    """
    folder = Path(os.path.abspath(at_home(folder)))  # noqa: PTH100 - resolve() would leave the cache's links
    refuse_header_only(folder)
    if folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(
            "KNB416", f"{folder} is no folder", why="nothing is there to verify", fix="Check the path."
        )
    quant = _only_quant(folder)
    for above in (folder, *folder.parents):
        if above.name.startswith("models--") and (above / "snapshots").is_dir():
            return _in_cache(folder, above, quant)
        if (above / ".cache" / "huggingface" / "download").is_dir():
            return Found(
                above, commit=_local_commit(above / ".cache" / "huggingface" / "download"), quant=quant
            )
    return Found(folder, quant=quant)


def _in_cache(folder: Path, home: Path, quant: str | None) -> Found:
    repo = home.name.removeprefix("models--").replace("--", "/", 1)
    parts = folder.relative_to(home).parts
    if len(parts) > 1 and parts[0] == "snapshots":
        commit = parts[1]
    else:
        main = home / "refs" / "main"
        there = sorted(
            (path for path in (home / "snapshots").iterdir()), key=lambda path: path.stat().st_mtime
        )
        commit = (
            main.read_text(encoding="ascii").strip() if main.is_file() else there[-1].name if there else ""
        )
    root = home / "snapshots" / commit
    return Found(root, repo, commit or None, home / "blobs", quant or _only_quant(root))


def _local_commit(folder: Path) -> str | None:
    """Return the commit that most files of ``hf download --local-dir`` came from."""
    counted: Counter[str] = Counter()
    for path in folder.rglob("*.metadata"):
        with path.open(encoding="utf-8", errors="replace") as file:
            commit = file.readline().strip()
        if _COMMIT.fullmatch(commit):
            counted[commit] += 1
    return counted.most_common(1)[0][0] if counted else None


def _only_quant(folder: Path) -> str | None:
    ggufs = [path for path in folder.rglob("*.gguf") if not path.name.startswith("mmproj")]
    names = {quant_of(path.name) for path in ggufs}
    return names.pop() if len(names) == 1 else None


def place(found: Found, manifest: Manifest) -> Entry:
    """Find out how a folder lays files out: as the repository does, flat, or one level too deep."""

    def entry(root: Path, *, flat: bool = False) -> Entry:
        return Entry(manifest, root, adopted=True, flat=flat, blobs=found.blobs)

    candidates = [entry(found.root), entry(found.root.parent), entry(found.root, flat=True)]

    def there(candidate: Entry) -> int:
        return sum(os.path.lexists(candidate.path(file)) for file in manifest.files)

    return max(candidates, key=there)  # the first of equals


def offline_manifest(found: Found, repo: str, quant: str, endpoint: str) -> Manifest | None:
    """Make a manifest from the Hub's cache alone, whose blobs are named by their sha256, if it can be."""
    if found.blobs is None or found.commit is None:
        return None
    files: list[RemoteFile] = []
    for path in sorted(found.root.rglob("*.gguf")):
        target = path.resolve()
        if quant_of(path.name).lower() != quant.lower() or not _SHA256.fullmatch(target.name):
            continue
        size = target.stat().st_size if target.is_file() else 0
        files.append(RemoteFile(path.relative_to(found.root).as_posix(), size, "", target.name))
    if not files or _lacking(files):
        return None
    return Manifest(repo, quant, found.commit, found.commit, tuple(files), endpoint)


def _lacking(files: Sequence[RemoteFile]) -> bool:
    counts = {match[1] for file in files if (match := re.search(r"-of-(\d+)\.gguf$", file.path))}
    return bool(counts) and len(files) != int(counts.pop())
