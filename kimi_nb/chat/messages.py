"""Conversations as the engines expect them: plain messages, reasoning carried along, Kimi's own call ids."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    from kimi_nb.chat.events import Reply, ToolCall

__all__ = ["as_messages", "assistant_message", "call_id", "count_calls", "plain_name", "whole_text"]

_ROLES = {"system", "user", "assistant", "tool"}


def as_messages(messages: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a conversation as a list of messages of its own, or say what is wrong with it.

    Raises:
        UsageError: ``KNB622``.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    whole = list(messages)
    for number, message in enumerate(whole):
        checked: object = message
        if not isinstance(checked, Mapping) or message.get("role") not in _ROLES:
            raise UsageError(
                "KNB622",
                f"message {number} of the conversation is no message",
                why=f"it must be a mapping with a role of {', '.join(sorted(_ROLES))}, not {message!r:.80}",
                fix="Give a question as text, or messages such as {'role': 'user', 'content': '...'}.",
            )
    if not whole:
        raise UsageError(
            "KNB622", "the conversation is empty", why="there is nothing to answer", fix="Ask something."
        )
    return [dict(message) for message in whole]


def whole_text(text: str) -> str:
    """Return a text that UTF-8 can hold: the two halves of a character joined, a lone half replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def plain_name(name: str) -> str:
    """Return a function's name without what some models put before it, and fit to stand in an id."""
    bare = re.sub(r":\d+$", "", name.strip().removeprefix("functions."))
    return re.sub(r"[^A-Za-z0-9_-]", "_", bare)[:64] or "unknown"


def call_id(name: str, index: int) -> str:
    """Return the id that Kimi itself gives call number ``index`` of a conversation."""
    return f"functions.{name}:{index}"


def count_calls(messages: Sequence[Mapping[str, Any]]) -> int:
    """Return how many tool calls a conversation holds; the next call's index."""
    return sum(len(message.get("tool_calls") or ()) for message in messages)


def assistant_message(reply: Reply, calls: Sequence[ToolCall] | None = None) -> dict[str, Any]:
    """Return a reply as the message to carry on with.

    The reasoning goes along: Kimi expects to see its thinking again within a chain of tool calls, and
    Moonshot's API refuses the conversation without it. Arguments that are no JSON object are replaced by
    ``{}``, since the chat templates would fail on them.

    Args:
        reply: What the engine answered.
        calls: Its calls with mended ids; the reply's own when not given.
    """
    message: dict[str, Any] = {"role": "assistant", "content": reply.content}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    used = reply.tool_calls if calls is None else calls
    if used:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": call.arguments if _is_object(call.arguments) else "{}",
                },
            }
            for call in used
        ]
    return message


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
