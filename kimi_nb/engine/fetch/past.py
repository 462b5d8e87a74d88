"""What a repository held in earlier commits, to name a shard that is of another revision."""

from __future__ import annotations

import threading
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from kimi_nb.engine.fetch.remote import is_offline
from kimi_nb.errors import KimiNbError

if TYPE_CHECKING:
    from kimi_nb.engine.fetch.manifest import Manifest
    from kimi_nb.engine.fetch.remote import Hub

__all__ = ["Past"]

MOST_COMMITS = 30


class Past:
    """Asked only when a file is neither what it should be nor any other file of its commit.

    Args:
        hub: Where to ask.
        manifest: The repository, and the folders to look at.
    """

    def __init__(self, hub: Hub, manifest: Manifest) -> None:
        self._hub, self._manifest = hub, manifest
        self._lock = threading.Lock()
        self._known: dict[int, dict[str, str]] | None = None

    def of_size(self, size: int) -> dict[str, str]:
        """Return what files of this size there were: sha256 to words that name the file."""
        with self._lock:
            if self._known is None:
                self._known = {}
                if not is_offline():
                    self._ask(self._known)
            return self._known.get(size, {})

    def _ask(self, known: dict[int, dict[str, str]]) -> None:
        manifest = self._manifest
        folders = {PurePosixPath(file.path).parent.as_posix() for file in manifest.files}
        try:
            commits = self._hub.commits(manifest.repo)[:MOST_COMMITS]
            for commit in commits:
                revision = str(commit["id"])
                for folder in folders if revision != manifest.commit else ():
                    for file in self._hub.tree(manifest.repo, revision, "" if folder == "." else folder):
                        if file.sha256 is not None:
                            day = str(commit.get("date", ""))[:10]
                            words = f"{file.path} of revision {revision[:12]} ({day})"
                            known.setdefault(file.size, {}).setdefault(file.sha256, words)
        except (KimiNbError, KeyError, TypeError):
            return  # a name would have been nice; the file is fetched again in any case
