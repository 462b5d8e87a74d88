"""Conversations on disk: one file each, written whole or not at all, readable by their owner only."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kimi_nb.errors import UsageError
from kimi_nb.files import at_home, chats_home, make_folder, write_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from kimi_nb.chat.conversation import Conversation

__all__ = ["Entry", "History"]

_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
_MOST = 200


@dataclass(frozen=True)
class Entry:
    """A kept conversation, as a list shows it; ``changed`` is in seconds since 1970."""

    id: str
    title: str
    changed: float
    turns: int
    model: str


class History:
    """The conversations in one folder.

    Args:
        folder: By default :func:`kimi_nb.files.chats_home`; it is made with the first conversation.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = at_home(folder or chats_home()).absolute()
        self._read: dict[str, tuple[tuple[int, int], Entry | None]] = {}

    def entries(self) -> list[Entry]:
        """Return what is kept, newest first, 200 at most; files that are no conversation are left out."""
        try:
            paths = [
                path for path in self.folder.iterdir() if path.suffix == ".json" and _ID.fullmatch(path.stem)
            ]
        except OSError:
            return []
        found = [self._entry(path) for path in sorted(paths, key=lambda path: path.stem)[-4 * _MOST :]]
        known = sorted((entry for entry in found if entry is not None), key=lambda entry: -entry.changed)
        return known[:_MOST]

    def load(self, id: str) -> Conversation:  # noqa: A002 - what it is
        """Return a conversation.

        Raises:
            UsageError: ``KNB650``, there is none of that name, or its file is damaged.
        """
        import pydantic

        from kimi_nb.chat.conversation import Conversation

        path = self._path(id)
        try:
            return pydantic.TypeAdapter(Conversation).validate_json(path.read_bytes())
        except OSError as error:
            raise _none(path, error.strerror or str(error)) from None
        except pydantic.ValidationError as error:
            raise _none(path, f"it is no conversation ({error.errors()[0]['msg']})") from None

    def save(self, conversation: Conversation) -> Conversation:
        """Keep a conversation, and return it as it is kept.

        What somebody else made of it in the meantime is not lost: ours then becomes a conversation of its
        own.

        Raises:
            SystemRefusedError: It cannot be written.
        """
        import pydantic
        from filelock import FileLock

        from kimi_nb.chat.conversation import Conversation
        from kimi_nb.errors import SystemRefusedError

        try:
            make_folder(self.folder)
            with FileLock(self.folder / ".lock", timeout=10):
                id_ = conversation.id
                if not id_ or self._revision(id_) not in {None, conversation.revision}:
                    id_ = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
                kept = replace(conversation, id=id_, revision=conversation.revision + 1, changed=time.time())
                data = pydantic.TypeAdapter(Conversation).dump_json(kept, indent=1)
                write_bytes(self._path(id_), data, mode=0o600)
        except OSError as error:
            raise SystemRefusedError(error) from None
        return kept

    def delete(self, id: str) -> None:  # noqa: A002 - what it is
        """Delete a conversation; nothing happens where there is none.

        Raises:
            SystemRefusedError: It cannot be deleted.
            UsageError: ``KNB650``, this is no conversation's name.
        """
        from kimi_nb.errors import SystemRefusedError

        try:
            self._path(id).unlink(missing_ok=True)
        except OSError as error:
            raise SystemRefusedError(error) from None

    def _path(self, id_: str) -> Path:
        if not _ID.fullmatch(id_):
            raise _none(self.folder / id_[:60], "that is no conversation's name")
        return self.folder / f"{id_}.json"

    def _revision(self, id_: str) -> int | None:
        """Return how often the file of that name was kept; None without one, -1 if it is damaged."""
        if not self._path(id_).exists():
            return None
        try:
            return self.load(id_).revision
        except UsageError:
            return -1

    def _entry(self, path: Path) -> Entry | None:
        """Return one file's entry, read anew only where the file has changed."""
        try:
            found = path.stat()
        except OSError:
            return None
        stamp = (found.st_mtime_ns, found.st_size)
        known = self._read.get(path.stem)
        if known is None or known[0] != stamp:
            try:
                kept = self.load(path.stem)
                entry = Entry(path.stem, kept.title, kept.changed, len(kept.turns), kept.model)
            except UsageError:
                entry = None
            known = self._read[path.stem] = (stamp, entry)
        return known[1]


def _none(path: Path, why: str) -> UsageError:
    return UsageError(
        "KNB650",
        f"the conversation {path.name} cannot be read",
        why=why,
        fix=f"Choose another one, or look at {path.parent}.",
    )
