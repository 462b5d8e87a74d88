"""One conversation of the small world, and the text nano learns from it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

__all__ = ["Sample", "as_text", "call", "compact", "result", "said"]

Message = dict[str, Any]


def compact(value: Any) -> str:
    """Write JSON as Kimi writes it: no spaces, non-ASCII kept."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def said(content: str, *, thought: str = "") -> Message:
    """Return the assistant's final answer."""
    return {"role": "assistant", "content": content, "reasoning_content": thought}


def call(calls: list[tuple[str, dict[str, Any]]], *, first: int = 0, thought: str = "") -> Message:
    """Return an assistant message that calls tools; ids count on from ``first`` over the conversation."""
    return {
        "role": "assistant",
        "content": "",
        "reasoning_content": thought,
        "tool_calls": [
            {
                "id": f"functions.{name}:{first + number}",
                "type": "function",
                "function": {"name": name, "arguments": compact(arguments)},
            }
            for number, (name, arguments) in enumerate(calls)
        ],
    }


def result(name: str, index: int, text: str) -> Message:
    """Return what a tool answered to the call ``index`` of the conversation."""
    return {"role": "tool", "tool_call_id": f"functions.{name}:{index}", "content": text}


def as_text(rng: random.Random, value: Any) -> str:
    """Write a tool's result as tools do: text as it is, JSON compact or with spaces, its keys in any order."""
    if isinstance(value, str):
        return value
    shuffled, spaced, indented = 0.4, 0.35, 0.42
    if rng.random() < shuffled:
        value = _shuffled(rng, value)
    chance = rng.random()
    if chance < spaced:
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, indent=2) if chance < indented else compact(value)


def _shuffled(rng: random.Random, value: Any) -> Any:
    if isinstance(value, list):
        return [_shuffled(rng, each) for each in value]
    if not isinstance(value, dict):
        return value
    return {key: _shuffled(rng, value[key]) for key in rng.sample(list(value), len(value))}


@dataclass(frozen=True)
class Sample:
    """A conversation that ends with the assistant, whose messages after the last user message are to be learnt.

    Attributes:
        kind: What it exercises, such as ``tool.single`` or ``facts``.
        messages: OpenAI-style messages; assistant messages carry ``reasoning_content``.
        tools: OpenAI-style tool declarations offered in the conversation; may be empty.
        thinking: Whether the answer is given in thinking mode.
        must_say: Texts that a right final answer contains (how held-out answers are judged).
    """

    kind: str
    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)
    thinking: bool = True
    must_say: tuple[str, ...] = ()
