"""A panel that does not move: the same vocabulary as text and as HTML, for headless runs and reports."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from kimi_nb.panel.nodes import words_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipywidgets import DOMWidget

    from kimi_nb.panel.nodes import Node

__all__ = ["as_html", "as_text", "mimebundle"]

_MEANT = {"good": "#116329", "warn": "#7a4b00", "bad": "#b3121d"}
_CONTROLS = {"button", "area"}
"""What makes no sense where nobody can press it."""
_BESIDE = {"field", "number"}
"""What makes no sense without the button beside it."""
_COLOUR = "background:#fff;color:#1b1f24"
"""Said for each part that a page may colour by itself: a dark one's colours would be dark on dark here."""
_PAGE = f"{_COLOUR};color-scheme:light;padding:12px;max-width:900px"
_BAR = "display:flex;height:14px;max-width:600px;background:#e9edf1;border:1px solid #d0d7de"
_COLOURS = {
    "weights": "#2f6fdb",
    "paged": "#86b0f0",
    "context": "#d98200",
    "compute": "#8250df",
    "staging": "#b79af0",
    "system": "#6e7781",
    "cache": "#1b8a5a",
    "others": "#aab2bb",
    "download": "#2f6fdb",
}
_OTHER = "#6e7781"


def mimebundle(widget: DOMWidget, views: Sequence[Sequence[Node]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a notebook keeps of a widget that shows these views, and what a page that is open draws."""
    shown: dict[str, Any] = {
        "text/plain": "\n\n".join(map(as_text, views)),
        "text/html": "".join(map(as_html, views)),
    }
    if widget.comm is not None:
        live = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        shown["application/vnd.jupyter.widget-view+json"] = live
    return shown, {}


def as_text(nodes: Sequence[Node]) -> str:
    """Return what a panel says, line by line, without its buttons."""
    return "\n".join(words_of(_shown(nodes)))


def as_html(nodes: Sequence[Node]) -> str:
    """Return what a panel says as HTML that needs no script, no style sheet and no network."""
    return f'<section class="kimi-nb-panel" style="{_PAGE}">{_html(_shown(nodes))}</section>'


def _shown(nodes: Sequence[Node]) -> list[Node]:
    kept = []
    for node in nodes:
        if node["t"] in _CONTROLS:
            continue
        if "items" in node:
            items = _shown(node["items"])
            if node["t"] == "row" and any(item["t"] == "button" for item in node["items"]):
                items = [item for item in items if item["t"] not in _BESIDE]
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
        case "columns" | "row" | "feed":
            return _html(node["items"])
        case "message":
            return f"<h5>{escape(node['who'])}</h5>{_html(node['items'])}"
        case "slider" | "progress":
            return _line(label, node["said"])
        case "select":
            words = str(dict(node["options"]).get(node["value"], node["value"]))
            return _line(label, words)
        case "field" | "number":
            return _line(label, str(node["value"]))
        case "check":
            return _line(label, "yes" if node["value"] else "no")
        case "bar":
            return _bar(node)
        case "table":
            return _table(node)
        case "code":
            return f'<p>{label}</p><pre style="{_COLOUR}">{escape(node["text"])}</pre>'
        case "log":
            return f'<p>{label}</p><pre style="{_COLOUR}">{escape(chr(10).join(node["lines"]))}</pre>'
    raise AssertionError(node["t"])


def _line(label: str, words: str) -> str:
    """Return a label that is HTML already, and words that are not."""
    return f'<p style="margin:2px 0">{label}: {escape(words)}</p>'


def _bar(node: Node) -> str:
    whole = max(sum(size for _, _, size in node["parts"]), node["limit"], 1e-9)
    pieces = "".join(
        f'<span style="width:{100 * size / whole:.2f}%;background:{_COLOURS.get(kind, _OTHER)}"></span>'
        for kind, _, size in node["parts"]
        if kind != "free"
    )
    words = escape(", ".join(words for _, words, _ in node["parts"]))
    said = f"<b>{escape(node['label'])}</b>: {escape(node['said'])}"
    return (
        f'<p style="margin:10px 0 2px">{said}</p><div style="{_BAR}" aria-hidden="true">{pieces}</div>'
        f'<p style="margin:2px 0">{words}</p>'
    )


def _table(node: Node) -> str:
    cell = f'style="{_COLOUR};border:1px solid #d0d7de"'
    head = "".join(f'<th scope="col" {cell}>{escape(words)}</th>' for words in node["head"])
    body = "".join(
        "<tr>" + "".join(f"<td {cell}>{escape(words)}</td>" for words in line) + "</tr>"
        for line in node["rows"]
    )
    return (
        f'<table><caption style="{_COLOUR}">{escape(node["caption"])}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
