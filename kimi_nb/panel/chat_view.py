"""How a conversation looks: turns as nodes. What a model writes is text, and stays text."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from kimi_nb.chat.failures import shown_address
from kimi_nb.panel import nodes as n

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kimi_nb.chat.conversation import Said, Turn
    from kimi_nb.chat.history import Entry
    from kimi_nb.chat.meter import Reading
    from kimi_nb.chat.trace import CallRecord
    from kimi_nb.panel.chat_live import Calling
    from kimi_nb.panel.nodes import Node

__all__ = [
    "answer",
    "blocks",
    "conversations",
    "figures",
    "permission",
    "question",
    "shown_address",
]

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^`\n]*)")
_SHORT = 160

_OUTCOMES = {
    "ok": "done",
    "invalid_arguments": "not run, its arguments do not fit",
    "unknown_tool": "not run, there is no such tool",
    "not_allowed": "not run, it is not allowed",
    "refused": "not run, you refused",
    "timeout": "given up, it took too long",
    "raised": "failed",
    "over_limit": "not run, the limit is reached",
    "cancelled": "stopped",
}
_ENDINGS = {
    "under way": "This ended before there was an answer.",
    "no_answer": "The model ended without an answer.",
    "max_steps": "Ended: the model kept calling tools and gave no answer.",
    "max_calls": "Ended: too many tool calls.",
    "deadline": "Ended: it took too long.",
    "cancelled": "You stopped this answer.",
}


def blocks(text: str) -> list[tuple[str, str]]:
    """Return a text's parts, each with its language: empty for prose, ``Code`` for a block without a name."""
    found: list[tuple[str, list[str]]] = [("", [])]
    fence = ""
    for line in text.split("\n"):
        mark = _FENCE.fullmatch(line)
        if fence and mark and mark[1].startswith(fence) and not mark[2].strip():
            fence = ""
            found.append(("", []))
        elif not fence and mark:
            fence = mark[1]
            found.append((mark[2].strip() or "Code", []))
        else:
            found[-1][1].append(line)
    parts = [(kind, "\n".join(lines)) for kind, lines in found]
    # Prose keeps its inner blank lines; those next to a block, or at the ends, say nothing.
    trimmed = [(kind, part if kind else part.strip("\n")) for kind, part in parts]
    return [(kind, part) for kind, part in trimmed if kind or part.strip()]


def question(turn: Turn, number: int, *, editing: bool, version: int, busy: str) -> Node:
    """Return what the person asked, to read or to edit."""
    key = f"you-{number}"
    if editing:
        buttons = [n.button("resend", "Send again", main=True, disabled=busy), n.button("leave", "Leave it")]
        lines = n.area("edited", "Edit your message", turn.asked, version=version, enter="resend")
        return n.message("You", [lines, n.row(buttons, key="buttons")], key=key)
    edit = n.button("edit", "Edit", about=f"Message {number + 1}", of=str(number), disabled=busy)
    return n.message("You", [*_content(turn.asked, "asked"), n.row([edit], key="buttons")], key=key)


def answer(
    turn: Turn,
    number: int,
    who: str,
    *,
    last: bool,
    calling: Sequence[Calling] = (),
    live: str = "",
    busy: str = "",
) -> Node:
    """Return what came of a question.

    Args:
        turn: The question with its replies.
        number: Its place in the conversation.
        who: The model's name.
        last: Whether it is the newest, which can be asked for anew.
        calling: Calls that have no result yet.
        live: What happens now; empty when it has ended.
        busy: Why nothing can be pressed now.
    """
    items: list[Node] = []
    for i, said in enumerate(turn.said):
        items += _said(said, str(i), thinking=bool(live) and said is turn.said[-1] and said.meter is None)
    for i, (name, arguments) in enumerate(calling):
        shown = [n.text(arguments or "…", tone="quiet", key="arguments")]
        items.append(
            n.fold(f"Tool {name or '…'}: called, no result yet", shown, key=f"calling-{i}", opened=True)
        )
    if live:
        items.append(n.text(live, tone="quiet", key="doing"))
    else:
        items += _ending(turn)
    if turn.earlier:
        before = [answer(one, i, f"{who}, answer {i + 1}", last=False) for i, one in enumerate(turn.earlier)]
        items.append(n.fold(f"Earlier answers ({len(before)})", before, key="earlier"))
    if last and not live:
        again = n.button("regenerate", "Regenerate", about="Ask the last question again", disabled=busy)
        items.append(n.row([again], key="buttons"))
    return n.message(who, items, key=f"answer-{number}")


