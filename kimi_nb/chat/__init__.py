"""Talking to an engine: stream, measure, let tools be used, hold answers to a schema.

Names are loaded when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

if TYPE_CHECKING:
    from kimi_nb.chat.async_client import AsyncChat
    from kimi_nb.chat.client import Chat
    from kimi_nb.chat.events import (
        ContentDelta,
        Done,
        PromptProgress,
        ReasoningDelta,
        Reply,
        ToolCall,
        ToolCallDelta,
    )
    from kimi_nb.chat.failures import EngineError
    from kimi_nb.chat.functions import Tool, tool
    from kimi_nb.chat.loop import Limits, tool_loop
    from kimi_nb.chat.mcp_tools import McpServer
    from kimi_nb.chat.messages import assistant_message
    from kimi_nb.chat.structured import Structured, ask_structured
    from kimi_nb.chat.trace import ToolRun

__all__ = [
    "AsyncChat",
    "Chat",
    "ContentDelta",
    "Done",
    "EngineError",
    "Limits",
    "McpServer",
    "PromptProgress",
    "ReasoningDelta",
    "Reply",
    "Structured",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolRun",
    "ask_structured",
    "assistant_message",
    "tool",
    "tool_loop",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AsyncChat": "async_client",
        "Chat": "client",
        "ContentDelta": "events",
        "Done": "events",
        "EngineError": "failures",
        "Limits": "loop",
        "McpServer": "mcp_tools",
        "PromptProgress": "events",
        "ReasoningDelta": "events",
        "Reply": "events",
        "Structured": "structured",
        "Tool": "functions",
        "ToolCall": "events",
        "ToolCallDelta": "events",
        "ToolRun": "trace",
        "ask_structured": "structured",
        "assistant_message": "messages",
        "tool": "functions",
        "tool_loop": "loop",
    },
)
