"""What a tool loop did, step by step: plain data that JSON can hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from kimi_nb.chat.events import Reply

__all__ = ["CallRecord", "Outcome", "Step", "Stopped", "ToolRun"]

Outcome = Literal[
    "ok",
    "invalid_arguments",
    "unknown_tool",
    "not_allowed",
    "refused",
    "timeout",
    "raised",
    "over_limit",
    "cancelled",
]
Stopped = Literal["answered", "no_answer", "max_steps", "max_calls", "deadline", "engine_error", "cancelled"]


@dataclass(frozen=True)
class CallRecord:
    """One tool call and what became of it.

    Attributes:
        id: The call's id, ``functions.NAME:INDEX``, counted over the whole conversation.
        name: The tool's name.
        arguments: The arguments' JSON text, as the model wrote it.
        outcome: ``ok`` only if the tool ran with valid arguments and returned.
        output: What the model was told.
        truncated_chars: How many characters of the output the model was not shown.
        seconds: How long the tool ran.
        sent_id: The id the engine had given, where it differed.
    """

    id: str
    name: str
    arguments: str
    outcome: Outcome
    output: str
    truncated_chars: int = 0
    seconds: float = 0.0
    sent_id: str | None = None


@dataclass(frozen=True)
class Step:
    """One reply of the model and the calls it asked for; ``reply`` is None when the engine gave none."""

    number: int
    reply: Reply | None
    calls: tuple[CallRecord, ...] = ()
    nudged: bool = False


@dataclass(frozen=True)
class ToolRun:
    """A finished tool loop.

    Attributes:
        answer: The model's last text; None unless ``stopped`` is ``answered``.
        stopped: Why the loop ended.
        steps: Everything that happened.
        messages: The whole conversation, to carry on with.
        seconds: How long it took.
        error: The engine's failure, as the fields of its error.
    """

    answer: str | None
    stopped: Stopped
    steps: tuple[Step, ...]
    messages: list[dict[str, Any]]
    seconds: float
    error: dict[str, str] | None = field(default=None)

    @property
    def calls(self) -> tuple[CallRecord, ...]:
        """Every call, in order."""
        return tuple(call for step in self.steps for call in step.calls)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = []
        for step in self.steps:
            speed = f" ({step.reply.meter.line()})" if step.reply else ""
            lines.append(f"step {step.number}{speed}")
            if step.reply and step.reply.reasoning:
                lines.append(f"  thought  {_one_line(step.reply.reasoning)}")
            if step.reply and step.reply.content:
                lines.append(f"  said     {_one_line(step.reply.content)}")
            for call in step.calls:
                lines.extend(
                    [
                        f"  called   {call.id} {_one_line(call.arguments)}",
                        f"  {call.outcome:<8} {_one_line(call.output)} ({call.seconds:.2f} s)",
                    ]
                )
            if step.nudged:
                lines.append("  nudged   asked it to answer")
        why = f": {self.error['id']}: {self.error['what']}" if self.error else ""
        return "\n".join([*lines, f"stopped: {self.stopped} after {self.seconds:.2f} s{why}"])


def _one_line(text: str, width: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