def _said(said: Said, key: str, *, thinking: bool) -> list[Node]:
    items: list[Node] = []
    if said.reasoning.strip():
        words = f"{len(said.reasoning.split()):,} words"
        still = thinking and not said.content
        label = f"Thinking … ({words} so far)" if still else f"Thinking ({words})"
        thought = [n.text(said.reasoning.strip("\n"), tone="quiet", key="thought")]
        items.append(n.fold(label, thought, key=f"thinking-{key}"))
    items += _content(said.content, key)
    items += [_call(call, f"call-{key}-{i}") for i, call in enumerate(said.calls)]
    items += [n.text(hint, tone="warn", key=f"hint-{key}-{i}") for i, hint in enumerate(said.hints)]
    if said.meter is not None:
        items.append(n.text(figures(said.meter), tone="quiet", key=f"figures-{key}"))
    return items


def _content(content: str, key: str) -> list[Node]:
    return [
        n.code(kind[:40], part, key=f"code-{key}-{i}") if kind else n.text(part, key=f"text-{key}-{i}")
        for i, (kind, part) in enumerate(blocks(content))
    ]


def _call(call: CallRecord, key: str) -> Node:
    took = f" in {_time(call.seconds)}" if call.outcome == "ok" else ""
    label = f"Tool {call.name}: {_OUTCOMES.get(call.outcome, call.outcome)}{took}"
    items = [_told("Arguments", call.arguments), _told("Result", call.output)]
    if call.truncated_chars:
        items.append(
            n.text(f"{call.truncated_chars:,} characters of the result were left out.", tone="quiet")
        )
    return n.fold(label, items, key=key, opened=True)


def _time(seconds: float) -> str:
    ms = round(seconds * 1000)
    return f"{seconds:.1f} s" if seconds >= 1 else f"{ms} ms" if ms else "under 1 ms"


def _told(label: str, text: str) -> Node:
    if len(text) <= _SHORT and "\n" not in text:
        return n.text(f"{label}: {text}", key=label)
    return n.code(label, text)


def _ending(turn: Turn) -> list[Node]:
    if turn.error is not None and turn.state != "cancelled":
        words = "{id}: {what}: {why}. {fix}".format_map(_Parts(turn.error))
        return [n.text(" ".join(words.split()), tone="bad", key="ending")]
    if turn.state in _ENDINGS:
        return [n.text(_ENDINGS[turn.state], tone="warn", key="ending")]
    return []


class _Parts(dict[str, str]):
    """The fields of an error, also of one that was kept without some of them."""

    def __missing__(self, key: str) -> str:
        return ""


def figures(meter: Reading) -> str:
    """Return what was measured, in one line."""
    parts = []
    if meter.ttft_s is not None:
        parts.append(f"First token after {meter.ttft_s:.2f} s")
    if meter.ttfa_s is not None:
        parts.append(f"first answer token after {meter.ttfa_s:.2f} s")
    # The server's own figure where it gives one: it does not depend on how busy this side is.
    speed = meter.server.get("predicted_per_second", meter.tok_s)
    if speed is not None:
        parts.append(f"{speed:,.1f} tokens/s")
    return ", ".join([*parts, f"{meter.total_s:.2f} s in all"])


def permission(name: str, arguments: Mapping[str, Any]) -> Node:
    """Return the question whether a dangerous tool may run."""
    shown = json.dumps(arguments, ensure_ascii=False, indent=2, default=repr)
    buttons = [n.button("allow", "Allow this call", main=True), n.button("refuse", "Refuse")]
    items = [
        n.text(f"The model wants to run {name}, which is marked dangerous. May it?", tone="warn"),
        n.code("With these arguments", shown),
        n.row(buttons),
    ]
    return n.group("Your permission", items, key="permission")


def conversations(entries: Sequence[Entry], now: str) -> list[tuple[str, str]]:
    """Return the choices of a conversation; ``now`` is the one on the screen, empty for a new one."""
    options = [("new", "A new conversation")]
    for entry in entries:
        when = time.strftime("%d %b %H:%M", time.localtime(entry.changed))
        options.append((entry.id, f"{when}  {entry.title or 'Nothing asked'} ({entry.turns})"))
    if now and now not in dict(options):
        options.append((now, "This conversation"))
    return options
