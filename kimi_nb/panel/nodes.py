"""The vocabulary of a panel: what is on it, as plain data.

``panel.js`` draws these in the browser with its own controls, and :mod:`kimi_nb.panel.still` draws the same
as a page that does not move. So what a panel says can be tested without either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Node",
    "Tone",
    "area",
    "bar",
    "button",
    "check",
    "code",
    "columns",
    "fact",
    "feed",
    "field",
    "find",
    "fold",
    "group",
    "heading",
    "log",
    "message",
    "number",
    "progress",
    "row",
    "select",
    "slider",
    "table",
    "text",
    "words_of",
]

Node = dict[str, Any]
"""One thing on a panel; ``t`` is its kind, and the other keys are the arguments of the function below."""

Tone = Literal["plain", "quiet", "good", "warn", "bad"]
"""How a text is meant. It is always said in words as well: a tone only adds a colour."""


def heading(text: str, *, level: int = 3) -> Node:
    """Return a heading; level 2 is the panel's own."""
    return {"t": "heading", "text": text, "level": level}


def text(text: str, *, tone: Tone = "plain", live: bool = False, key: str | None = None) -> Node:
    """Return a paragraph; a ``live`` one is read out when it changes."""
    return _keyed({"t": "text", "text": text, "tone": tone, "live": live}, key)


def fact(label: str, value: str, said: str) -> Node:
    """Return a figure that is worth large letters, with its name above and what it means below."""
    return {"t": "fact", "key": label, "label": label, "value": value, "said": said}


def group(label: str, items: Sequence[Node], *, key: str | None = None, quiet: bool = False) -> Node:
    """Return controls or facts that belong together, under a name.

    The name of a ``quiet`` one is for screen readers alone: to others its place says the same.
    """
    return _keyed({"t": "group", "label": label, "items": list(items), "quiet": quiet}, key)


def columns(items: Sequence[Node]) -> Node:
    """Return things side by side where there is room, and below each other where there is not."""
    return {"t": "columns", "items": list(items)}


def row(items: Sequence[Node], *, key: str | None = None) -> Node:
    """Return small things on one line, wrapped where it is full."""
    return _keyed({"t": "row", "items": list(items)}, key)


def slider(
    name: str,
    label: str,
    value: int,
    said: str,
    *,
    steps: Sequence[int],
    exact: bool = False,
    disabled: str = "",
) -> Node:
    """Return a slider.

    Args:
        name: Of the choice it makes.
        label: Its visible and accessible name.
        value: What is chosen now; it need not be one of the steps.
        said: The value in words.
        steps: The values it can be moved to, rising.
        exact: Whether any whole number between the first and last step may be typed as well.
        disabled: Why it cannot be moved now; empty if it can.
    """
    steps = list(steps)
    return {
        "t": "slider",
        "name": name,
        "label": label,
        "value": value,
        "said": said,
        "steps": steps,
        "exact": exact,
        "disabled": disabled,
    }


def select(
    name: str, label: str, value: str, options: Sequence[tuple[str, str]], *, disabled: str = ""
) -> Node:
    """Return a choice of one; ``options`` are values with their words."""
    return {
        "t": "select",
        "name": name,
        "label": label,
        "value": value,
        "options": [list(option) for option in options],
        "disabled": disabled,
    }


def field(name: str, label: str, value: str, *, hint: str = "") -> Node:
    """Return a line to type in."""
    return {"t": "field", "name": name, "label": label, "value": value, "hint": hint}


def number(name: str, label: str, value: float, *, low: float, high: float, step: float = 1) -> Node:
    """Return a number to type."""
    return {
        "t": "number",
        "name": name,
        "label": label,
        "value": value,
        "low": low,
        "high": high,
        "step": step,
    }


def area(name: str, label: str, value: str, *, version: int, enter: str = "", rows: int = 3) -> Node:
    """Return lines to type in, kept in the browser until a button is pressed.

    Args:
        name: Under which its text comes with that press.
        label: Its name.
        value: What it holds at first.
        version: When this changes, what was typed is replaced by ``value``.
        enter: The button that Enter presses; with Shift, Enter starts a new line. Empty for none.
        rows: Its height.
    """
    return {
        "t": "area",
        "name": name,
        "label": label,
        "value": value,
        "version": version,
        "enter": enter,
        "rows": rows,
    }


