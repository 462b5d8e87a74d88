"""Put a reply together from the chunks of a stream, and see what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kimi_nb.chat.events import (
    ContentDelta,
    PromptProgress,
    ReasoningDelta,
    Reply,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from kimi_nb.chat.messages import whole_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kimi_nb.chat.events import Event
    from kimi_nb.chat.meter import Meter
    from kimi_nb.chat.modes import Mode

__all__ = ["Draft"]


class _Call:
    def __init__(self) -> None:
        self.id = self.name = ""
        self.arguments: list[str] = []


class Draft:
    """A reply in the making.

    Args:
        mode: The mode that was asked for.
        model: The model's name until the engine gives its own.
        meter: Started just before the request was sent.
    """

    def __init__(self, mode: Mode, model: str, meter: Meter) -> None:
        self.finish_reason: str | None = None
        self._mode = mode
        self._model = model
        self._meter = meter
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[_Call] = []
        self._by_index: dict[int, int] = {}
        self._usage = Usage()
        self._timings: dict[str, float] = {}

    @property
    def begun(self) -> bool:
        """Whether anything of the answer has arrived."""
        return bool(self._content or self._reasoning or self._calls)

    def add(self, chunk: dict[str, Any]) -> Iterator[Event]:
        """Take in one chunk, as JSON holds it, and yield what it brings; what is malformed is left out."""
        self._model = _text(chunk.get("model")) or self._model
        if timings := _mapping(chunk.get("timings")):
            self._timings = {name: value for name, value in timings.items() if isinstance(value, int | float)}
        self._count(chunk.get("usage"))
        if progress := _mapping(chunk.get("prompt_progress")):
            known = (progress.get(name) for name in ("processed", "total", "cache"))
            yield PromptProgress(*(value if isinstance(value, int) else 0 for value in known))
        for choice in map(_mapping, _list(chunk.get("choices"))[:1]):
            finished = _text(choice.get("finish_reason"))
            self.finish_reason = finished or self.finish_reason
            # Moonshot's API puts the usage here.
            self._count(choice.get("usage"))
            yield from self._take(_mapping(choice.get("delta")))
            if finished:
                self._meter.finish()

    def _take(self, delta: dict[str, Any]) -> Iterator[Event]:
        # vLLM renamed reasoning_content to reasoning, and for a while sent both.
        if reasoning := _text(delta.get("reasoning_content")) or _text(delta.get("reasoning")):
            self._meter.token(answer=False)
            self._reasoning.append(reasoning)
            yield ReasoningDelta(reasoning)
        if content := _text(delta.get("content")):
            self._meter.token(answer=True)
            self._content.append(content)
            yield ContentDelta(content)
        for piece in map(_mapping, _list(delta.get("tool_calls"))):
            self._meter.token(answer=True)
            yield self._take_call(piece)

    def _take_call(self, piece: dict[str, Any]) -> ToolCallDelta:
        function = _mapping(piece.get("function"))
        id_, name = _text(piece.get("id")), _text(function.get("name"))
        arguments = _text(function.get("arguments"))
        index = piece.get("index")
        key = index if isinstance(index, int) else 0
        place = self._by_index.get(key)
        # Some servers give every call the index 0: a new id with a new name is a new call all the same.
        if place is None or (id_ and name and self._calls[place].name):
            place = self._by_index[key] = len(self._calls)
            self._calls.append(_Call())
        call = self._calls[place]
        call.id = call.id or id_
        call.name = call.name or name
        call.arguments.append(arguments)
        return ToolCallDelta(place, id_, name, arguments)

    def _count(self, usage: object) -> None:
        if not (fields := _mapping(usage)):
            return
        cached = _mapping(fields.get("prompt_tokens_details")).get("cached_tokens")
        if cached is None:  # Moonshot's API says it here
            cached = fields.get("cached_tokens")
        given = (fields.get("prompt_tokens"), fields.get("completion_tokens"), cached)
        self._usage = Usage(*(value if isinstance(value, int) else None for value in given))

    def reply(self) -> Reply:
        """Return what has arrived so far as a reply."""
        content, reasoning = whole_text("".join(self._content)), whole_text("".join(self._reasoning))
        calls = tuple(
            ToolCall(whole_text(call.id), whole_text(call.name), whole_text("".join(call.arguments)))
            for call in self._calls
        )
        return Reply(
            content=content,
            reasoning=reasoning,
            tool_calls=calls,
            finish_reason=self.finish_reason,
            usage=self._usage,
            meter=self._meter.reading(self._usage.completion_tokens, self._timings, calls=bool(calls)),
            mode=self._mode,
            model=self._model,
            hints=tuple(self._hints(content, reasoning)) if self.finish_reason else (),
        )

    def _hints(self, content: str, reasoning: str) -> Iterator[str]:
        if not content.strip() and not self._calls:
            if self.finish_reason == "length":
                spent = "thinking" if reasoning else "nothing that can be shown"
                yield (
                    f"KNB610: the answer is empty because max_tokens was spent on {spent}: raise max_tokens "
                    "(thinking alone can take thousands), or use mode='instant'"
                )
            else:
                yield "KNB610: the answer is empty: the model stopped after thinking; ask it to answer now"
        if self._mode == "instant" and reasoning:
            yield (
                "KNB616: there is thinking although instant mode was asked for: this engine's chat template "
                "does not know Kimi's switch, chat_template_kwargs {'thinking': false}"
            )
        if "<|tool_call_begin|>" in content or "<|tool_calls_section_begin|>" in content:
            yield (
                "KNB617: a tool call stands in the text: declare the tools in the request, and do not set "
                "tool_choice='none'"
            )
        if "<|im_end|>" in content:
            yield "KNB618: the end mark stands in the text: start llama-server without --special"
        if "<think>" in content or "</think>" in content:
            yield (
                "KNB619: the thinking stands in the answer: start vLLM with --reasoning-parser kimi_k2, and "
                "llama-server with --reasoning-format auto"
            )


# The engine may send anything that JSON can hold.
def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
