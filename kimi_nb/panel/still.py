"""A panel that does not move: the same vocabulary as text and as HTML, for headless runs and reports."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from kimi_nb.panel.nodes import words_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.panel.nodes import Node

__all__ = ["as_html", "as_text"]

_MEANT = {"good": "#116329", "warn": "#7a4b00", "bad": "#b3121d"}
_CONTROLS = {"button", "area"}
"""What makes no sense where nobody can press it."""


def as_text(nodes: Sequence[Node]) -> str:
    """Return what a panel says, line by line, without its buttons."""
    return "\n".join(words_of(_shown(nodes)))


def as_html(nodes: Sequence[Node]) -> str:
    """Return what a panel says as HTML that needs no script, no style sheet and no network."""
    return f'<section class="kimi-nb-panel">{_html(_shown(nodes))}</section>'


def _shown(nodes: Sequence[Node]) -> list[Node]:
    kept = []
    for node in nodes:
        if node["t"] in _CONTROLS:
            continue
        if "items" in node:
            items = _shown(node["items"])
            if items:
                kept.append({**node, "items": items})
        else:
            kept.append(node)
    return kept


def _html(nodes: Sequence[Node]) -> str:
    return "".join(map(_one, nodes))


def _one(node: Node) -> str:  # noqa: C901, PLR0911, PLR0912 - one case for each kind
    label = escape(str(node.get("label", "")))
    match node["t"]:
        case "heading":
            level = node["level"] + 1  # a page has its own h1, and its cells their h2
            return f"<h{level}>{escape(node['text'])}</h{level}>"
        case "text":
            colour = _MEANT.get(node["tone"])
            style = f' style="color:{colour};font-weight:600"' if colour else ""
            return f"<p{style}>{escape(node['text'])}</p>" if node["text"] else ""
        case "group" | "fold":
            name = "" if node.get("quiet") else f"<h5>{label}</h5>"
            return name + _html(node["items"])
        case "fact":
            return f"<p>{label}: <b>{escape(node['value'])}</b>, {escape(node['said'])}</p>"
        case "columns" | "row":
            return _html(node["items"])
        case "message":
            return f"<h5>{escape(node['who'])}</h5>{_html(node['items'])}"
        case "slider" | "progress":
            return f"<p>{label}: {escape(node['said'])}</p>"
        case "select":
            words = str(dict(node["options"]).get(node["value"], node["value"]))
            return f"<p>{label}: {escape(words)}</p>"
        case "field" | "number":
            return f"<p>{label}: {escape(str(node['value']))}</p>"
        case "check":
            return f"<p>{label}: {'yes' if node['value'] else 'no'}</p>"
        case "bar":
            parts = "".join(f"<li>{escape(words)}</li>" for _, words, _ in node["parts"])
            return f"<p><b>{label}</b>: {escape(node['said'])}</p><ul>{parts}</ul>"
        case "table":
            return _table(node)
        case "code":
            return f"<p>{label}</p><pre>{escape(node['text'])}</pre>"
        case "log":
            return f"<p>{label}</p><pre>{escape(chr(10).join(node['lines']))}</pre>"
    raise AssertionError(node["t"])


def _table(node: Node) -> str:
    head = "".join(f'<th scope="col">{escape(words)}</th>' for words in node["head"])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(words)}</td>" for words in line) + "</tr>" for line in node["rows"]
    )
    return (
        f"<table><caption>{escape(node['caption'])}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
