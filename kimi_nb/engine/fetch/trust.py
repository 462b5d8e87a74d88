"""Whether a model's files are still the ones that were proven: a stat a file, no byte of them read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kimi_nb.engine.fetch.shelf import Shelf
from kimi_nb.errors import KimiNbError
from kimi_nb.files import at_home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Trust", "trust"]


@dataclass(frozen=True)
class Trust:
    """What the models folder remembers of a set.

    Args:
        name: ``namespace/name:quant``.
        files: How many files it has.
        changed: Those that are not, or no longer, the ones that were hashed.
    """

    name: str
    files: int
    changed: tuple[Path, ...]

    @property
    def verified(self) -> bool:
        """Whether every file was hashed and has not changed since."""
        return not self.changed

    def __str__(self) -> str:
        if self.verified:
            return f"{self.name}: {self.files} files, verified before and unchanged"
        repo, _, quant = self.name.rpartition(":")
        what = f"{len(self.changed)} of {self.files} files were not verified or have changed since"
        fix = f"kimi-nb download --verify --repo {repo} --quant {quant} reads them again"
        return f"{self.name}: {what} ({self.changed[0].name}); {fix}"


def trust(path: Path) -> Trust | None:
    """Look a model's file up in the models folders; ``None`` if none of them knows it.

    Args:
        path: Any file of the set. Folders above it are looked at, and the usual models folder, which
            remembers what was adopted elsewhere.
    """
    path = at_home(path).absolute()
    for shelf in _shelves(path):
        try:
            entries = list(shelf.entries())
        except KimiNbError:  # a damaged record: whoever downloads next is told
            continue
        for entry in entries:
            paths = [entry.path(file) for file in entry.manifest.files]
            if path in paths or path.resolve() in paths:
                pairs = zip(entry.manifest.files, paths, strict=True)
                changed = tuple(place for file, place in pairs if not shelf.is_proven(file, place))
                return Trust(entry.manifest.name, len(paths), changed)
    return None


def _shelves(path: Path) -> Iterator[Shelf]:
    for folder in path.parents:
        if (folder / ".kimi-nb" / "sets").is_dir():
            yield Shelf(folder)
    usual = Shelf()
    if usual.folder not in path.parents:
        yield usual