def check(name: str, label: str, value: bool) -> Node:  # noqa: FBT001 - it is what the box holds
    """Return a box to tick."""
    return {"t": "check", "name": name, "label": label, "value": value}


def button(
    name: str, label: str, *, main: bool = False, disabled: str = "", about: str = "", of: str = ""
) -> Node:
    """Return a button.

    Args:
        name: What is pressed, as the panel hears it.
        label: What stands on it.
        main: Whether it is the one most people want next.
        disabled: Why it cannot be pressed now; empty if it can.
        about: What it is about, for those who do not see where it stands.
        of: Which of several it belongs to; comes with the press as the field ``of``.
    """
    return {
        "t": "button",
        "name": name,
        "label": label,
        "main": main,
        "disabled": disabled,
        "about": about,
        "of": of,
    }


def bar(label: str, parts: Sequence[tuple[str, str, float]], limit: float, said: str, *, tone: Tone) -> Node:
    """Return a stacked bar.

    Args:
        label: What is filled.
        parts: Kind (its colour), words and size of each piece, in one unit.
        limit: Where it is full, in that unit.
        said: The state in words.
        tone: How that is meant.
    """
    return {
        "t": "bar",
        "key": label,
        "label": label,
        "parts": [list(part) for part in parts],
        "limit": limit,
        "said": said,
        "tone": tone,
    }


def progress(label: str, fraction: float | None, said: str, *, key: str | None = None) -> Node:
    """Return how far something is; None where that cannot be said."""
    return _keyed({"t": "progress", "label": label, "fraction": fraction, "said": said}, key)


def table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, key: str | None = None
) -> Node:
    """Return a table of texts."""
    body = [list(line) for line in rows]
    return _keyed({"t": "table", "caption": caption, "head": list(head), "rows": body}, key)


def code(label: str, text: str, *, key: str | None = None) -> Node:
    """Return a text to copy."""
    return _keyed({"t": "code", "label": label, "text": text}, key or label)


def log(label: str, lines: Sequence[str], *, key: str | None = None) -> Node:
    """Return the newest lines of a log, the last one in view."""
    return _keyed({"t": "log", "label": label, "lines": list(lines)}, key or label)


def fold(label: str, items: Sequence[Node], *, key: str, opened: bool = False) -> Node:
    """Return things folded away under their name; ``opened`` is how they are at first."""
    return {"t": "fold", "label": label, "items": list(items), "key": key, "opened": opened}


def message(who: str, items: Sequence[Node], *, key: str) -> Node:
    """Return one turn of a conversation."""
    return {"t": "message", "who": who, "items": list(items), "key": key}


def feed(label: str, items: Sequence[Node]) -> Node:
    """Return what grows at its end, in a frame of its own that stays with the newest unless scrolled back."""
    return {"t": "feed", "key": label, "label": label, "items": list(items)}


def _keyed(node: Node, key: str | None) -> Node:
    """Give a node a name to be recognised by when it is drawn anew."""
    return node if key is None else {**node, "key": key}


def find(nodes: Sequence[Node], kind: str, **having: Any) -> Node:
    """Return the first node of a kind, at any depth, whose keys hold these values.

    Raises:
        LookupError: There is none.
    """
    for node in nodes:
        if node["t"] == kind and all(node.get(key) == value for key, value in having.items()):
            return node
        try:
            return find(node.get("items", ()), kind, **having)
        except LookupError:
            continue
    raise LookupError(f"no {kind} with {having}")


def words_of(nodes: Sequence[Node]) -> list[str]:
    """Return every text that a person would read, in order."""
    found: list[str] = []
    for node in nodes:
        if node["t"] in {"slider", "progress", "bar"}:
            found.append(f"{node['label']}: {node['said']}")
        elif node["t"] == "table":
            found += [node["caption"], *(", ".join(line) for line in node["rows"])]
        elif node["t"] == "fact":
            found.append(f"{node['label']}: {node['value']}, {node['said']}")
        elif node["t"] == "select":
            found.append(f"{node['label']}: {dict(node['options']).get(node['value'], node['value'])}")
        elif node["t"] in {"field", "number"}:
            found.append(f"{node['label']}: {node['value']}")
        else:
            keys = ("text",) if node.get("quiet") or node["t"] == "feed" else ("who", "label", "text")
            found += [str(node[key]) for key in keys if node.get(key)]
        found += words_of(node.get("items", ()))
    return found
