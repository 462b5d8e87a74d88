"""Let the model act: ask, run the tools it calls, tell it what they gave, until it answers or a limit is met.

The loop is ours and not a library's. pydantic-ai-slim was tried first, and its agent does the basics well.
Against it: its ids could be mended only outside streaming; every limit and every stubborn model ends in an
exception that takes the trace with it; it runs a tool with ``"3"`` where the schema says integer; it speaks
through a client of its own, so Kimi's switches, the deadlines, the errors and the meter of
:class:`~kimi_nb.chat.Chat` would all exist twice; and its synchronous form refuses to run in a notebook.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kimi_nb.chat.events import Done, Event, Reply, ToolCall
from kimi_nb.chat.failures import EngineError
from kimi_nb.chat.functions import ArgumentsError, Tool, as_tool
from kimi_nb.chat.messages import as_messages, assistant_message, call_id, count_calls, plain_name
from kimi_nb.chat.running import cut_short, run_tool
from kimi_nb.chat.trace import CallRecord, Outcome, Step, Stopped, ToolRun
from kimi_nb.engine.secrets_out import environment_secrets, redactor
from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Mapping, Sequence

    from kimi_nb.chat.client import Chat
    from kimi_nb.chat.modes import Mode

__all__ = ["Limits", "tool_loop"]

_NUDGE = "Answer now, with what you have found out."


@dataclass(frozen=True)
class Limits:
    """How far a loop may go.

    Attributes:
        max_steps: The most replies asked of the model.
        max_calls: The most tools run.
        deadline_s: The whole loop's limit in seconds.
        tool_timeout_s: One tool's limit in seconds, where the tool has none of its own.
        max_output_chars: The most the model is shown of one result.
        max_tokens: The most tokens of one reply; the engine's own limit when None.
        nudges: How often a model that returns nothing after its tools is asked to answer.
    """

    max_steps: int = 10
    max_calls: int = 50
    deadline_s: float = 600.0
    tool_timeout_s: float = 30.0
    max_output_chars: int = 16_000
    max_tokens: int | None = None
    nudges: int = 1

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_calls", "deadline_s", "tool_timeout_s", "max_output_chars"):
            if getattr(self, name) <= 0:
                raise UsageError(
                    "KNB622",
                    f"{name} is {getattr(self, name)}",
                    why="it must be above 0",
                    fix="Raise this limit.",
                )


def tool_loop(  # noqa: PLR0913 - all but the first three have a default, and are named in the call
    chat: Chat,
    messages: str | Sequence[Mapping[str, Any]],
    tools: Sequence[Any],
    *,
    mode: Mode | None = None,
    limits: Limits | None = None,
    allow: Collection[str] | None = None,
    approve: Callable[[Tool, Mapping[str, Any]], bool] | None = None,
    on_event: Callable[[Event | CallRecord], object] | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> ToolRun:
    """Return what the model answered after using ``tools``, with the whole trace.

    A tool runs only if it was declared here, is allowed, is approved where it is dangerous, and its arguments
    fit its schema exactly. Everything else is told to the model, which may correct itself. Failures of the
    engine end the loop and are told in the result; the loop itself raises only for wrong use.

    Args:
        chat: Who is asked.
        messages: The question, or a conversation.
        tools: What :func:`~kimi_nb.chat.as_tool` takes.
        mode: ``thinking`` or ``instant``.
        limits: How far to go; see :class:`Limits`.
        allow: Names of the tools that may run; all when None.
        approve: Asked before each call of a dangerous tool, with its checked arguments; without it, none
            runs.
        on_event: Called with each event of the stream and each finished call, for showing them live.
        cancel: Set it from any thread to end the loop at once, while the engine answers or a tool runs.
        options: Passed on to :meth:`Chat.stream <kimi_nb.chat.Chat.stream>`.

    Raises:
        UsageError: A tool cannot be declared, two have one name, or the conversation is malformed.
    """
    limits = limits or Limits()
    loop = _Loop(chat, tools, limits, allow=allow, approve=approve, on_event=on_event, cancel=cancel)
    options = {"mode": mode, "max_tokens": limits.max_tokens} | options
    return loop.run(as_messages(messages), options)


class _Loop:
    def __init__(
        self,
        chat: Chat,
        tools: Sequence[Any],
        limits: Limits,
        *,
        allow: Collection[str] | None,
        approve: Callable[[Tool, Mapping[str, Any]], bool] | None,
        on_event: Callable[[Event | CallRecord], object] | None,
        cancel: threading.Event | None,
    ) -> None:
        self._chat = chat
        self._tools: dict[str, Tool] = {}
        for each in map(as_tool, tools):
            if self._tools.setdefault(each.name, each) is not each:
                raise UsageError(
                    "KNB620",
                    f"two tools are called {each.name}",
                    why="names must differ",
                    fix="Rename one of them.",
                )
        self._limits = limits
        self._allow = allow
        self._approve = approve
        self._tell = on_event or (lambda _event: None)
        self._cancel = cancel
        # What a tool gives back goes to the model, and into the trace: neither is a place for a key.
        self._hide = redactor(environment_secrets() | {chat.engine.api_key})
        self._ran = 0
        self._deadline = time.monotonic() + limits.deadline_s

    def run(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> ToolRun:
        start = time.monotonic()
        steps: list[Step] = []
        answer: str | None = None
        error: EngineError | None = None
        stopped: Stopped | None = None
        nudges = self._limits.nudges
        while stopped is None:
            if self._cancelled():
                stopped = "cancelled"
            elif len(steps) == self._limits.max_steps:
                stopped = "max_steps"
            elif self._left() <= 0:
                stopped = "deadline"
            elif self._ran >= self._limits.max_calls:
                stopped = "max_calls"
            if stopped is not None:
                break
            try:
                reply = self._ask(messages, options)
            except EngineError as failure:
                error = failure
                steps.append(Step(len(steps) + 1, failure.partial))
                late = failure.id == "KNB609" and self._left() <= 0
                stopped = "cancelled" if failure.id == "KNB625" else "deadline" if late else "engine_error"
                break
            calls = self._mended(reply, count_calls(messages))
            messages.append(assistant_message(reply, calls))
            if not calls and not reply.content.strip() and reply.finish_reason == "stop" and nudges > 0:
                # Some versions think after a tool's result and then stop without a word.
                nudges -= 1
                messages.append({"role": "user", "content": _NUDGE})
                steps.append(Step(len(steps) + 1, reply, nudged=True))
                continue
            records = tuple(
                self._call(call, sent) for call, sent in zip(calls, reply.tool_calls, strict=True)
            )
            messages.extend(
                {"role": "tool", "tool_call_id": record.id, "content": record.output} for record in records
            )
            steps.append(Step(len(steps) + 1, reply, records))
            if not calls:
                answer = reply.content if reply.content.strip() else None
                stopped = "answered" if answer else "no_answer"
        return ToolRun(
            answer=answer,
            stopped=stopped,
            steps=tuple(steps),
            messages=messages,
            seconds=time.monotonic() - start,
            error=error.as_dict() if error else None,
        )

    def _cancelled(self) -> bool:
        return self._cancel is not None and self._cancel.is_set()

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _ask(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> Reply:
        declared = [tool for tool in self._tools.values() if self._allow is None or tool.name in self._allow]
        deadline_s = max(self._left(), 0.001)
        options = {**options, "tools": declared, "deadline_s": deadline_s, "cancel": self._cancel}
        with closing(self._chat.stream(messages, **options)) as events:
            for event in events:
                self._tell(event)
                if isinstance(event, Done):
                    return event.reply
        raise AssertionError("a stream ends with Done or with an error")

    @staticmethod
    def _mended(reply: Reply, first: int) -> list[ToolCall]:
        """Give every call the id that Kimi was trained on, whatever the engine made of it; no two alike."""
        names = [plain_name(call.name) for call in reply.tool_calls]
        return [
            replace(call, id=call_id(name, first + offset), name=name)
            for offset, (call, name) in enumerate(zip(reply.tool_calls, names, strict=True))
        ]

    def _call(self, call: ToolCall, sent: ToolCall) -> CallRecord:
        outcome, output, seconds = self._decide(call)
        # Hidden before it is cut, so that no half of a secret is left at the cut.
        shown, missing = cut_short(self._hide(output), self._limits.max_output_chars)
        record = CallRecord(
            id=call.id,
            name=call.name,
            arguments=self._hide(call.arguments),
            outcome=outcome,
            output=shown,
            truncated_chars=missing,
            seconds=seconds,
            sent_id=sent.id if sent.id != call.id else None,
        )
        self._tell(record)
        return record

    def _decide(self, call: ToolCall) -> tuple[Outcome, str, float]:  # noqa: PLR0911 - one way out for each outcome
        tool = self._tools.get(call.name)
        if tool is None:
            names = ", ".join(sorted(self._tools)) or "none"
            return "unknown_tool", f"there is no tool {call.name}; there are: {names}", 0.0
        if self._allow is not None and tool.name not in self._allow:
            return "not_allowed", f"{tool.name} may not be used here", 0.0
        if self._cancelled():
            return "cancelled", "not run: the person ended this", 0.0
        if self._ran >= self._limits.max_calls or self._left() <= 0:
            return (
                "over_limit",
                "not run: the limit of this conversation is reached; answer with what you have",
                0.0,
            )
        try:
            arguments = tool.check(call.arguments)
        except ArgumentsError as error:
            return (
                "invalid_arguments",
                f"{error}. Call {tool.name} again with arguments that fit its schema.",
                0.0,
            )
        if tool.dangerous and not (self._approve and self._approve(tool, arguments)):
            if self._cancelled():
                return "cancelled", "not run: the person ended this", 0.0
            return "refused", f"the person did not approve this call of {tool.name}", 0.0
        self._ran += 1
        limit = tool.timeout_s if tool.timeout_s is not None else self._limits.tool_timeout_s
        return run_tool(tool, arguments, max(min(limit, self._left()), 0.0), self._cancel)
