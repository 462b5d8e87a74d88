"""Kimi K2.5's prompt format: its special tokens by name, and our chat template for it.

The template is of our own writing and produces K2.5's format; :func:`render` shows what llama-server makes of
a conversation with it, without a server. ``jinja2`` is imported only when something is rendered.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2 import Template

__all__ = [
    "BOS",
    "CALLS_BEGIN",
    "CALLS_END",
    "CALL_ARGUMENT_BEGIN",
    "CALL_BEGIN",
    "CALL_END",
    "DEFAULT_SYSTEM",
    "EOS",
    "EOT",
    "IMAGE",
    "IM_ASSISTANT",
    "IM_END",
    "IM_MIDDLE",
    "IM_SYSTEM",
    "IM_USER",
    "KIMI_FIRST_SPECIAL",
    "PAD",
    "SPECIAL_SLOTS",
    "THINK_BEGIN",
    "THINK_END",
    "UNK",
    "chat_template",
    "render",
    "special_tokens",
    "tool_call_id",
]

BOS = "[BOS]"
EOS = "[EOS]"
EOT = "[EOT]"
UNK = "[UNK]"
PAD = "[PAD]"
IM_END = "<|im_end|>"
IM_USER = "<|im_user|>"
IM_ASSISTANT = "<|im_assistant|>"
IM_SYSTEM = "<|im_system|>"
IM_MIDDLE = "<|im_middle|>"
CALLS_BEGIN = "<|tool_calls_section_begin|>"
CALLS_END = "<|tool_calls_section_end|>"
CALL_BEGIN = "<|tool_call_begin|>"
CALL_ARGUMENT_BEGIN = "<|tool_call_argument_begin|>"
CALL_END = "<|tool_call_end|>"
THINK_BEGIN = "<think>"
THINK_END = "</think>"
IMAGE = "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n"

DEFAULT_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."
"""The system message of a conversation that brings none."""

KIMI_FIRST_SPECIAL = 163584
"""Where Kimi's block of special tokens starts in its own vocabulary of 163,840."""
SPECIAL_SLOTS = 256
"""The size of that block, reserved places included."""

_NAMED = {
    0: BOS,
    1: EOS,
    2: IM_END,
    3: IM_USER,
    4: IM_ASSISTANT,
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    9: EOT,
    10: IM_SYSTEM,
    11: CALLS_BEGIN,
    12: CALLS_END,
    13: CALL_BEGIN,
    14: CALL_ARGUMENT_BEGIN,
    15: CALL_END,
    17: IM_MIDDLE,
    18: "<|media_begin|>",
    19: "<|media_content|>",
    20: "<|media_end|>",
    21: "<|media_pad|>",
    22: THINK_BEGIN,
    23: THINK_END,
    254: UNK,
    255: PAD,
}


def special_tokens() -> list[str]:
    """Return Kimi's block of special tokens in Kimi's order; a reserved place bears Kimi's number."""
    return [
        _NAMED.get(slot, f"<|reserved_token_{KIMI_FIRST_SPECIAL + slot}|>") for slot in range(SPECIAL_SLOTS)
    ]


def tool_call_id(name: str, index: int) -> str:
    """Return the id Kimi gives a tool call; ``index`` counts all calls of the conversation from 0."""
    return f"functions.{name}:{index}"


@cache
def chat_template() -> str:
    """Return the Jinja source of our chat template for Kimi K2.5's format."""
    return files("kimi_nb.model").joinpath("chat_template.jinja").read_text(encoding="utf-8")


def render(
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    tools_ts_str: str | None = None,
    thinking: bool = True,
    add_generation_prompt: bool = True,
) -> str:
    """Return the prompt llama-server makes of a conversation with our template.

    Args:
        messages: OpenAI-style messages. Image parts are rendered as Kimi's placeholder, which llama-server
            only does when it serves a vision projector.
        tools: OpenAI-style tool declarations, rendered as compact JSON unless ``tools_ts_str`` is given.
        tools_ts_str: The declarations as Kimi prefers them (:func:`kimi_nb.model.tools_ts.encode_tools`).
        thinking: Whether the model is to think; false renders Kimi's instant mode.
        add_generation_prompt: Whether to end with the start of the assistant's answer.
    """
    switch = {} if thinking else {"thinking": False}
    declared = {"tools_ts_str": tools_ts_str} if tools_ts_str is not None else {}
    return _compiled().render(
        messages=[_as_the_server_reads(message) for message in messages],
        tools=[dict(tool) for tool in tools],
        add_generation_prompt=add_generation_prompt,
        **switch,
        **declared,
    )


def _as_the_server_reads(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message as llama-server hands it to a template: no null content, and arguments as text."""
    read = dict(message)
    if read.get("content") is None:
        read["content"] = ""
    if read.get("tool_calls"):
        read["tool_calls"] = [_with_text_arguments(call) for call in read["tool_calls"]]
    return read


def _with_text_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    if not isinstance(function["arguments"], str):
        function["arguments"] = _tojson(function["arguments"], separators=(",", ":"))
    return {**call, "function": function}


@cache
def _compiled() -> Template:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # The same settings as transformers and llama.cpp use for chat templates. Prompts are not HTML: no
    # escaping.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["tojson"] = _tojson
    return environment.from_string(chat_template())


def _tojson(value: Any, *, separators: tuple[str, str] | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, separators=separators)
