"""What has changed on a panel, so that a long one is not sent whole for every new word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.panel.nodes import Node

__all__ = ["Change", "changes"]

Change = dict[str, Any]
"""``at``: the way to a node, as indices of ``items``, empty for the panel itself; ``set``: its new keys;
``grow``: what comes to the ends of its texts, by key; ``add``: what comes to the end of its ``items``."""


def changes(old: Sequence[Node], new: Sequence[Node]) -> list[Change]:
    """Return what makes ``new`` of ``old``; the panel's script applies it."""
    found: list[Change] = []
    _compare(old, new, [], found)
    return found


def _compare(old: Sequence[Node], new: Sequence[Node], at: list[int], found: list[Change]) -> None:
    if len(old) > len(new) or any(one.keys() != other.keys() for one, other in zip(old, new, strict=False)):
        found.append({"at": at, "set": {"items": list(new)}})
        return
    for i, (one, other) in enumerate(zip(old, new, strict=False)):
        if one is not other:
            _compare_one(one, other, [*at, i], found)
    if added := new[len(old) :]:
        found.append({"at": at, "add": list(added)})


def _compare_one(one: Node, other: Node, at: list[int], found: list[Change]) -> None:
    fresh: dict[str, Any] = {}
    grown: dict[str, str] = {}
    for key, value in other.items():
        before = one[key]
        if value is before or key == "items" or value == before:
            continue
        if isinstance(value, str) and isinstance(before, str) and before and value.startswith(before):
            grown[key] = value[len(before) :]
        else:
            fresh[key] = value
    if fresh or grown:
        found.append({"at": at} | ({"set": fresh} if fresh else {}) | ({"grow": grown} if grown else {}))
    if "items" in other:
        _compare(one["items"], other["items"], at, found)
