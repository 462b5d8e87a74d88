"""What a chat yields: small typed events while it streams, and one reply at its end."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kimi_nb.chat.meter import Reading
    from kimi_nb.chat.modes import Mode

__all__ = [
    "ContentDelta",
    "Done",
    "Event",
    "PromptProgress",
    "ReasoningDelta",
    "Reply",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
]


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """llama-server reads the prompt: ``processed`` of ``total`` tokens, ``cached`` of them known before."""

    processed: int
    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call; ``id`` and ``name`` come with its first piece and are empty afterwards."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete tool call, as the engine sent it: ``arguments`` is text, and need not be valid JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted by the engine; None where it did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        content: The answer's text.
        reasoning: The thinking before it.
        tool_calls: The calls the model wants made.
        finish_reason: ``stop``, ``length`` or ``tool_calls``, as the engine said; None when the stream broke
            off.
        usage: Tokens, as the engine counted them.
        meter: Times and speed, with the formula they follow.
        mode: The mode that was asked for.
        model: The model's name, as the engine gave it.
        hints: What looks wrong with this answer and what to do about it, each starting with an id.
    """

    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str | None
    usage: Usage
    meter: Reading
    mode: Mode
    model: str
    hints: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Done:
    """The stream's last event."""

    reply: Reply


Event = PromptProgress | ReasoningDelta | ContentDelta | ToolCallDelta | Done
