"""Command lines for people: where they may be broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["by_option"]


def by_option(words: Iterable[str]) -> list[str]:
    """Return the words of a command line, which are quoted already, each option together with its value."""
    pieces: list[str] = []
    for word in words:
        if word.startswith("--") or not pieces:
            pieces.append(word)
        else:
            pieces[-1] += f" {word}"
    return pieces
