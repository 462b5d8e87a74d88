"""A conversation as a person sees it and as an engine is sent it: turns, as plain data that can be kept."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - pydantic reads the hints when a file is loaded
from dataclasses import dataclass, replace
from typing import Any, Literal

from kimi_nb.chat.messages import assistant_message, whole_text
from kimi_nb.chat.meter import Reading  # noqa: TC001 - as above
from kimi_nb.chat.trace import CallRecord, Step, Stopped, ToolRun

__all__ = ["Conversation", "Said", "Turn", "TurnState", "said_in", "turn_of"]

TurnState = Literal["under way"] | Stopped
"""``under way`` is what a turn stays when nobody lived to see its end."""

_TITLE_CHARS = 60


@dataclass(frozen=True)
class Said:
    """One reply within a turn, with the calls that it asked for and what they gave.

    Attributes:
        reasoning: The thinking.
        content: The text.
        calls: What became of each call.
        meter: What was measured; None while it comes in.
        hints: What looks wrong with the reply, each with an id.
    """

    reasoning: str = ""
    content: str = ""
    calls: tuple[CallRecord, ...] = ()
    meter: Reading | None = None
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Turn:
    """A question and all that came of it.

    Attributes:
        asked: The question.
        said: The replies, several where tools were used.
        messages: What the engine is sent of them with the next question; empty when nothing of use came.
        state: How it ended.
        error: The engine's failure, as the fields of its error.
        earlier: Answers to the same question that were asked for anew, oldest first.
    """

    asked: str
    said: tuple[Said, ...] = ()
    messages: tuple[dict[str, Any], ...] = ()
    state: TurnState = "under way"
    error: dict[str, str] | None = None
    earlier: tuple[Turn, ...] = ()

    def again(self) -> Turn:
        """Return the same question unanswered, with this answer among the earlier ones."""
        kept = (*self.earlier, replace(self, earlier=())) if self.said else self.earlier
        return Turn(self.asked, earlier=kept)


@dataclass(frozen=True)
class Conversation:
    """Turns, and what was said before them.

    Attributes:
        id: Its name in the history; empty until it is kept.
        revision: How often it was kept.
        changed: When it was kept last, in seconds since 1970.
        model: Who was asked last.
        system: The system prompt; empty for the model's own.
        turns: What was asked and answered.
    """

    id: str = ""
    revision: int = 0
    changed: float = 0.0
    model: str = ""
    system: str = ""
    turns: tuple[Turn, ...] = ()

    @property
    def title(self) -> str:
        """The beginning of its first question."""
        line = " ".join(self.turns[0].asked.split()) if self.turns else ""
        return line if len(line) <= _TITLE_CHARS else line[: _TITLE_CHARS - 1] + "…"

    def messages(self) -> list[dict[str, Any]]:
        """Return what an engine is sent to answer the last turn.

        A turn of which nothing came is left out: engines want a question answered before the next.
        """
        found: list[dict[str, Any]] = []
        if self.system.strip():
            found.append({"role": "system", "content": self.system})
        for turn in self.turns[:-1]:
            if turn.messages:
                found += [{"role": "user", "content": turn.asked}, *map(dict, turn.messages)]
        if self.turns:
            found.append({"role": "user", "content": self.turns[-1].asked})
        return found

    def asking(self, question: str) -> Conversation:
        """Return it with a question added."""
        return replace(self, turns=(*self.turns, Turn(whole_text(question))))

    def before(self, number: int) -> Conversation:
        """Return the turns before number ``number`` as a conversation of its own, for the history too."""
        return replace(self, id="", revision=0, turns=self.turns[:number])

    def with_last(self, turn: Turn) -> Conversation:
        """Return it with another last turn."""
        return replace(self, turns=(*self.turns[:-1], turn))


def said_in(steps: Sequence[Step]) -> tuple[Said, ...]:
    """Return the steps of a tool loop as a person sees them."""
    return tuple(
        Said(step.reply.reasoning, step.reply.content, step.calls, step.reply.meter, step.reply.hints)
        for step in steps
        if step.reply is not None
    )


def turn_of(asked: Turn, run: ToolRun, sent: int) -> Turn:
    """Return a turn with what a tool loop made of it.

    Args:
        asked: The turn as it was begun.
        run: The finished loop.
        sent: How many messages the loop began with.
    """
    messages = tuple(run.messages[sent:])
    last = run.steps[-1].reply if run.steps else None
    if run.stopped in {"cancelled", "engine_error", "deadline"} and last is not None and last.content.strip():
        partial = assistant_message(last, ())
        if not messages or messages[-1] != partial:
            messages = (*messages, partial)
    if all(message["role"] == "assistant" and not _says(message) for message in messages):
        messages = ()
    return replace(asked, said=said_in(run.steps), messages=messages, state=run.stopped, error=run.error)


def _says(message: dict[str, Any]) -> bool:
    return bool(str(message.get("content") or "").strip() or message.get("tool_calls"))
