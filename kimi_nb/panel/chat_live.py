"""An answer while it comes: filled by the thread that asks, read by the one that draws."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kimi_nb.chat.conversation import Said, Turn
from kimi_nb.chat.events import ContentDelta, Done, PromptProgress, ReasoningDelta, ToolCallDelta
from kimi_nb.chat.messages import whole_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimi_nb.chat.events import Event
    from kimi_nb.chat.functions import Tool
    from kimi_nb.chat.trace import CallRecord

__all__ = ["Calling", "Live"]

Calling = tuple[str, str]
"""A call that has no result yet: the tool's name and its arguments as far as they are written."""


class Live:
    """What has come so far of one turn.

    Args:
        asked: The turn, unanswered.

    Attributes:
        cancel: Set to end it.
    """

    def __init__(self, asked: Turn) -> None:
        self.cancel = threading.Event()
        self._asked = asked
        self._lock = threading.Lock()
        self._said: list[Said] = []
        self._reasoning = self._content = ""
        self._calling: list[Calling] = []
        self._progress: PromptProgress | None = None
        self._asking: tuple[str, dict[str, Any]] | None = None
        self._answered = threading.Event()
        self._allowed = False

    def take(self, event: Event | CallRecord) -> None:
        """Take in what the tool loop tells of."""
        with self._lock:
            match event:
                case PromptProgress():
                    self._progress = event
                case ReasoningDelta(text):
                    self._reasoning += text
                case ContentDelta(text):
                    self._content += text
                case ToolCallDelta(index, _, name, arguments):
                    while len(self._calling) <= index:
                        self._calling.append(("", ""))
                    known = self._calling[index]
                    self._calling[index] = (known[0] or name, known[1] + arguments)
                case Done(reply):
                    self._said.append(
                        Said(reply.reasoning, reply.content, meter=reply.meter, hints=reply.hints)
                    )
                    self._reasoning = self._content = ""
                    self._progress = None
                    self._calling = [(call.name, call.arguments) for call in reply.tool_calls]
                case _:
                    self._said[-1] = replace(self._said[-1], calls=(*self._said[-1].calls, event))
                    self._calling = self._calling[1:]

    @property
    def turn(self) -> Turn:
        """The turn with what has come of it."""
        with self._lock:
            now = Said(whole_text(self._reasoning), whole_text(self._content))
            said = (*self._said, now) if now.reasoning or now.content else tuple(self._said)
            return replace(self._asked, said=said)

    @property
    def calling(self) -> list[Calling]:
        """The calls that have no result yet."""
        with self._lock:
            return list(self._calling)

    @property
    def doing(self) -> str:  # noqa: PLR0911 - one way out for each state
        """What happens now, in words."""
        with self._lock:
            if self.cancel.is_set():
                return "Stopping …"
            if self._asking is not None:
                return f"Waiting for you: may {self._asking[0]} run?"
            if self._content and not self._calling:
                return "Answering …"
            if self._calling:
                return f"Using {self._calling[0][0]} …"
            if self._reasoning:
                return "Thinking …"
            if self._progress is not None:
                return f"Reading the prompt: {self._progress.processed:,} of {self._progress.total:,} tokens"
            return "Waiting for the first token …"

    # Permission

    @property
    def asking(self) -> tuple[str, dict[str, Any]] | None:
        """The dangerous tool that wants to run, with its arguments."""
        with self._lock:
            return self._asking

    def approve(self, tool: Tool, arguments: Mapping[str, Any]) -> bool:
        """Wait for the person to allow this very call; called by the tool loop."""
        with self._lock:
            self._answered.clear()
            self._allowed = False
            self._asking = (tool.name, dict(arguments))
        while not (self._answered.wait(0.05) or self.cancel.is_set()):
            pass
        with self._lock:
            self._asking = None
            return self._allowed and not self.cancel.is_set()

    def decide(self, *, allow: bool) -> None:
        """Tell what the person said."""
        with self._lock:
            if self._asking is not None:
                self._allowed = allow
                self._answered.set()
